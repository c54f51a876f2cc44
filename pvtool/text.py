"""Events, durations and paths as people read them; for commands and the dashboard alike."""

import time
from pathlib import Path
from typing import Any

from pvtool.plain import plain, plain_lines
from pvtool_core.store.runs import Event

__all__ = ["describe", "duration", "plain", "plain_lines", "shown"]


def describe(event: Event) -> str:
    """One event as a line of a log."""
    rest = {key: value for key, value in event.items() if key not in {"time", "type"}}
    values = "  ".join(f"{key}={_short(value)}" for key, value in rest.items())
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
    return plain(f"{when}  {event['type']:<10}  {values}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """`95` as `1:35`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shown(path: Path) -> str:
    """A path as a person would type it from here."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # deleted meanwhile
        return plain(str(path))
    return plain(str(path.relative_to(here)) if path.is_relative_to(here) else str(path))
