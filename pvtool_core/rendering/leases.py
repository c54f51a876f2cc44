"""Claims: whoever makes clips says so first, so that processes and machines at work on one folder never do so twice.

    OUT/.claims/KEY.0    KEY.1 …

A claim is a file that only one process can have made, and whose time it renews. The newest of a key counts. One whose
owner is dead, as seen on its own machine, or that has not been renewed for a minute, may be followed by the next:
that, too, only one process can make. So no lock is needed, and no file system that knows locks; times are compared
with that of a file written just now to the same folder, so that no two clocks need agree. What else lies there, such as
the files that some systems put into every folder, is no claim, and stays.
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

RENEWED_SECONDS = 10.0
EXPIRED_SECONDS = 60.0
_PROBE = ".now-"
_CLAIM = re.compile(r"(?P<key>.+)\.[0-9]{1,18}", re.DOTALL)
_BEGIN = b'{"pid":'


class Leases:
    """The claims of this process in a folder, renewed as long as the context is open, and given back at its end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._me = orjson.dumps({**process_facts(os.getpid()), "namespace": _process_namespace()})
        self._held: dict[str, Path] = {}
        self._turn = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def take(self, key: str) -> bool:
        """Whether the claim is ours now; it is not where another process holds it. Call `give_back` in the end."""
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
        except (
            BaseException
        ):  # on a full disk an empty claim has room, and would count as ours for a minute
            mine.unlink()
            raise
        with self._turn:
            self._held[key] = mine
        return True

    def _next(self, key: str, newest: Path | None) -> Path:
        """The first name after the newest claim's that nothing else has taken, such as a folder."""
        number = 0 if newest is None else _number(newest) + 1
        while exists(self._folder / f"{key}.{number}") and not _may_be_claim(
            self._folder / f"{key}.{number}"
        ):
            number += 1
        return self._folder / f"{key}.{number}"

    def _create(self, claim: Path) -> int:
        while True:
            try:
                return os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileNotFoundError:  # another process was the last, and took the folder with it
                self._make_folder()

    def _make_folder(self) -> None:
        """It may come and go at any moment; `mkdir(exist_ok=True)` looks twice, and fails if it goes in between."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            self._folder.mkdir()
        with suppress(FileNotFoundError):  # it is gone again
            if not stat.S_ISDIR(self._folder.lstat().st_mode):
                raise InputRefused(
                    f"{self._folder} is no folder of its own.", "Remove it; it is made anew."
                )

    def is_ours(self, key: str) -> bool:
        """Whether nobody has followed us, as happens to a process that was held up for more than a minute."""
        return self._newest(key) == self._held.get(key)

    def give_back(self, key: str) -> None:
        """Let others have it."""
        with self._turn:
            mine = self._held.pop(key)
        for claim in self._found(
            key
        ):  # the older ones first, so that none of them is ever the newest
            if _number(claim) <= _number(mine):
                claim.unlink(missing_ok=True)

    def clear_up(self) -> None:
        """Remove what the dead have left: claims of what is made, which nobody takes any more."""
        for path in self._entries():
            claim = _CLAIM.fullmatch(path.name)
            if path.name.startswith(_PROBE):
                if is_file(path):
                    path.unlink(missing_ok=True)
            elif claim and _may_be_claim(path) and self.take(claim["key"]):
                self.give_back(claim["key"])

    def _newest(self, key: str) -> Path | None:
        return next(reversed(self._found(key)), None)

    def _found(self, key: str) -> list[Path]:
        """The claims of that key, by number; a file or folder that only has such a name is none."""
        named = [
            path
            for path in self._entries()
            if (name := _CLAIM.fullmatch(path.name)) and name["key"] == key
        ]
        return sorted(filter(_may_be_claim, named), key=_number)

    def _entries(self) -> list[Path]:
        try:
            return [Path(entry) for entry in os.scandir(self._folder)]
        except FileNotFoundError:  # gone with another process that was the last
            return []

    def _expired(self, claim: Path) -> bool:
        content = b""
        try:
            age = self._now() - claim.lstat().st_mtime
            with suppress(PermissionError):  # another user's, who alone may see whose process it is
                content = read_regular(claim, SMALL_BYTES)
        except FileNotFoundError:  # given back meanwhile: whoever asks again will find it free
            return False
        return abs(age) > EXPIRED_SECONDS or _is_dead(content)

    def _now(self) -> float:
        """The time by the clock that the claims' own times come from."""
        probe = self._folder / f"{_PROBE}{socket.gethostname()}-{os.getpid()}"
        with probe.open("wb") as file:
            try:
                return os.fstat(file.fileno()).st_mtime
            finally:
                probe.unlink(missing_ok=True)  # somebody may be clearing up

    def _renew(self) -> None:
        while not self._done.wait(RENEWED_SECONDS):
            with self._turn:
                held = list(self._held.values())
            for claim in held:
                with suppress(
                    OSError
                ):  # somebody cleared the folder, or it cannot be reached just now
                    os.utime(claim)

    def __enter__(self) -> Self:
        self._make_folder()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        for key in list(self._held):
            self.give_back(key)
        with suppress(OSError):  # others are at work
            self._folder.rmdir()


def _process_namespace() -> str:
    """Containers of one machine may share its name and boot, but do not see each other's processes."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _number(claim: Path) -> int:
    return int(claim.name.rpartition(".")[2])


def _may_be_claim(path: Path) -> bool:
    """Whether it is a file that a process writes to say that it is at work, or has just begun to write."""
    try:
        content = read_regular(path, SMALL_BYTES)
    except PermissionError:  # another user's
        return is_file(path)
    except OSError:
        return False
    return content[: len(_BEGIN)] == _BEGIN[: len(content)]


def _is_dead(content: bytes) -> bool:
    """Whether the owner that a claim tells of would be among the processes that we see, and is not; or is nobody."""
    try:
        owner: Any = orjson.loads(content)
    except orjson.JSONDecodeError:  # only just begun to be written
        return False
    try:
        told = owner["host"], owner["boot"], owner["namespace"]
        pid, started, booted = (
            int(owner["pid"]),
            float(owner["started"]),
            float(owner.get("booted", 0)),
        )
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError):
        return True
    here = (socket.gethostname(), boot_id(), _process_namespace())
    return told == here and not process_lives(pid, started, booted)
