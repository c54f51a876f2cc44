"""Where the lines of a growing file begin, so that a file of any length is shown without being kept in memory."""

import os
from array import array
from collections.abc import Sequence
from pathlib import Path

from pvtool.dashboard.follow.tail import CHUNK_BYTES, Chunk, Tail
from pvtool.text import describe, plain
from pvtool_core.store.events import parse_events
from pvtool_core.untrusted import open_regular

_OFTEN = (b'"type": "step"', b'"type": "gpu"')
_HEAD_BYTES = 80
_LONGEST = 2000


class LogLines:
    """The lines of events.jsonl (`events`) or of a plain log. Its methods read files: call them in a thread."""

    def __init__(self, path: Path, *, events: bool) -> None:
        self.path = path
        self._events = events
        self._tail = Tail(path)
        self._starts = array("Q", [0])
        self._rare = array("Q")

    def extend(self) -> Chunk:
        """Take in what was written since, a chunk of it. Raises OSError if it is unreadable."""
        chunk = self._tail.read()
        if chunk.anew:
            self._starts, self._rare = array("Q", [0]), array("Q")
        self._take(chunk)
        return chunk

    def _take(self, chunk: Chunk) -> None:
        at = chunk.start
        for line in chunk.lines.splitlines(keepends=True):
            if not (self._events and any(word in line[:_HEAD_BYTES] for word in _OFTEN)):
                self._rare.append(len(self._starts) - 1)
            at += len(line)
            self._starts.append(at)

    def numbers(self, everything: bool) -> Sequence[int]:
        """The numbers of all lines, or of those that are not written at every step."""
        return range(len(self._starts) - 1) if everything else self._rare

    def texts(self, numbers: Sequence[int]) -> list[str]:
        """The lines of these numbers as people read them; empty if the file is gone."""
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
        told = (
            " ".join(map(describe, parse_events(line)))
            if self._events
            else line.decode(errors="replace")
        )
        return plain(told.rstrip().expandtabs())[:_LONGEST]

    def find(self, words: str, numbers: Sequence[int], begin: int, by: int) -> int | None:
        """The index in `numbers`, from `begin` on towards `by` and around, of a line that holds `words`."""
        wanted = words.lower()
        for done in range(0, len(numbers), 256):
            indices = [
                (begin + by * i) % len(numbers) for i in range(done, min(done + 256, len(numbers)))
            ]
            texts = self.texts([numbers[i] for i in indices])
            for index, text in zip(indices, texts, strict=True):
                if wanted in text.lower():
                    return index
        return None
