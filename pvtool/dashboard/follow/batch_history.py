"""History of a batch from the events of its workers: outcome of each clip, newest clips, rate."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import nlargest
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from pvtool_core.store.events import Event

RATE_SECONDS = 300.0
_KEPT_CLIPS = 16
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


class ClipState(IntEnum):
    """Outcome of a clip; the greatest of several workers' outcomes counts."""

    FAILED = 0
    ELSEWHERE = 1
    SKIPPED = 2
    DONE = 3


_OUTCOMES = {outcome.name.lower(): outcome for outcome in ClipState}


class ClipEvent(NamedTuple):
    """Clip event of a worker.

    `path` has no suffix; `reason` is the cause of a failure.
    """

    path: str
    files: tuple[str, ...]
    identity: str
    prompt: str
    seed: int
    time: float
    reason: str = ""

    @property
    def label(self) -> str:
        """Return identity and seed, or the name of a refused row."""
        return f"{self.identity}, seed {self.seed}" if self.identity else self.path

    @property
    def playable_path(self) -> Path:
        """Return the path of the file to play, preferably a moving image."""
        names = sorted(self.files, key=lambda name: not name.endswith((".mp4", ".gif", ".webp")))
        return Path(self.path).with_name(names[0] if names else Path(self.path).name)


@dataclass
class WorkerProgress:
    """Progress of a worker.

    `started` is the time when rendering began, `last_update` that of the newest clip or stage.
    """

    stage: tuple[str, int, int] = ("", 0, 0)
    newest: ClipEvent | None = None
    started: float | None = None
    last_update: float = 0.0
    devices: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    warnings: list[str] = field(default_factory=list[str])
    rendered: deque[ClipEvent] = field(default_factory=lambda: deque[ClipEvent](maxlen=_KEPT_CLIPS))
    existing: deque[ClipEvent] = field(default_factory=lambda: deque[ClipEvent](maxlen=_KEPT_CLIPS))
    render_times: deque[float] = field(default_factory=deque[float])


class BatchHistory:
    """State of a batch after all events read so far.

    `expected` is the number of listed clips.
    """

    def __init__(self) -> None:
        self.expected = 0
        self.refused: tuple[tuple[str, str], ...] = ()
        self.workers: dict[str, WorkerProgress] = {}
        self.counts = dict.fromkeys(ClipState, 0)
        self.failures: dict[str, ClipEvent] = {}
        self.unreadable = 0
        self._outcomes: dict[str, ClipState] = {}

    def add(self, worker: str, events: Iterable[Event]) -> None:
        """Add events of a worker, in order; malformed events are skipped and counted."""
        progress = self.workers.setdefault(worker, WorkerProgress())
        for event in events:
            try:
                self._add_event(progress, event)
            except _MALFORMED:
                self.unreadable += 1

    def _add_event(self, progress: WorkerProgress, event: Event) -> None:
        match event["type"]:
            case "clip":
                self._add_clip(progress, event)
            case "stage":
                progress.stage = (
                    str(event["stage"]),
                    int(event.get("done", 0)),
                    int(event.get("total", 0)),
                )
                progress.last_update = float(event["time"])
                if progress.stage[0] == "rendering" and progress.started is None:
                    progress.started = progress.last_update
            case "run" if event["state"] in {"started", "resumed"}:
                progress.started = None  # the previous engine may have ended long before
            case "gpu":
                progress.devices = [dict(device) for device in event["devices"]]
            case "warning":
                progress.warnings.append(str(event["message"]))
            case "unreadable":
                self.unreadable += 1
            case _:
                pass  # shown as the worker's state

    def _add_clip(self, progress: WorkerProgress, event: Event) -> None:
        path, outcome, time = str(event["path"]), _OUTCOMES[event["status"]], float(event["time"])
        names = tuple(map(str, event.get("files", ())))
        reason = str(event["reason"]) if outcome is ClipState.FAILED else ""
        clip = ClipEvent(
            path,
            names,
            str(event["identity"]),
            str(event["prompt"]),
            int(event["seed"]),
            time,
            reason,
        )
        progress.newest, progress.last_update = clip, max(progress.last_update, time)
        if outcome is ClipState.DONE:
            progress.rendered.append(clip)
            progress.render_times.append(time)
            while progress.render_times[0] < time - RATE_SECONDS:
                progress.render_times.popleft()
        elif outcome is not ClipState.FAILED:
            progress.existing.append(clip)
        self._count(clip, outcome)

    def _count(self, clip: ClipEvent, outcome: ClipState) -> None:
        before = self._outcomes.get(clip.path)
        if before is None or outcome > before:
            self._outcomes[clip.path] = outcome
            self.counts[outcome] += 1
            if before is not None:
                self.counts[before] -= 1
            self.failures.pop(clip.path, None)
        if outcome is ClipState.FAILED and self._outcomes[clip.path] is ClipState.FAILED:
            self.failures[clip.path] = clip

    @property
    def total(self) -> int:
        """Return the number of clips: listed ones, or reported ones if the list is missing."""
        return max(self.expected, len(self._outcomes)) + len(self.refused)

    @property
    def failed(self) -> int:
        """Return the number of failed and refused clips, as `pv render` counts them."""
        return self.counts[ClipState.FAILED] + len(self.refused)

    @property
    def all_failures(self) -> list[ClipEvent]:
        """Return failed clips and refused rows, oldest first."""
        rows = [ClipEvent(row, (), "", "", 0, 0.0, reason) for row, reason in self.refused]
        return rows + sorted(self.failures.values(), key=attrgetter("time"))

    @property
    def remaining(self) -> int:
        """Return the number of clips without an outcome."""
        return self.total - len(self._outcomes) - len(self.refused)

    @property
    def existing(self) -> int:
        """Return the number of existing clips, rendered by any worker."""
        return len(self._outcomes) - self.counts[ClipState.FAILED]

    @property
    def last_update(self) -> float:
        """Return the time of the newest clip or stage of any worker."""
        return max((worker.last_update for worker in self.workers.values()), default=0.0)

    def newest(self, count: int) -> list[ClipEvent]:
        """Return the newest rendered clips, newest first, filled up with existing clips."""
        rendered = nlargest(
            count,
            (clip for worker in self.workers.values() for clip in worker.rendered),
            key=attrgetter("time"),
        )
        paths = {clip.path for clip in rendered}
        existing = {
            clip.path: clip
            for worker in self.workers.values()
            for clip in worker.existing
            if clip.path not in paths
        }
        return rendered + nlargest(count - len(rendered), existing.values(), key=attrgetter("time"))

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
