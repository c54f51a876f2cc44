"""Events of a run: append them to events.jsonl, and read them."""

import errno
import itertools
import json
import math
import os
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Self, cast

import orjson

from pvtool_core.errors import UnsafeRun
from pvtool_core.files import replace_file
from pvtool_core.untrusted import (
    Irregular,
    exists,
    open_regular,
)

Event = dict[str, Any]
_END_OF_TIME = 1e11  # seconds since 1970; beyond the range of calendars
_NEWEST_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
_TORN_BYTES = 1 << 16
_SHOWN_BYTES = 200
_REPLAYED = frozenset({"step", "sample", "checkpoint", "metric"})


def open_descriptor(path: Path, flags: int = os.O_RDONLY, alone: bool = False) -> int:
    """Open a regular file of a run, as `open_regular` does. Raises UnsafeRun."""
    try:
        return open_regular(path, flags, alone=alone)
    except Irregular as error:
        raise UnsafeRun(path, error.problem) from error


class EventWriter:
    """Append events to events.jsonl, one write per line.

    An incomplete last line, left by a kill or a full disk, is cut off first.

    Raises UnsafeRun if the file is not a regular file with a single name.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = open_descriptor(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, alone=True)
        _cut_torn_line(self._descriptor)

    def write(self, type: str, **values: Any) -> None:
        """Append an event.

        NaN and infinities become null, since JSON cannot represent them. Raises OSError on a full
        disk.
        """
        event = {"time": time.time(), "type": type, **values}
        line = (json.dumps(_finite(event), ensure_ascii=False, allow_nan=False) + "\n").encode()
        size = os.fstat(self._descriptor).st_size
        if os.write(self._descriptor, line) < len(line):
            os.ftruncate(self._descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events.jsonl")

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cut_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    end = size
    while end:
        start = max(0, end - _TORN_BYTES)
        if newline := os.pread(descriptor, end - start, start).rfind(b"\n") + 1:
            end = start + newline
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast("list[Any]", value)]
    return value


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Return the events from byte `offset` on, and the offset at which to continue.

    An incomplete last line is read by the next call.

    If the file is shorter than `offset`, as after `drop_events_after`, it is read from the start.
    Raises UnsafeRun.
    """
    try:
        with os.fdopen(open_descriptor(path), "rb") as file:
            file.seek(offset if offset <= os.fstat(file.fileno()).st_size else 0)
            start = file.tell()
            content = file.read()
    except FileNotFoundError:
        return [], 0
    whole = content[: content.rfind(b"\n") + 1]
    return parse_events(whole), start + len(whole)


def parse_events(lines: bytes) -> list[Event]:
    """Return one event per line; lines end with a line feed, which the last one may lack.

    An invalid line becomes an event of type `unreadable` with its `text` and the time of the event
    before it.
    """
    events: list[Event] = []
    time = 0.0
    for line in lines.removesuffix(b"\n").split(b"\n") if lines else ():
        events.append(_parse_event(line, time))
        time = events[-1]["time"]
    return events


def _parse_event(line: bytes, time: float = 0.0) -> Event:
    try:
        event = orjson.loads(line)
        if not (isinstance(event["type"], str) and 0 <= event["time"] < _END_OF_TIME):
            raise ValueError
    except (ValueError, TypeError, KeyError):
        return _unreadable(line, time)
    return event


def _unreadable(line: bytes, time: float) -> Event:
    return {
        "time": time,
        "type": "unreadable",
        "text": line[:_SHOWN_BYTES].decode(errors="replace"),
    }


def iter_events(path: Path, end: int | None = None) -> Generator[Event]:
    """Yield the events before byte `end`, reading one block at a time.

    The default is the end of the file. Raises UnsafeRun.
    """
    left = events_end(path) if end is None else end
    if not left:
        return
    with os.fdopen(open_descriptor(path), "rb") as file:
        rest = b""
        while left and (block := file.read(min(left, _BLOCK_BYTES))):
            left -= len(block)
            lines, newline, rest = (rest + block).rpartition(b"\n")
            yield from parse_events(lines + newline)


def events_end(path: Path) -> int:
    """Return the offset after the last complete line, at which `read_events` continues.

    Raises UnsafeRun.
    """
    try:
        with os.fdopen(open_descriptor(path), "rb") as file:
            position = os.fstat(file.fileno()).st_size
            while position:
                start = max(0, position - _NEWEST_BYTES)
                file.seek(start)
                newline = file.read(position - start).rfind(b"\n")
                if newline >= 0:
                    return start + newline + 1
                position = start
    except FileNotFoundError:
        pass
    return 0


def newest_events(path: Path, type: str, count: int) -> list[Event]:
    """Return up to `count` events of one type from the last 64 KiB of the file, newest first.

    Raises UnsafeRun.
    """
    try:
        with os.fdopen(open_descriptor(path), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _NEWEST_BYTES))
            content = file.read(_NEWEST_BYTES)
    except FileNotFoundError:
        return []
    parsed = map(_parse_event, reversed(content[: content.rfind(b"\n") + 1].split(b"\n")))
    return list(itertools.islice((event for event in parsed if event["type"] == type), count))


def first_event_time(path: Path) -> float | None:
    """Return the time of the first event in seconds since 1970, or None if it is not readable."""
    try:
        with os.fdopen(open_descriptor(path), "rb") as file:
            line = file.readline(_NEWEST_BYTES)
    except FileNotFoundError:
        return None
    event = _parse_event(line) if line.endswith(b"\n") else None
    return event["time"] if event and event["type"] != "unreadable" else None


def drop_events_after(path: Path, step: int) -> None:
    """Remove the events of steps after `step`, which a resumed engine will report again."""
    if exists(path) and any(_is_replayed(line, step) for line in _lines(path)):
        replace_file(path, (line for line in _lines(path) if not _is_replayed(line, step)))


def _lines(path: Path) -> Generator[bytes]:
    """Yield complete lines; a half-written last one is left out."""
    with os.fdopen(open_descriptor(path), "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def _is_replayed(line: bytes, step: int) -> bool:
    event = _parse_event(line)
    return event["type"] in _REPLAYED and _step_of(event) > step


def _step_of(event: Event) -> float:
    step = event.get("step", 0)
    return step if isinstance(step, int | float) else 0
