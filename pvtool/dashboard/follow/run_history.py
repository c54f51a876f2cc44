"""What the events of one run add up to: curves, samples, prompts drawn, warnings. Lives on the loop of the screen."""

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
"""Schedules and measurements; all other curves depend on the step's random prompt, and are smoothed."""
_OF_TRAINER = EXACT | {"grad_norm"}
_NOT_CURVES = frozenset({"time", "type", "step", "prompt", "seed", "eta"})
_MOST_CURVES = 50
GAUGES = ("memory_used", "utilisation", "temperature", "power")
_OTHER_THINGS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
_MANY = 4


@dataclass(frozen=True)
class Sample:
    """A clip drawn while training; `path` is relative to the run folder."""

    step: int
    path: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class Alarm:
    """A warning of the engine's, or a number that is none, which is `bad`."""

    step: int
    message: str
    bad: bool = False


@dataclass
class Device:
    """One accelerator over time; GiB, per cent, °C, W."""

    name: str
    memory_total: float | None
    gauges: dict[str, Series] = field(
        default_factory=lambda: {name: Series(exact=True) for name in GAUGES}
    )


class RunHistory:
    """All that is known of a run from its events, as far as they have been read."""

    def __init__(self) -> None:
        self.curves: dict[str, Series] = {}
        self.devices: dict[int, Device] = {}
        self.process = {name: Series(exact=True) for name in ("memory", "cpu")}
        self.samples: list[Sample] = []
        self.checkpoints: list[int] = []
        self.alarms: list[Alarm] = []
        self.drawn: Counter[str] = Counter()
        self.prompt, self.seed = "", 0
        self.stage: tuple[str, int, int] = ("", 0, 0)
        self.step = 0
        self.eta: float | None = None
        self.told = 0.0
        self.without_face = 0
        self.unreadable = 0

    def add(self, events: Iterable[Event]) -> None:
        """Take in more events, in their order; one that holds other things than it should is counted as unreadable.

        `told` is when the newest step or stage was written: gauges come also from an engine that hangs.
        """
        steps: list[Event] = []
        others: list[tuple[Any, Event]] = []
        for event in events:
            if event["type"] == "step":
                steps.append(event)
            else:
                others.append((steps[-1].get("step") if steps else self.step, event))
        self._take_steps(steps)
        for step, event in others:
            self._try(partial(self._take, step), event)

    def _try(self, take: Callable[[Event], None], event: Event) -> None:
        try:
            take(event)
        except _OTHER_THINGS:
            self.unreadable += 1

    def _take(self, step: int, event: Event) -> None:
        """Anything but a step, told after `step`."""
        match event["type"]:
            case "gpu":
                self._take_gauges(int(step), event)
            case "stage":
                self.told = max(self.told, float(event["time"]))
                self.stage = (
                    str(event["stage"]),
                    int(event.get("done", 0)),
                    int(event.get("total", 0)),
                )
            case "sample":
                self.samples.append(
                    Sample(
                        int(event["step"]),
                        _within(event["path"]),
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
                pass  # told in the log, and by the run's state

    def _take_steps(self, events: list[Event]) -> None:
        """Take many at once where they are as they should be: a long run is to be there at once."""
        try:
            self._take_alike(events)
        except _OTHER_THINGS:
            for event in events:
                self._try(self._take_step, event)

    def _take_alike(self, events: list[Event]) -> None:
        """Raises, and has changed nothing, if one lacks what the first one has, or a value is no number."""
        if len(events) < _MANY:
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
        drawn = Counter(str(event["prompt"]) for event in events)
        without_face = sum(event.get("face_found") is False for event in events)
        self._take_last(last)
        self.drawn.update(drawn)
        self.without_face += without_face
        for name, column in zip(names[2:], columns[2:], strict=True):
            self._curve(name).extend(columns[0], columns[1], column)

    def _take_step(self, event: Event) -> None:
        step, time = int(event["step"]), float(event["time"])
        values = {name: _number(event[name]) for name in _curve_names(event)}
        self._take_last(event)
        self.drawn[self.prompt] += 1
        self.without_face += event.get("face_found") is False
        for name, value in values.items():
            self._curve(name).append(step, time, value)
        losses = (name for name in values if name not in _OF_TRAINER)
        if lost := [name for name in losses if values[name] is None]:
            self.alarms.append(
                Alarm(step, f"{', '.join(lost)} of step {step} is no number.", bad=True)
            )

    def _take_last(self, event: Event) -> None:
        """What only the newest step tells."""
        step, told, seed, eta = (
            int(event["step"]),
            float(event["time"]),
            int(event["seed"]),
            _number(event["eta"]),
        )
        self.step, self.told, self.seed, self.eta = step, told, seed, eta
        self.prompt = str(event["prompt"])

    def _curve(self, name: str) -> Series:
        """Return a curve; beyond the most that a screen shows, one that is not kept."""
        known = self.curves.get(name)
        if known is None:
            known = Series(exact=name in EXACT)
            if len(self.curves) < _MOST_CURVES:
                self.curves[name] = known
        return known

    def _take_gauges(self, step: int, event: Event) -> None:
        time = float(event["time"])
        for facts in event["devices"]:
            index = int(facts["index"])
            if index not in self.devices:
                self.devices[index] = Device(str(facts["name"]), _gib(facts.get("memory_total")))
            device = self.devices[index]
            values = {name: _number(facts.get(name)) for name in GAUGES}
            for name, value in {**values, "memory_used": _gib(facts.get("memory_used"))}.items():
                device.gauges[name].append(step, time, value)
        self.process["memory"].append(step, time, _gib(event.get("process_memory")))
        self.process["cpu"].append(step, time, _number(event.get("cpu")))


def _curve_names(event: Event) -> list[str]:
    """Return the names of the numbers in a step: those that its objective reports, and the trainer's."""
    return [
        name for name, value in event.items() if _is_curve(name) and not isinstance(value, bool)
    ]


@lru_cache(maxsize=256)
def _is_curve(name: str) -> bool:
    return name not in _NOT_CURVES and name.isascii() and name.isidentifier()


def _within(path: Any) -> str:
    """A path in the run folder. Raises ValueError if it leads out of it."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(path)
    return str(path)


def _gib(value: Any) -> float | None:
    number = _number(value)
    return None if number is None else number / 2**30


def _number(value: Any) -> float | None:
    """JSON has no NaN: what is no number is null there."""
    return float(value) if value is not None and isfinite(value) else None
