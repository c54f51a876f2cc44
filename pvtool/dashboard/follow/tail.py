"""Follow a file that another process appends to, by reading, which also works on network drives."""

import os
from dataclasses import dataclass
from pathlib import Path

from pvtool_core.store.event_log import parse_lines
from pvtool_core.store.events import Event, parse_event
from pvtool_core.untrusted import open_regular

CHUNK_BYTES = 1 << 19


@dataclass(frozen=True)
class Chunk:
    """New lines of a file.

    `restarted` means that the file was truncated or replaced; `more` that more can be read.
    """

    lines: bytes
    start: int
    restarted: bool = False
    more: bool = False

    def events(self) -> list[Event]:
        """Return the events of the lines."""
        return list(map(parse_event, parse_lines(self.lines)))


class Tail:
    """Incremental reader of complete lines; an incomplete last line is read once it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        self._offset = 0

    def read(self) -> Chunk:
        """Read at most CHUNK_BYTES. A missing file counts as empty. Raises OSError."""
        try:
            descriptor = open_regular(self._path)
        except FileNotFoundError:
            return self._restart(None, Chunk(b"", 0))
        try:
            status = os.fstat(descriptor)
            identity = (status.st_dev, status.st_ino)
            if identity != self._file or status.st_size < self._offset:
                chunk = self._restart(identity, _read(descriptor, 0))
            else:
                chunk = _read(descriptor, self._offset)
            self._offset = chunk.start + len(chunk.lines)
            return chunk
        finally:
            os.close(descriptor)

    def _restart(self, identity: tuple[int, int] | None, chunk: Chunk) -> Chunk:
        restarted, self._file, self._offset = self._offset > 0, identity, 0
        return Chunk(chunk.lines, chunk.start, restarted=restarted, more=chunk.more)


def _read(descriptor: int, offset: int) -> Chunk:
    content = os.pread(descriptor, CHUNK_BYTES, offset)
    full = len(content) == CHUNK_BYTES
    end = content.rfind(b"\n") + 1
    if full and not end:  # no valid line is as long: skip it instead of waiting for its end
        end = len(content)
    return Chunk(content[:end], offset, more=full)
