"""Show an engine's events as progress for users."""

import time
from collections.abc import Collection, Mapping
from typing import Any, Self

from pvtool.output import progress
from pvtool.text import duration
from pvtool_core.store.events import Event


class JobProgress:
    """Shows the progress of an engine, in training with these losses."""

    def __init__(self, iterations: int = 0, losses: Collection[str] = ()) -> None:
        self._progress = progress()
        self._iterations, self._losses, self._step = iterations, losses, 0

    def on_event(self, event: Event) -> None:
        """Show one event."""
        kind = event["type"]
        if kind == "stage":
            training = event["stage"] == "training"
            done, total = (self._step, self._iterations) if training else (0, 0)
            self._progress.update(
                event["stage"], event.get("done", done), event.get("total", total)
            )
        elif kind == "step":
            self._step = event["step"]
            self._progress.update(
                "training", event["step"], self._iterations, self._step_note(event)
            )
        elif kind == "run" and "step" in event:
            self._step = event["step"]
            self._say(event)
        else:
            self._say(event)

    def _step_note(self, event: Event) -> str:
        losses = {name: value for name, value in event.items() if name in self._losses}
        numbers = [f"{name} {value:.3f}" for name, value in losses.items() if value is not None]
        if eta := event.get("eta"):
            numbers.append(f"{duration(eta)} left")
        return "  ".join(numbers)

    def _say(self, event: Event) -> None:
        if words := _words(event):
            self._progress.say(words)

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
        self._counted: set[str] = set()
        self._began = 0.0

    def on_event(self, event: Event) -> None:
        """Show one event; steps and truncated prompts are ignored."""
        if event["type"] == "warning" and "cut" in event:
            return
        if event["type"] != "stage":
            super().on_event(event)
        elif event["stage"] == "rendering":
            self._show()
        elif not self._counted:
            super().on_event(event)

    def on_clip(self, facts: Mapping[str, Any]) -> None:
        """Count a clip that was rendered, found or failed.

        A failed one may be rendered later by another engine.
        """
        self._counted.add(facts["path"])
        if facts["status"] == "done":
            self._made += bool(self._began)  # the time before the first clip is mostly loading
            self._began = self._began or time.monotonic()
        self._show()

    def _show(self) -> None:
        self._progress.update("rendering", len(self._counted), self._total, self._note())

    def _note(self) -> str:
        if not self._made:
            return ""
        each = (time.monotonic() - self._began) / self._made
        left = duration(each * (self._total - len(self._counted)))
        return f"{3600 / each:.0f} clips per hour  {left} left"


def _words(event: Event) -> str | None:
    if event["type"] == "warning":
        return f"Warning: {event.get('message', '')}"
    if event["type"] == "sample":
        return f"Sample at step {event.get('step', 0)}: {event['path']}"
    if event["type"] == "run" and event["state"] in {"resumed", "paused"}:
        return f"The run is {event['state']}" + (
            f" at step {event['step']}." if "step" in event else "."
        )
    return None
