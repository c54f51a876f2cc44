"""The file of events, events.jsonl: append events, and read them as JSON objects or as events."""

import errno
import itertools
import json
import math
import os
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, cast

import orjson

from pvtool_core.errors import UnsafeRun
from pvtool_core.files import replace_file
from pvtool_core.store.events import Event, Record, is_record, parse_event
from pvtool_core.untrusted import (
    Irregular,
    exists,
    open_regular,
)

_NEWEST_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
_TORN_BYTES = 1 << 16
_SHOWN_BYTES = 200
_REPLAYED = frozenset({"step", "sample", "scores", "checkpoint"})


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

    def write(self, event: Event) -> None:
        """Append an event with the current time. Raises OSError on a full disk."""
        self.append({**event.record(), "time": time.time()})

    def append(self, record: Record) -> None:
        """Append a JSON object as one line.

        NaN and infinities become null, since JSON cannot represent them. Raises OSError on a full
        disk.
        """
        line = (json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n").encode()
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


def read_records(path: Path, offset: int = 0) -> tuple[list[Record], int]:
    """Return the events as JSON objects from byte `offset` on, and the offset at which to continue.

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
    return parse_lines(whole), start + len(whole)


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Return the events from byte `offset` on, as `read_records` does, each parsed."""
    records, end = read_records(path, offset)
    return list(map(parse_event, records)), end


def parse_lines(lines: bytes) -> list[Record]:
    """Return one JSON object per line; lines end with a line feed, which the last one may lack.

    An invalid line becomes an event of type `unreadable` with its `text` and the time of the event
    before it.
    """
    records: list[Record] = []
    time = 0.0
    for line in lines.removesuffix(b"\n").split(b"\n") if lines else ():
        records.append(_parse_line(line, time))
        time = records[-1]["time"]
    return records


def _parse_line(line: bytes, time: float = 0.0) -> Record:
    with suppress(ValueError):
        record = orjson.loads(line)
        if is_record(record):
            return record
    return {
        "time": time,
        "type": "unreadable",
        "text": line[:_SHOWN_BYTES].decode(errors="replace"),
    }


def iter_records(path: Path, end: int | None = None) -> Generator[Record]:
    """Yield the events before byte `end` as JSON objects, reading one block at a time.

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
            yield from parse_lines(lines + newline)


def records_of(path: Path, *types: str) -> Generator[Record]:
    """Yield the events of some types as JSON objects; lines of others are not parsed.

    Raises UnsafeRun.
    """
    names = [f'"{type}"'.encode() for type in types]
    try:
        with os.fdopen(open_descriptor(path), "rb") as file:
            for line in file:
                if line.endswith(b"\n") and any(name in line for name in names):
                    record = _parse_line(line)
                    if record["type"] in types:
                        yield record
    except FileNotFoundError:
        return


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


def newest_records(path: Path, type: str, count: int) -> list[Record]:
    """Return up to `count` events of one type as JSON objects, newest first.

    Only the last 64 KiB of the file are read. Raises UnsafeRun.
    """
    try:
        with os.fdopen(open_descriptor(path), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _NEWEST_BYTES))
            content = file.read(_NEWEST_BYTES)
    except FileNotFoundError:
        return []
    parsed = map(_parse_line, reversed(content[: content.rfind(b"\n") + 1].split(b"\n")))
    return list(itertools.islice((event for event in parsed if event["type"] == type), count))


def newest_record(path: Path, type: str) -> Record | None:
    """Return the newest event of a type as a JSON object; None without one.

    Only the last MiB of the file is read, since many steps may follow a rare event. Raises
    UnsafeRun.
    """
    try:
        with os.fdopen(open_descriptor(path), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _BLOCK_BYTES))
            content = file.read(_BLOCK_BYTES)
    except FileNotFoundError:
        return None
    end = content.rfind(b"\n")
    while (found := content.rfind(f'"{type}"'.encode(), 0, max(end, 0))) >= 0:
        start, end = content.rfind(b"\n", 0, found) + 1, content.find(b"\n", found)
        record = _parse_line(content[start:end])
        if record["type"] == type:
            return record
        end = start - 1
    return None


def first_event_time(path: Path) -> float | None:
    """Return the time of the first event in seconds since 1970, or None if it is not readable."""
    try:
        with os.fdopen(open_descriptor(path), "rb") as file:
            line = file.readline(_NEWEST_BYTES)
    except FileNotFoundError:
        return None
    event = _parse_line(line) if line.endswith(b"\n") else None
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
    record = _parse_line(line)
    return record["type"] in _REPLAYED and _step_of(record) > step


def _step_of(record: Record) -> float:
    step = record.get("step", 0)
    return step if isinstance(step, int | float) else 0
