"""Events and lines of engine output as text of the log: level, time, kind and values with units."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pvtool.dashboard.plot.axes import format_value
from pvtool.text import describe_scores, duration, plain
from pvtool_core.store.events import (
    CheckpointEvent,
    DeviceReading,
    Event,
    LoraEvent,
    Record,
    RunEvent,
    SampleEvent,
    ScoresEvent,
    StageEvent,
    StepEvent,
    TelemetryEvent,
    UnreadableEvent,
    WarningEvent,
    parse_event,
)


class Level(StrEnum):
    """Level of a line, as the letter before it."""

    INFO = " "
    WARNING = "W"
    ERROR = "E"


@dataclass(frozen=True)
class LogLine:
    """A line of the log; a line of engine output has no time."""

    text: str
    level: Level = Level.INFO
    time: str = ""

    @property
    def whole(self) -> str:
        """Return the line as it is shown."""
        return f"{self.time}{' ' if self.time else ''}{self.level} {self.text}"


_ERROR = re.compile(r"\b(ERROR|CRITICAL|FATAL|Traceback)\b|\b\w*(Error|Exception)\b: ")
_WARNING = re.compile(r"\bWARN(ING)?\b|\b\w*Warning\b: ")


def output_line(text: str) -> LogLine:
    """Return a line of engine output, with the level that its words suggest."""
    if _ERROR.search(text):
        return LogLine(text, Level.ERROR)
    return LogLine(text, Level.WARNING if _WARNING.search(text) else Level.INFO)


def event_line(record: Record) -> LogLine:
    """Return the line of an event, given as its JSON object."""
    event = parse_event(record)
    body = _body(event, record)
    return LogLine(plain(f"{record['type']:<10}  {body}"), _level(event), clock(event.time))


def clock(seconds: float) -> str:
    """Format a local time, without its date if that is today; empty if it is unknown."""
    if not seconds:
        return ""
    then = time.localtime(seconds)
    today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)


def _level(event: Event) -> Level:
    match event:
        case RunEvent(state="failed") | UnreadableEvent():
            return Level.ERROR
        case WarningEvent():
            return Level.WARNING
        case _:
            return Level.INFO


def _body(event: Event, record: Record) -> str:
    match event:
        case RunEvent():
            at = f" at step {event.step}" if event.step else ""
            return f"{event.state}{at}{f': {event.reason}' if event.reason else ''}"
        case StageEvent():
            return f"{event.stage} {event.done} of {event.total}" if event.total else event.stage
        case StepEvent():
            return f"step {event.step}  {_step(event)}"
        case SampleEvent():
            return f"step {event.step}  {event.path}  {event.prompt}"
        case ScoresEvent():
            return f"step {event.step}  {describe_scores(event.scores, event.base)}"
        case CheckpointEvent():
            return f"step {event.step}  {event.path}"
        case WarningEvent():
            at = "" if event.step is None else f"step {event.step}  "
            return at + event.message
        case TelemetryEvent():
            return _gauges(event)
        case LoraEvent():
            return f"{event.role} {event.name}: {event.matched} of {event.keys} keys in the model"
        case UnreadableEvent():
            return event.text
        case _:
            return _fields(record)


def _step(event: StepEvent) -> str:
    scalars = {name: value for name, value in event.scalars.items() if name != "seconds"}
    parts = [f"{name} {_number(value)}" for name, value in scalars.items()]
    if (seconds := event.scalars.get("seconds")) is not None:
        parts.append(f"{seconds:.2f} s")
    if event.eta:
        parts.append(f"{duration(event.eta)} left")
    if event.face_found is False:
        parts.append("no face found")
    return "  ".join([*parts, event.prompt])


def _number(value: float | None) -> str:
    return "not a number" if value is None else format_value(value)


def _gauges(event: TelemetryEvent) -> str:
    engine = f"engine {_gib(event.process_memory)}"
    if event.cpu is not None:
        engine += f" {event.cpu:.0f} % of a core"
    return "  ·  ".join([*map(_device, event.devices), engine])


def _device(device: DeviceReading) -> str:
    parts = [f"GPU {device.index} {_gib(device.memory_used)}"]
    for value, unit in (
        (device.utilisation, "%"),
        (device.temperature, "°C"),
        (device.power, "W"),
    ):
        if value is not None:
            parts.append(f"{value:.0f} {unit}")
    return " ".join(parts)


def _gib(value: float | None) -> str:
    return "–" if value is None else f"{value / 2**30:.1f} GiB"


def _fields(record: Mapping[str, Any]) -> str:
    """Format the fields of an event of another type."""
    return "  ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in record.items()
        if name not in {"time", "type"}
    )
