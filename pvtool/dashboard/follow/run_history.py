"""History of a run from its events: curves, samples, prompts, warnings.

Used on the event loop only.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from math import isfinite
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

from pvtool.dashboard.plot.series import Series
from pvtool_core.store.events import Event

EXACT = frozenset({"lr", "seconds"})
"""Schedules and measurements; other curves depend on the random prompt of a step."""
_TRAINER_CURVES = EXACT | {"grad_norm"}
_NOT_CURVES = frozenset({"time", "type", "step", "prompt", "seed", "eta"})
_MAX_CURVES = 50
GAUGES = ("memory_used", "utilisation", "temperature", "power")
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
_MIN_UNIFORM_STEPS = 4


@dataclass(frozen=True)
class Sample:
    """Sample clip rendered during training; `path` is relative to the run folder."""

    step: int
    path: str
    prompt: str
    seed: int


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

    `last_update` is the time of the newest step or stage: a hanging engine still writes gauges.
    """

    def __init__(self) -> None:
        self.curves: dict[str, Series] = {}
        self.devices: dict[int, Device] = {}
        self.process = {name: Series(exact=True) for name in ("memory", "cpu")}
        self.samples: list[Sample] = []
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
        """Add events, in order; malformed events are skipped and counted as unreadable."""
        steps: list[Event] = []
        others: list[tuple[Any, Event]] = []
        for event in events:
            if event["type"] == "step":
                steps.append(event)
            else:
                others.append((steps[-1].get("step") if steps else self.step, event))
        self._add_steps(steps)
        for step, event in others:
            self._try(partial(self._add_event, step), event)

    def _try(self, add: Callable[[Event], None], event: Event) -> None:
        try:
            add(event)
        except _MALFORMED:
            self.unreadable += 1

    def _add_event(self, step: int, event: Event) -> None:
        """Add an event other than a step, written after `step`."""
        match event["type"]:
            case "gpu":
                self._add_gauges(int(step), event)
            case "stage":
                self.last_update = max(self.last_update, float(event["time"]))
                self.stage = (
                    str(event["stage"]),
                    int(event.get("done", 0)),
                    int(event.get("total", 0)),
                )
            case "sample":
                self.samples.append(
                    Sample(
                        int(event["step"]),
                        _relative_path(event["path"]),
                        str(event["prompt"]),
                        int(event["seed"]),
                    )
                )
            case "checkpoint":
                self.checkpoints.append(int(event["step"]))
            case "warning":
                self.alarms.append(Alarm(int(event.get("step", step)), str(event["message"])))
            case "unreadable":
                self.unreadable += 1
            case _:
                pass  # shown in the log and as the run's state

    def _add_steps(self, events: list[Event]) -> None:
        """Add steps together if they are uniform, to load long runs quickly."""
        try:
            self._add_uniform_steps(events)
        except _MALFORMED:
            for event in events:
                self._try(self._add_step, event)

    def _add_uniform_steps(self, events: list[Event]) -> None:
        """Add steps that have the same fields and finite values.

        Raises, without any change, if fields differ or a value is not finite.
        """
        if len(events) < _MIN_UNIFORM_STEPS:
            raise ValueError
        first, last = events[0], events[-1]
        names = ("step", "time", *_curve_names(first))
        columns = [
            array("d", column) for column in zip(*map(itemgetter(*names), events), strict=True)
        ]
        if any(len(event) != len(first) for event in events) or not all(
            isfinite(sum(column)) for column in columns
        ):
            raise ValueError
        prompts = Counter(str(event["prompt"]) for event in events)
        without_face = sum(event.get("face_found") is False for event in events)
        self._set_newest(last)
        self.prompt_counts.update(prompts)
        self.steps_without_face += without_face
        for name, column in zip(names[2:], columns[2:], strict=True):
            self._curve(name).extend(columns[0], columns[1], column)

    def _add_step(self, event: Event) -> None:
        step, time = int(event["step"]), float(event["time"])
        values = {name: _number(event[name]) for name in _curve_names(event)}
        self._set_newest(event)
        self.prompt_counts[self.prompt] += 1
        self.steps_without_face += event.get("face_found") is False
        for name, value in values.items():
            self._curve(name).append(step, time, value)
        losses = (name for name in values if name not in _TRAINER_CURVES)
        if bad := [name for name in losses if values[name] is None]:
            self.alarms.append(
                Alarm(step, f"Not a finite number at step {step}: {', '.join(bad)}.", is_error=True)
            )

    def _set_newest(self, event: Event) -> None:
        """Set the attributes of the newest step."""
        step, time, seed, eta = (
            int(event["step"]),
            float(event["time"]),
            int(event["seed"]),
            _number(event["eta"]),
        )
        self.step, self.last_update, self.seed, self.eta = step, time, seed, eta
        self.prompt = str(event["prompt"])

    def _curve(self, name: str) -> Series:
        """Return a curve; beyond the limit, one that is discarded."""
        curve = self.curves.get(name)
        if curve is None:
            curve = Series(exact=name in EXACT)
            if len(self.curves) < _MAX_CURVES:
                self.curves[name] = curve
        return curve

    def _add_gauges(self, step: int, event: Event) -> None:
        time = float(event["time"])
        for entry in event["devices"]:
            index = int(entry["index"])
            if index not in self.devices:
                self.devices[index] = Device(str(entry["name"]), _gib(entry.get("memory_total")))
            device = self.devices[index]
            values = {name: _number(entry.get(name)) for name in GAUGES}
            for name, value in {**values, "memory_used": _gib(entry.get("memory_used"))}.items():
                device.gauges[name].append(step, time, value)
        self.process["memory"].append(step, time, _gib(event.get("process_memory")))
        self.process["cpu"].append(step, time, _number(event.get("cpu")))


def _curve_names(event: Event) -> list[str]:
    """Return the names of the numbers in a step, from the objective and the trainer."""
    return [
        name for name, value in event.items() if _is_curve(name) and not isinstance(value, bool)
    ]


@lru_cache(maxsize=256)
def _is_curve(name: str) -> bool:
    return name not in _NOT_CURVES and name.isascii() and name.isidentifier()


def _relative_path(path: Any) -> str:
    """Return a path relative to the run folder. Raises ValueError if it leads out of the folder."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(path)
    return str(path)


def _gib(value: Any) -> float | None:
    number = _number(value)
    return None if number is None else number / 2**30


def _number(value: Any) -> float | None:
    """Return a finite number or None; JSON has no NaN and writes null instead."""
    return float(value) if value is not None and isfinite(value) else None
