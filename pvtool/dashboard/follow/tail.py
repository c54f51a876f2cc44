"""Follows a file that another process appends to, also over a network: no notification is relied on, only reading."""

import os
from dataclasses import dataclass
from pathlib import Path

from pvtool_core.store.events import Event, parse_events
from pvtool_core.untrusted import open_regular

CHUNK_BYTES = 1 << 19


@dataclass(frozen=True)
class Chunk:
    """What is new in a file. `anew` if it is not the file that was read before; `more` if this was not all."""

    lines: bytes
    start: int
    anew: bool = False
    more: bool = False

    def events(self) -> list[Event]:
        return parse_events(self.lines)


class Tail:
    """Whole new lines at each reading; a half-written last line waits until it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        self._offset = 0

    def read(self) -> Chunk:
        """Read on, at most CHUNK_BYTES. A missing file is an empty one. Raises OSError if it cannot be read."""
        try:
            descriptor = open_regular(self._path)
        except FileNotFoundError:
            return self._begin(None, Chunk(b"", 0))
        try:
            facts = os.fstat(descriptor)
            identity = (facts.st_dev, facts.st_ino)
            if identity != self._file or facts.st_size < self._offset:
                chunk = self._begin(identity, _read(descriptor, 0))
            else:
                chunk = _read(descriptor, self._offset)
            self._offset = chunk.start + len(chunk.lines)
            return chunk
        finally:
            os.close(descriptor)

    def _begin(self, identity: tuple[int, int] | None, chunk: Chunk) -> Chunk:
        known, self._file, self._offset = self._offset > 0, identity, 0
        return Chunk(chunk.lines, chunk.start, anew=known, more=chunk.more)


def _read(descriptor: int, offset: int) -> Chunk:
    content = os.pread(descriptor, CHUNK_BYTES, offset)
    full = len(content) == CHUNK_BYTES
    end = content.rfind(b"\n") + 1
    if (
        full and not end
    ):  # no line of ours is as long; go past it, or we would wait for its end for ever
        end = len(content)
    return Chunk(content[:end], offset, more=full)
