"""Claims: whoever makes clips says so first, so that processes and machines at work on one folder never do so twice.

    OUT/.claims/KEY.0    KEY.1 …

A claim is a file that only one process can have made, and whose time it renews. The newest of a key counts. One whose
owner is dead, as seen on its own machine, or that has not been renewed for a minute, may be followed by the next:
that, too, only one process can make. So no lock is needed, and no file system that knows locks; times are compared
with that of a file written just now to the same folder, so that no two clocks need agree.
"""

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import orjson

from pvtool_core.runs import boot_id, process_facts, process_lives

RENEWED_SECONDS = 10.0
EXPIRED_SECONDS = 60.0
_PROBE = ".now-"


class Claims:
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
        number = -1 if newest is None else int(newest.suffix[1:])
        mine = self._folder / f"{key}.{number + 1}"
        try:
            descriptor = self._create(mine)
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._me)
        except BaseException:  # on a full disk an empty claim has room, and would count as ours for a minute
            mine.unlink()
            raise
        with self._turn:
            self._held[key] = mine
        return True

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

    def is_ours(self, key: str) -> bool:
        """Whether nobody has followed us, as happens to a process that was held up for more than a minute."""
        return self._newest(key) == self._held.get(key)

    def give_back(self, key: str) -> None:
        """Let others have it."""
        with self._turn:
            mine = self._held.pop(key)
        last = int(mine.suffix[1:])
        for number in range(last + 1):  # the older ones first, so that none of them is ever the newest
            (self._folder / f"{key}.{number}").unlink(missing_ok=True)

    def clear_up(self) -> None:
        """Remove what the dead have left: claims of what is made, which nobody takes any more."""
        for path in self._found("*"):
            if path.name.startswith(_PROBE):
                path.unlink(missing_ok=True)
            elif self.take(path.stem):
                self.give_back(path.stem)

    def _newest(self, key: str) -> Path | None:
        return max(self._found(f"{key}.*"), key=lambda path: int(path.suffix[1:]), default=None)

    def _found(self, pattern: str) -> list[Path]:
        try:
            return list(self._folder.glob(pattern))
        except FileNotFoundError:  # gone with another process that was the last
            return []

    def _expired(self, claim: Path) -> bool:
        try:
            age = self._now() - claim.stat().st_mtime
            content = claim.read_bytes()
        except FileNotFoundError:  # given back meanwhile: whoever asks again will find it free
            return False
        return age > EXPIRED_SECONDS or _is_dead(content)

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
                with suppress(OSError):  # somebody cleared the folder, or it cannot be reached just now
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


def _is_dead(content: bytes) -> bool:
    """Whether the owner that a claim tells of would be among the processes that we see, and is not."""
    try:
        owner: dict[str, Any] = orjson.loads(content)
    except orjson.JSONDecodeError:  # only just begun to be written
        return False
    here = (socket.gethostname(), boot_id(), _process_namespace())
    if (owner["host"], owner["boot"], owner["namespace"]) != here:
        return False
    return not process_lives(owner["pid"], owner["started"])
