"""History of a batch from the events of its workers: outcome of each clip and rate."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from pvtool_core.settings.formats import FORMATS
from pvtool_core.store.events import (
    ClipEvent,
    DeviceReading,
    Event,
    RunEvent,
    StageEvent,
    TelemetryEvent,
    UnreadableEvent,
    WarningEvent,
)

RATE_SECONDS = 300.0


class ClipState(IntEnum):
    """Outcome of a clip; the greatest of several workers' outcomes counts."""

    FAILED = 0
    ELSEWHERE = 1
    SKIPPED = 2
    DONE = 3


_OUTCOMES = {outcome.name.lower(): outcome for outcome in ClipState}
FAILED = ClipState.FAILED.name.lower()
"""Status of a failed clip."""


def clip_label(clip: ClipEvent) -> str:
    """Return identity and seed, or the name of a refused row."""
    return f"{clip.identity}, seed {clip.seed}" if clip.identity else clip.path


def playable_path(clip: ClipEvent) -> Path:
    """Return the path of the file to play, preferably a moving image."""
    suffixes = tuple(form.suffix for form in FORMATS.values() if form.suffix)
    names = sorted(clip.files, key=lambda name: not name.endswith(suffixes))
    path = Path(clip.path)
    try:
        return path.with_name(names[0] if names else path.name)
    except ValueError:  # not a file name
        return path


@dataclass
class WorkerProgress:
    """Progress of a worker.

    `started` is the time when rendering began, `last_update` that of the newest clip or stage.
    """

    stage: tuple[str, int, int] = ("", 0, 0)
    newest: ClipEvent | None = None
    started: float | None = None
    last_update: float = 0.0
    devices: tuple[DeviceReading, ...] = ()
    warnings: list[str] = field(default_factory=list[str])
    render_times: deque[float] = field(default_factory=deque[float])


class BatchHistory:
    """State of a batch after all events read so far.

    `expected` is the number of listed clips. `clips` has the event of each reported clip by its
    path, the newest last; `changes` counts those events.
    """

    def __init__(self) -> None:
        self.expected = 0
        self.refused: tuple[tuple[str, str], ...] = ()
        self.workers: dict[str, WorkerProgress] = {}
        self.counts = dict.fromkeys(ClipState, 0)
        self.clips: dict[str, ClipEvent] = {}
        self.changes = 0
        self.unreadable = 0
        self._likeness: dict[str, float] = {}

    def add(self, worker: str, events: Iterable[Event]) -> None:
        """Add events of a worker, in order; unreadable ones are counted."""
        progress = self.workers.setdefault(worker, WorkerProgress())
        for event in events:
            self._add_event(progress, event)

    def _add_event(self, progress: WorkerProgress, event: Event) -> None:
        match event:
            case ClipEvent() if event.status in _OUTCOMES:
                self._add_clip(progress, event)
            case StageEvent():
                progress.stage = (event.stage, event.done or 0, event.total or 0)
                progress.last_update = event.time
                if event.stage == "rendering" and progress.started is None:
                    progress.started = event.time
            case RunEvent(state="started" | "resumed"):
                progress.started = None  # the previous engine may have ended long before
            case TelemetryEvent():
                progress.devices = event.devices
            case WarningEvent():
                progress.warnings.append(event.message)
            case ClipEvent() | UnreadableEvent():
                self.unreadable += 1
            case _:
                pass  # shown as the worker's state

    def _add_clip(self, progress: WorkerProgress, clip: ClipEvent) -> None:
        outcome = _OUTCOMES[clip.status]
        progress.newest = clip
        progress.last_update = max(progress.last_update, clip.time)
        if outcome is ClipState.DONE:
            progress.render_times.append(clip.time)
            while progress.render_times[0] < clip.time - RATE_SECONDS:
                progress.render_times.popleft()
        self._count(clip, outcome)
        if clip.likeness:
            self._likeness.setdefault(clip.path, clip.likeness.mean)

    def _count(self, clip: ClipEvent, outcome: ClipState) -> None:
        known = self.clips.get(clip.path)
        before = _OUTCOMES[known.status] if known else None
        if before is None or outcome > before or outcome is before is ClipState.FAILED:
            self.changes += 1
            self.clips.pop(clip.path, None)
            self.clips[clip.path] = clip
            self.counts[outcome] += 1
            if before is not None:
                self.counts[before] -= 1

    @property
    def total(self) -> int:
        """Return the number of clips: listed ones, or reported ones if the list is missing."""
        return max(self.expected, len(self.clips)) + len(self.refused)

    @property
    def failed(self) -> int:
        """Return the number of failed and refused clips, as `pv render` counts them."""
        return self.counts[ClipState.FAILED] + len(self.refused)

    @property
    def mean_likeness(self) -> float | None:
        """Return the mean likeness of all clips for which it was measured; None without any."""
        return sum(self._likeness.values()) / len(self._likeness) if self._likeness else None

    @property
    def refused_rows(self) -> list[ClipEvent]:
        """Return the refused rows as failed clips."""
        return [ClipEvent(path=row, status=FAILED, reason=reason) for row, reason in self.refused]

    @property
    def remaining(self) -> int:
        """Return the number of clips without an outcome."""
        return self.total - len(self.clips) - len(self.refused)

    @property
    def existing(self) -> int:
        """Return the number of existing clips, rendered by any worker."""
        return len(self.clips) - self.counts[ClipState.FAILED]

    @property
    def last_update(self) -> float:
        """Return the time of the newest clip or stage of any worker."""
        return max((worker.last_update for worker in self.workers.values()), default=0.0)

    def rate(self, now: float) -> float | None:
        """Return the clips per hour in the last minutes before `now`; None without any."""
        workers = self.workers.values()
        started = min(
            (worker.started for worker in workers if worker.started is not None), default=now
        )
        since = max(now - RATE_SECONDS, started)
        count = sum(since <= time <= now for worker in workers for time in worker.render_times)
        return 3600 * count / (now - since) if count and now > since else None

    def eta(self, now: float) -> float | None:
        """Return the seconds until the last clip at the current rate."""
        rate = self.rate(now)
        return 3600 * self.remaining / rate if rate else None
