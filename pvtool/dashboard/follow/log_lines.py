"""Index of the lines of a growing file, so that files of any length are shown from disk."""

import os
from array import array
from collections.abc import Sequence
from pathlib import Path

from pvtool.dashboard.follow.tail import CHUNK_BYTES, Chunk, Tail
from pvtool.text import describe, plain
from pvtool_core.store.event_log import parse_lines
from pvtool_core.untrusted import open_regular

_FREQUENT_EVENTS = (b'"type": "step"', b'"type": "gpu"')
_TYPE_BYTES = 80
_MAX_CHARS = 2000


class LogLines:
    """Lines of events.jsonl (`events`) or of a plain log.

    The methods read files: call them in a thread.
    """

    def __init__(self, path: Path, *, events: bool) -> None:
        self.path = path
        self._events = events
        self._tail = Tail(path)
        self._starts = array("Q", [0])
        self._infrequent = array("Q")

    def extend(self) -> Chunk:
        """Index the next chunk of new lines. Raises OSError if the file is unreadable."""
        chunk = self._tail.read()
        if chunk.restarted:
            self._starts, self._infrequent = array("Q", [0]), array("Q")
        self._add(chunk)
        return chunk

    def _add(self, chunk: Chunk) -> None:
        end = chunk.start
        for line in chunk.lines.splitlines(keepends=True):
            if not (self._events and any(kind in line[:_TYPE_BYTES] for kind in _FREQUENT_EVENTS)):
                self._infrequent.append(len(self._starts) - 1)
            end += len(line)
            self._starts.append(end)

    def numbers(self, everything: bool) -> Sequence[int]:
        """Return the numbers of all lines, or of those without events of every step."""
        return range(len(self._starts) - 1) if everything else self._infrequent

    def texts(self, numbers: Sequence[int]) -> list[str]:
        """Return lines by number, formatted for display; empty lines if the file is missing."""
        try:
            descriptor = open_regular(self.path)
        except OSError:
            return [""] * len(numbers)
        try:
            return [self._text(descriptor, number) for number in numbers]
        finally:
            os.close(descriptor)

    def _text(self, descriptor: int, number: int) -> str:
        start, end = self._starts[number], self._starts[number + 1]
        line = os.pread(descriptor, min(end - start, CHUNK_BYTES), start)
        text = (
            " ".join(map(describe, parse_lines(line)))
            if self._events
            else line.decode(errors="replace")
        )
        return plain(text.rstrip().expandtabs())[:_MAX_CHARS]

    def find(self, text: str, numbers: Sequence[int], start: int, direction: int) -> int | None:
        """Return the index in `numbers` of the next line that contains `text`, ignoring case.

        The search begins at `start`, moves by `direction` (1 or -1) and wraps around.
        """
        wanted = text.lower()
        for done in range(0, len(numbers), 256):
            indices = [
                (start + direction * i) % len(numbers)
                for i in range(done, min(done + 256, len(numbers)))
            ]
            texts = self.texts([numbers[i] for i in indices])
            for index, line in zip(indices, texts, strict=True):
                if wanted in line.lower():
                    return index
        return None
