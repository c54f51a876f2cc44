"""Turns an engine's events into progress for a person."""

from collections.abc import Callable
from typing import Any, Self

from pvtool.output import progress
from pvtool.words import duration
from pvtool_core.runs import Event


class JobProgress:
    """Shows what an engine reports; `on_clip` is told of each clip of a render job."""

    def __init__(self, iterations: int = 0, on_clip: Callable[[Event], None] | None = None) -> None:
        self._progress = progress()
        self._iterations = iterations
        self._on_clip = on_clip

    def on_event(self, event: Event) -> None:
        """Show one event."""
        kind = event["type"]
        if kind == "stage":
            self._progress.update(event["stage"], event.get("done", 0), event.get("total", 0))
        elif kind == "step":
            self._progress.update("training", event["step"], self._iterations, _step_note(event))
        elif kind == "clip" and self._on_clip:
            self._on_clip(event)
        elif words := _words(event):
            self._progress.say(words)

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)


def _step_note(event: Event) -> str:
    numbers = [f"{name} {event[name]:.3f}" for name in ("loss", "icr", "scr") if event.get(name) is not None]
    if eta := event.get("eta"):
        numbers.append(f"{duration(eta)} left")
    return "  ".join(numbers)


def _words(event: Event) -> str | None:
    if event["type"] == "warning":
        return f"Warning: {event.get('message', '')}"
    if event["type"] == "sample":
        return f"Sample at step {event.get('step', 0)}: {event['path']}"
    if event["type"] == "run" and event["state"] in {"resumed", "paused"}:
        return f"The run is {event['state']}" + (f" at step {event['step']}." if "step" in event else ".")
    return None
