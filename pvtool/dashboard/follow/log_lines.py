"""Index of the lines of a growing file, so that files of any length are shown from disk."""

import os
import re
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pvtool.dashboard.follow.event_text import LogLine, event_line, output_line
from pvtool.dashboard.follow.tail import CHUNK_BYTES, Chunk, Tail
from pvtool.text import plain
from pvtool_core.store.event_log import parse_lines
from pvtool_core.untrusted import open_regular

_FREQUENT_EVENTS = (b'"type": "step"', b'"type": "gpu"')
_TYPE_BYTES = 80
_COUNTED_STAGE = re.compile(rb'"type": "stage", "stage": ("[^"]*"), "done": \d')
_MAX_CHARS = 2000
_EMPTY = LogLine("")


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
        self._stage = b""  # of the last infrequent line, if it counts items

    def extend(self) -> Chunk:
        """Index the next chunk of new lines. Raises OSError if the file is unreadable."""
        chunk = self._tail.read()
        if chunk.restarted:
            self._starts, self._infrequent, self._stage = array("Q", [0]), array("Q"), b""
        self._add(chunk)
        return chunk

    def _add(self, chunk: Chunk) -> None:
        end = chunk.start
        for line in chunk.lines.splitlines(keepends=True):
            if not (self._events and any(kind in line[:_TYPE_BYTES] for kind in _FREQUENT_EVENTS)):
                self._add_infrequent(line)
            end += len(line)
            self._starts.append(end)

    def _add_infrequent(self, line: bytes) -> None:
        """Add the next line; it replaces the count of items before it in the same stage."""
        found = _COUNTED_STAGE.search(line) if self._events else None
        stage = found[1] if found else b""
        if stage and stage == self._stage:
            self._infrequent.pop()
        self._infrequent.append(len(self._starts) - 1)
        self._stage = stage

    def numbers(self, everything: bool) -> Sequence[int]:
        """Return the numbers of all lines, or of those without events of every step.

        The latter have one line for each counted stage, with the newest count.
        """
        return range(len(self._starts) - 1) if everything else self._infrequent

    def texts(self, numbers: Sequence[int]) -> list[LogLine]:
        """Return lines by number, formatted for display; empty lines if the file is missing."""
        try:
            descriptor = open_regular(self.path)
        except OSError:
            return [_EMPTY] * len(numbers)
        try:
            return [self._text(descriptor, number) for number in numbers]
        finally:
            os.close(descriptor)

    def _text(self, descriptor: int, number: int) -> LogLine:
        start, end = self._starts[number], self._starts[number + 1]
        line = os.pread(descriptor, min(end - start, CHUNK_BYTES), start)
        if not self._events:
            return output_line(_shown(line.decode(errors="replace")))
        found = event_line(parse_lines(line)[0])
        return replace(found, text=_shown(found.text))

    def matches(self, text: str, numbers: Sequence[int], start: int) -> list[int]:
        """Return the indices in `numbers`, from `start`, of lines that contain `text`."""
        wanted = text.lower()
        return [
            index
            for index, line in enumerate(self.texts(numbers[start:]), start)
            if wanted in line.whole.lower()
        ]

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
                if wanted in line.whole.lower():
                    return index
        return None


def _shown(text: str) -> str:
    return plain(text.rstrip().expandtabs())[:_MAX_CHARS]
