"""Leases: processes and machines that share an output folder never render the same clips twice.

    OUT/.claims/KEY.0    KEY.1 …

A lease is a file that only one process can create, and whose time it renews. The newest lease of a
key counts. If its owner is dead, as seen on the owner's machine, or has not renewed it for a
minute, another process can create the next lease, again exclusively. This needs no file locks.
Times are compared with that of a file just written to the same folder, so clocks may differ. Other
files in the folder, such as those that some systems create in every folder, are not leases, and are
kept.
"""

import os
import re
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import orjson

from pvtool_core.errors import InputRefused
from pvtool_core.store.liveness import boot_id, process_facts, process_lives
from pvtool_core.untrusted import SMALL_BYTES, exists, is_file, read_regular

FOLDER = ".claims"
RENEWED_SECONDS = 10.0
EXPIRED_SECONDS = 60.0
_PROBE = ".now-"
_LEASE = re.compile(r"(?P<key>.+)\.[0-9]{1,18}", re.DOTALL)
_BEGIN = b'{"pid":'


class Leases:
    """The leases of this process in a folder, renewed while the context is open.

    They are released at its end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._me = orjson.dumps({**process_facts(os.getpid()), "namespace": _process_namespace()})
        self._held: dict[str, Path] = {}
        self._turn = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def acquire(self, key: str) -> bool:
        """Try to lease `key`; return False if another process holds it.

        Call `release` in the end.
        """
        newest = self._newest(key)
        if newest is not None and not self._expired(newest):
            return False
        mine = self._next(key, newest)
        try:
            descriptor = self._create(mine)
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._me)
        except BaseException:  # an empty lease, possible on a full disk, would count
            mine.unlink()
            raise
        with self._turn:
            self._held[key] = mine
        return True

    def _next(self, key: str, newest: Path | None) -> Path:
        """Return the first unused path after that of the newest lease.

        Paths can be taken by other things, such as a folder.
        """
        number = 0 if newest is None else _number(newest) + 1
        while exists(self._folder / f"{key}.{number}") and not _may_be_lease(
            self._folder / f"{key}.{number}"
        ):
            number += 1
        return self._folder / f"{key}.{number}"

    def _create(self, lease: Path) -> int:
        while True:
            try:
                return os.open(lease, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileNotFoundError:  # another process, the last one, removed the folder
                self._make_folder()

    def _make_folder(self) -> None:
        """Create the folder, which other processes may create and remove at any time.

        `mkdir(exist_ok=True)` checks twice, and fails if the folder is removed in between.
        """
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            self._folder.mkdir()
        with suppress(FileNotFoundError):  # it was removed again
            if not stat.S_ISDIR(self._folder.lstat().st_mode):
                raise InputRefused(
                    f"{self._folder} is not a folder.",
                    "Remove it; the next render creates it again.",
                )

    def holds(self, key: str) -> bool:
        """Return whether this process still holds the lease.

        A process suspended for over a minute may have lost it.
        """
        return self._newest(key) == self._held.get(key)

    def release(self, key: str) -> None:
        """Release a lease, so that other processes can acquire it."""
        with self._turn:
            mine = self._held.pop(key)
        for lease in self._found(key):  # oldest first, so that none of them becomes the newest
            if _number(lease) <= _number(mine):
                lease.unlink(missing_ok=True)

    def clear_expired(self) -> None:
        """Remove the files of dead processes: leases that no process needs any more."""
        for path in self._entries():
            lease = _LEASE.fullmatch(path.name)
            if path.name.startswith(_PROBE):
                if is_file(path):
                    path.unlink(missing_ok=True)
            elif lease and _may_be_lease(path) and self.acquire(lease["key"]):
                self.release(lease["key"])

    def _newest(self, key: str) -> Path | None:
        return next(reversed(self._found(key)), None)

    def _found(self, key: str) -> list[Path]:
        """Return the leases of a key by number, without other files and folders."""
        named = [
            path
            for path in self._entries()
            if (name := _LEASE.fullmatch(path.name)) and name["key"] == key
        ]
        return sorted(filter(_may_be_lease, named), key=_number)

    def _entries(self) -> list[Path]:
        try:
            return [Path(entry) for entry in os.scandir(self._folder)]
        except FileNotFoundError:  # another process, the last one, removed the folder
            return []

    def _expired(self, lease: Path) -> bool:
        content = b""
        try:
            age = self._now() - lease.lstat().st_mtime
            with suppress(PermissionError):  # of another user, unreadable
                content = read_regular(lease, SMALL_BYTES)
        except FileNotFoundError:  # released meanwhile: the next call can acquire it
            return False
        return abs(age) > EXPIRED_SECONDS or _is_dead(content)

    def _now(self) -> float:
        """Return the time of the clock that sets the times of the lease files."""
        probe = self._folder / f"{_PROBE}{socket.gethostname()}-{os.getpid()}"
        with probe.open("wb") as file:
            try:
                return os.fstat(file.fileno()).st_mtime
            finally:
                probe.unlink(missing_ok=True)  # another process may be clearing

    def _renew(self) -> None:
        while not self._done.wait(RENEWED_SECONDS):
            with self._turn:
                held = list(self._held.values())
            for lease in held:
                with suppress(OSError):  # removed by hand, or the file server does not respond
                    os.utime(lease)

    def __enter__(self) -> Self:
        self._make_folder()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        for key in list(self._held):
            self.release(key)
        with suppress(OSError):  # used by other processes
            self._folder.rmdir()


def _process_namespace() -> str:
    """Return the PID namespace: containers may share host name and boot, but not processes."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _number(lease: Path) -> int:
    return int(lease.name.rpartition(".")[2])


def _may_be_lease(path: Path) -> bool:
    """Return whether the file is a lease, possibly still being written."""
    try:
        content = read_regular(path, SMALL_BYTES)
    except PermissionError:  # of another user
        return is_file(path)
    except OSError:
        return False
    return content[: len(_BEGIN)] == _BEGIN[: len(content)]


def _is_dead(content: bytes) -> bool:
    """Return whether the owner is invalid, or a process of this machine that no longer runs."""
    try:
        owner: Any = orjson.loads(content)
    except orjson.JSONDecodeError:  # being written
        return False
    try:
        place = owner["host"], owner["boot"], owner["namespace"]
        pid, started, booted = (
            int(owner["pid"]),
            float(owner["started"]),
            float(owner.get("booted", 0)),
        )
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError):
        return True
    here = (socket.gethostname(), boot_id(), _process_namespace())
    return place == here and not process_lives(pid, started, booted)
