"""History of a run from its events: curves, samples, prompts, warnings.

Used on the event loop only.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from pvtool.dashboard.plot.series import Series
from pvtool_core.settings.sample_metrics import GAP, LIKENESS, compared
from pvtool_core.store.events import (
    CheckpointEvent,
    Event,
    HostReading,
    SampleEvent,
    ScoredSample,
    ScoresEvent,
    StageEvent,
    StepEvent,
    TelemetryEvent,
    UnreadableEvent,
    WarningEvent,
)
from pvtool_core.store.sample_scores import SampleScores

EXACT = frozenset({"lr", "seconds"})
"""Schedules and measurements; other curves depend on the random prompt of a step."""
_TRAINER_CURVES = EXACT | {"grad_norm"}
SAMPLES = "samples."
"""Prefix of the curves of sample scores; names of other curves have no dots."""
LIKENESS_CURVE, REWARD_LIKENESS_CURVE = f"{SAMPLES}{LIKENESS}", f"{SAMPLES}likeness_reward"
_MAX_CURVES = 50
GAUGES = ("memory_used", "utilisation", "temperature", "power")
_MIN_UNIFORM_STEPS = 4


@dataclass(frozen=True)
class Alarm:
    """Warning of the engine, or a non-finite value, which is an error."""

    step: int
    message: str
    is_error: bool = False


@dataclass
class Device:
    """Gauges of an accelerator over time, in GiB, %, °C and W."""

    name: str
    memory_total: float | None
    power_limit: float | None = None
    gauges: dict[str, Series] = field(
        default_factory=lambda: {name: Series(exact=True) for name in GAUGES}
    )


class RunHistory:
    """State of a run after all events read so far.

    `process` and `host` have the used memory in GiB and the load in cores. `sample_scores` are the
    scores of single samples by step, prompt and seed. `last_update` is the time of the newest step
    or stage: a hanging engine still writes gauges.
    """

    def __init__(self) -> None:
        self.curves: dict[str, Series] = {}
        self.devices: dict[int, Device] = {}
        self.own_device: int | None = None
        self.process = {name: Series(exact=True) for name in ("memory", "cpu")}
        self.host = {name: Series(exact=True) for name in ("memory", "cpu")}
        self.host_reading: HostReading | None = None  # the newest one
        self.samples: list[SampleEvent] = []
        self.scores = SampleScores()
        self.scored_steps: dict[int, ScoresEvent] = {}
        self.sample_scores: dict[tuple[int, str, int], ScoredSample] = {}
        self.checkpoints: list[int] = []
        self.alarms: list[Alarm] = []
        self.prompt_counts: Counter[str] = Counter()
        self.prompt, self.seed = "", 0
        self.stage: tuple[str, int, int] = ("", 0, 0)
        self.step = 0
        self.eta: float | None = None
        self.last_update = 0.0
        self.steps_without_face = 0
        self.unreadable = 0

    def add(self, events: Iterable[Event]) -> None:
        """Add events, in order; unreadable ones are counted."""
        steps: list[StepEvent] = []
        others: list[tuple[int, Event]] = []
        for event in events:
            if isinstance(event, StepEvent):
                steps.append(event)
            else:
                others.append((steps[-1].step if steps else self.step, event))
        self._add_steps(steps)
        for step, event in others:
            self._add_event(step, event)

    def _add_event(self, step: int, event: Event) -> None:
        """Add an event other than a step, written after `step`."""
        match event:
            case TelemetryEvent():
                self._add_telemetry(step, event)
            case StageEvent():
                self.last_update = max(self.last_update, event.time)
                self.stage = (event.stage, event.done or 0, event.total or 0)
            case SampleEvent():
                self.samples.append(event)
            case ScoresEvent():
                self._add_scores(event)
            case CheckpointEvent():
                self.checkpoints.append(event.step)
            case WarningEvent():
                at = step if event.step is None else event.step
                self.alarms.append(Alarm(at, event.message))
            case UnreadableEvent():
                self.unreadable += 1
            case _:
                pass  # shown in the log and as the run's state

    def _add_steps(self, events: Sequence[StepEvent]) -> None:
        """Add steps; together if all have the same finite scalars, to load long runs quickly."""
        if not events:
            return
        columns = _columns(events) if len(events) >= _MIN_UNIFORM_STEPS else None
        if columns is None:
            for event in events:
                self._add_scalars(event)
        else:
            steps = array("d", [event.step for event in events])
            times = array("d", [event.time for event in events])
            for name, column in columns.items():
                self._curve(name).extend(steps, times, column)
        self.prompt_counts.update(event.prompt for event in events)
        self.steps_without_face += sum(event.face_found is False for event in events)
        newest = events[-1]
        self.step, self.last_update = newest.step, newest.time
        self.prompt, self.seed, self.eta = newest.prompt, newest.seed, newest.eta

    def _add_scalars(self, event: StepEvent) -> None:
        for name, value in event.scalars.items():
            if _is_curve(name):
                self._curve(name).append(event.step, event.time, value)
        bad = [
            name
            for name, value in event.scalars.items()
            if value is None and name not in _TRAINER_CURVES and _is_curve(name)
        ]
        if bad:
            message = f"Not a finite number at step {event.step}: {', '.join(bad)}."
            self.alarms.append(Alarm(event.step, message, is_error=True))

    def _add_scores(self, event: ScoresEvent) -> None:
        self.scores.add(event)
        self.scored_steps[event.step] = event
        self.sample_scores |= {
            (event.step, sample.prompt, sample.seed): sample for sample in event.samples
        }
        shown = compared(event.scores, event.base)
        values = {sample_curve(name): value for name, value in shown.items()}
        if {LIKENESS, GAP} <= event.scores.keys():
            values[REWARD_LIKENESS_CURVE] = event.scores[LIKENESS] + event.scores[GAP]
        for name, value in values.items():
            self._curve(name).append(event.step, event.time, value)

    def _curve(self, name: str) -> Series:
        """Return a curve; beyond the limit, one that is discarded."""
        curve = self.curves.get(name)
        if curve is None:
            sampled = name.startswith(SAMPLES)
            began = next((other.origin for other in self.curves.values()), None)
            curve = Series(
                began if sampled else None, exact=sampled or name in EXACT, marked=sampled
            )
            if len(self.curves) < _MAX_CURVES:
                self.curves[name] = curve
        return curve

    def _add_telemetry(self, step: int, event: TelemetryEvent) -> None:
        for reading in event.devices:
            if reading.index not in self.devices:
                total = gib(reading.memory_total)
                self.devices[reading.index] = Device(reading.name, total, reading.power_limit)
            gauges = self.devices[reading.index].gauges
            gauges["memory_used"].append(step, event.time, gib(reading.memory_used))
            for name in GAUGES[1:]:
                gauges[name].append(step, event.time, getattr(reading, name))
        if event.own is not None:
            self.own_device = event.own
        self._add_host(step, event)

    def _add_host(self, step: int, event: TelemetryEvent) -> None:
        """Add memory and load of engine and host; the first load is unknown."""
        host = event.host or HostReading()
        self.host_reading = event.host or self.host_reading
        for series, memory, cores in (
            (self.process, event.process_memory, cores_of(event.cpu, 1)),
            (self.host, host.memory_used, cores_of(host.cpu, host.cores)),
        ):
            for name, value in (("memory", gib(memory)), ("cpu", cores)):
                if value is not None:
                    series[name].append(step, event.time, value)


def _columns(events: Sequence[StepEvent]) -> dict[str, "array[float]"] | None:
    """Return each scalar over the steps; None if names differ or a value is missing."""
    names = events[0].scalars.keys()
    columns: dict[str, array[float]] = {}
    for name in filter(_is_curve, names):
        values = [event.scalars.get(name) for event in events]
        if None in values:
            return None
        columns[name] = array("d", [value for value in values if value is not None])
    return columns if all(len(event.scalars) == len(names) for event in events) else None


def sample_curve(metric: str) -> str:
    """Return the name of the curve of a metric of samples."""
    return f"{SAMPLES}{metric}"


@lru_cache(maxsize=256)
def _is_curve(name: str) -> bool:
    return name.isascii() and name.isidentifier()


def gib(value: float | None) -> float | None:
    """Return bytes as GiB."""
    return None if value is None else value / 2**30


def cores_of(percent: float | None, cores: int | None) -> float | None:
    """Return a load in percent of some cores as a number of cores."""
    return None if percent is None or cores is None else percent / 100 * cores
