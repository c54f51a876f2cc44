"""Likeness curve and newest sample of a run, for the preview beside the list of runs."""

from dataclasses import dataclass, field
from pathlib import Path

from pvtool.dashboard.plot.series import Series
from pvtool_core.errors import PvError
from pvtool_core.settings.sample_metrics import LIKENESS
from pvtool_core.store.event_log import records_of
from pvtool_core.store.events import SampleEvent, ScoresEvent, parse_event
from pvtool_core.store.runs import RunFolder


@dataclass
class RunHighlights:
    """The held-out likeness of a run over its steps, and its newest sample, if any."""

    likeness: Series = field(default_factory=lambda: Series(exact=True, marked=True))
    sample: Path | None = None


def read_highlights(folder: RunFolder) -> RunHighlights:
    """Read the highlights of a run; empty ones if its events cannot be read.

    Reads the whole file of events: call it in a thread.
    """
    found = RunHighlights()
    try:
        for record in records_of(folder.events, ScoresEvent.type, SampleEvent.type):
            match parse_event(record):
                case ScoresEvent() as event:
                    likeness = event.scores.get(LIKENESS)
                    found.likeness.append(event.step, event.time, likeness)
                case SampleEvent() as event:
                    found.sample = folder.path / event.path
                case _:
                    pass
    except (PvError, OSError):  # shown as the problem of the run
        return RunHighlights()
    return found
