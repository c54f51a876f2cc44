"""What the events of one run add up to: curves, samples, prompts drawn, warnings. Lives on the loop of the screen."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pvtool.dashboard.series import Series
from pvtool_core.runs import Event

CURVES = ("icr", "scr", "loss", "grad_norm", "lr", "score_gap", "base_kl", "seconds")
GAUGES = ("memory_used", "utilisation", "temperature", "power")
_MUST_BE_NUMBERS = ("loss", "icr", "scr")


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
    gauges: dict[str, Series] = field(default_factory=lambda: {name: Series() for name in GAUGES})


class History:
    """All that is known of a run from its events, as far as they have been read."""

    def __init__(self) -> None:
        self.curves: dict[str, Series] = {}
        self.devices: dict[int, Device] = {}
        self.process = {"memory": Series(), "cpu": Series()}
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
        for event in events:
            try:
                self._take(event)
            except (KeyError, TypeError, ValueError, AttributeError):
                self.unreadable += 1

    def _take(self, event: Event) -> None:
        match event["type"]:
            case "step":
                self._take_step(event)
            case "gpu":
                self._take_gauges(event)
            case "stage":
                self.told = float(event["time"])
                self.stage = (str(event["stage"]), int(event.get("done", 0)), int(event.get("total", 0)))
            case "sample":
                self.samples.append(
                    Sample(int(event["step"]), str(event["path"]), str(event["prompt"]), int(event["seed"]))
                )
            case "checkpoint":
                self.checkpoints.append(int(event["step"]))
            case "warning":
                self.alarms.append(Alarm(int(event.get("step", self.step)), str(event["message"])))
            case "unreadable":
                self.unreadable += 1
            case _:
                pass  # told in the log, and by the run's state

    def _take_step(self, event: Event) -> None:
        step, time = int(event["step"]), float(event["time"])
        values = {name: _number(event[name]) for name in CURVES if name in event}
        self.step, self.told = step, time
        for name, value in values.items():
            self.curves.setdefault(name, Series()).append(step, time, value)
        if lost := [name for name in _MUST_BE_NUMBERS if name in values and values[name] is None]:
            self.alarms.append(Alarm(step, f"{', '.join(lost)} of step {step} is no number.", bad=True))
        self.prompt, self.seed = str(event.get("prompt", "")), int(event.get("seed", 0))
        self.drawn[self.prompt] += 1
        self.eta = _number(event.get("eta"))
        self.without_face += event.get("face_found") is False

    def _take_gauges(self, event: Event) -> None:
        time = float(event["time"])
        for facts in event["devices"]:
            index = int(facts["index"])
            device = self.devices.setdefault(index, Device(str(facts["name"]), _gib(facts.get("memory_total"))))
            values = {name: _number(facts.get(name)) for name in GAUGES}
            for name, value in {**values, "memory_used": _gib(facts.get("memory_used"))}.items():
                device.gauges[name].append(self.step, time, value)
        self.process["memory"].append(self.step, time, _gib(event.get("process_memory")))
        self.process["cpu"].append(self.step, time, _number(event.get("cpu")))


def _gib(value: Any) -> float | None:
    number = _number(value)
    return None if number is None else number / 2**30


def _number(value: Any) -> float | None:
    """JSON has no NaN: what is no number is null there."""
    return float(value) if value is not None and math.isfinite(value) else None
