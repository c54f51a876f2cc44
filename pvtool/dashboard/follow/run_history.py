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
    gauges: dict[str, Series] = field(
        default_factory=lambda: {name: Series(exact=True) for name in GAUGES}
    )


class RunHistory:
    """State of a run after all events read so far.

    `sample_scores` are the scores of single samples by step, prompt and seed. `last_update` is the
    time of the newest step or stage: a hanging engine still writes gauges.
    """

    def __init__(self) -> None:
        self.curves: dict[str, Series] = {}
        self.devices: dict[int, Device] = {}
        self.process = {name: Series(exact=True) for name in ("memory", "cpu")}
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
                self.devices[reading.index] = Device(reading.name, _gib(reading.memory_total))
            gauges = self.devices[reading.index].gauges
            gauges["memory_used"].append(step, event.time, _gib(reading.memory_used))
            for name in GAUGES[1:]:
                gauges[name].append(step, event.time, getattr(reading, name))
        self.process["memory"].append(step, event.time, _gib(event.process_memory))
        self.process["cpu"].append(step, event.time, event.cpu)


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


def _gib(value: float | None) -> float | None:
    return None if value is None else value / 2**30
