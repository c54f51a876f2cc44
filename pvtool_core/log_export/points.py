"""Points of a run's curves, and its sample clips, from its events."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pvtool_core.store.events import Event, SampleEvent, ScoresEvent, StepEvent, TelemetryEvent
from pvtool_core.store.runs import RunFolder
from pvtool_core.untrusted import is_file

_GIB = 1 << 30


@dataclass(frozen=True)
class Point:
    """A value of a curve. The name has its group before a slash, such as `train/icr`."""

    name: str
    step: int
    time: float
    value: float


@dataclass(frozen=True)
class Clip:
    """A sample clip."""

    name: str
    step: int
    time: float
    path: Path
    prompt: str


class LogWriter(Protocol):
    """A log of another program; points and clips of a name have increasing steps."""

    def add_point(self, point: Point) -> None: ...
    def add_clip(self, clip: Clip) -> None: ...
    def close(self) -> None: ...


class LogExport:
    """Passes the events of a run to a writer.

    Steps that a resumed engine reports again are passed once. `points` and `clips` count what was
    written.
    """

    def __init__(self, folder: RunFolder, writer: LogWriter, with_clips: bool) -> None:
        self.points = self.clips = 0
        self._folder, self._writer, self._with_clips = folder, writer, with_clips
        self._newest: dict[str, int] = {}
        self._step = 0

    def add(self, event: Event) -> None:
        """Write the points and the clip of an event."""
        if isinstance(event, StepEvent | ScoresEvent | SampleEvent):
            self._step = event.step
        for point in points_of(event, self._step):
            if self._is_new(point.name, point.step):
                self._writer.add_point(point)
                self.points += 1
        if self._with_clips and isinstance(event, SampleEvent):
            self._add_clip(event)

    def _add_clip(self, event: SampleEvent) -> None:
        path = self._folder.path / event.path
        inside = path.resolve().is_relative_to(self._folder.path.resolve())
        name = f"samples/{event.path.stem}"
        if inside and is_file(path) and self._is_new(name, event.step):
            self._writer.add_clip(Clip(name, event.step, event.time, path, event.prompt))
            self.clips += 1

    def _is_new(self, name: str, step: int) -> bool:
        is_new = step > self._newest.get(name, -1)
        if is_new:
            self._newest[name] = step
        return is_new


def points_of(event: Event, step: int) -> Iterator[Point]:
    """Yield the values of an event; `step` is the newest one, for telemetry."""
    match event:
        case StepEvent():
            groups = {"train": event.scalars}
        case ScoresEvent():
            groups = {"scores": event.scores, "base": event.base}
        case TelemetryEvent():
            groups = {"machine": _gauges(event)}
        case _:
            return
    for group, values in groups.items():
        for name, value in values.items():
            if value is not None:
                yield Point(f"{group}/{name}", step, event.time, value)


def _gauges(event: TelemetryEvent) -> Mapping[str, float | None]:
    """Return memory in GiB and load in percent of the engine and of each accelerator."""
    gauges = {"process_memory_gib": _gib(event.process_memory), "cpu": event.cpu}
    for device in event.devices:
        gauges[f"gpu{device.index}_memory_gib"] = _gib(device.memory_used)
        gauges[f"gpu{device.index}_utilisation"] = device.utilisation
    return gauges


def _gib(size: float | None) -> float | None:
    return None if size is None else size / _GIB
