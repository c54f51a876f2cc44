"""Turns an engine's events into progress for a person."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from pvtool.output import progress
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


def describe(event: Event) -> str:
    """One event as a line of a log."""
    rest = {key: value for key, value in event.items() if key not in {"time", "type"}}
    values = "  ".join(f"{key}={_short(value)}" for key, value in rest.items())
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(event['time']))}  {event['type']:<10}  {values}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """`95` as `1:35`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shown(path: Path) -> str:
    """A path as a person would type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
