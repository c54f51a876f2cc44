"""Show an engine's events as progress for users."""

import time
from collections.abc import Collection
from typing import Any, Self

from pvtool.output import progress
from pvtool.text import describe_scores, duration, figures
from pvtool_core.store.events import (
    ClipEvent,
    Event,
    LoraEvent,
    RunEvent,
    SampleEvent,
    ScoresEvent,
    StageEvent,
    StepEvent,
    TelemetryEvent,
    WarningEvent,
)

SHOWN_FILES = 20


class JobProgress:
    """Shows the progress of an engine, in training with these losses on this device."""

    def __init__(
        self, iterations: int = 0, losses: Collection[str] = (), device: str = "auto"
    ) -> None:
        self._progress = progress()
        self._iterations, self._losses, self._step = iterations, losses, 0
        number = device.partition(":")[2]
        self._device, self._memory = int(number) if number.isdecimal() else 0, ""

    def on_event(self, event: Event) -> None:
        """Show one event."""
        match event:
            case StageEvent(stage="training"):
                self._progress.update("training", self._step, self._iterations)
            case StageEvent():
                self._progress.update(event.stage, event.done or 0, event.total or 0)
            case StepEvent():
                self._step = event.step
                self._progress.update(
                    "training", event.step, self._iterations, self._note_of(event)
                )
            case TelemetryEvent():
                self._memory = self._memory_of(event)
            case RunEvent() if event.step is not None:
                self._step = event.step
                self._say(event)
            case _:
                self._say(event)

    def _note_of(self, event: StepEvent) -> str:
        """Return numbers of an iteration, the most important first, since not all may fit."""
        numbers = [f"{duration(event.eta)} left"] if event.eta else []
        if seconds := event.scalars.get("seconds"):
            numbers.append(f"{figures(seconds)} s/it")
        numbers += [self._memory] if self._memory else []
        losses = {name: event.scalars.get(name) for name in self._losses}
        numbers += [f"{name} {value:.3f}" for name, value in losses.items() if value is not None]
        return "  ".join(numbers)

    def _memory_of(self, event: TelemetryEvent) -> str:
        """Return the used memory of the device, or of the engine without one."""
        used = {device.index: device.memory_used for device in event.devices}.get(self._device)
        if used:
            return f"GPU {figures(used / 2**30)} GiB"
        return f"RAM {figures(event.process_memory / 2**30)} GiB" if event.process_memory else ""

    def _say(self, event: Event) -> None:
        if message := _message_of(event):
            self._progress.say(message)

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)


class ClipProgress(JobProgress):
    """Shows how many clips of a batch exist, by any engine, and the remaining time."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self._total, self._made = total, 0
        self._reported: set[str] = set()
        self._warned: set[str] = set()
        self._files: set[tuple[str, str]] = set()
        self._began = 0.0

    def on_event(self, event: Event) -> None:
        """Show one event; steps and truncated prompts are ignored.

        A warning or a loaded file of several engines is shown once, and only the first files are.
        """
        match event:
            case WarningEvent() if event.cut or event.message in self._warned:
                pass
            case WarningEvent():
                self._warned.add(event.message)
                super().on_event(event)
            case LoraEvent():
                self._show_file(event)
            case StageEvent(stage="rendering"):
                self._show()
            case StageEvent() if self._reported:
                pass
            case _:
                super().on_event(event)

    def _show_file(self, event: LoraEvent) -> None:
        file = (event.role, event.name)
        if file not in self._files and len(self._files) < SHOWN_FILES:
            self._files.add(file)
            super().on_event(event)

    def on_clip(self, event: ClipEvent) -> None:
        """Count a clip that was made, found or given up; one that was given up may be made yet."""
        self._reported.add(event.path)
        if event.status == "done":
            self._made += bool(self._began)  # what comes before the first one is mostly loading
            self._began = self._began or time.monotonic()
        self._show()

    def _show(self) -> None:
        self._progress.update("rendering", len(self._reported), self._total, self._note())

    def _note(self) -> str:
        if not self._made:
            return ""
        each = (time.monotonic() - self._began) / self._made
        left = duration(each * (self._total - len(self._reported)))
        return f"{3600 / each:.0f} clips per hour  {left} left"


def _message_of(event: Event) -> str | None:
    match event:
        case WarningEvent():
            return f"Warning: {event.message}"
        case LoraEvent():
            unmatched = f"; unmatched: {', '.join(event.unmatched)}" if event.unmatched else ""
            count = f"{event.matched} of {event.keys} keys matched"
            return f"{event.role} {event.name}: {count}{unmatched}"
        case SampleEvent():
            return f"Sample at step {event.step}: {event.path}"
        case ScoresEvent():
            return f"Scores at step {event.step}: {describe_scores(event.scores, event.base)}"
        case RunEvent(state="finished") if event.reason:
            return f"Training ended early. {event.reason}"
        case RunEvent(state="resumed" | "paused"):
            place = "" if event.step is None else f" at step {event.step}"
            return f"The run is {event.state}{place}."
        case _:
            return None
