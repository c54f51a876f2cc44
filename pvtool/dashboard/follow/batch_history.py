"""What the events of one batch's engines add up to: what became of each clip, the newest ones, and how fast it goes."""

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
_NEWEST = 16
_OTHER_THINGS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


class ClipState(IntEnum):
    """What became of a clip; of what several engines say, the greatest holds."""

    FAILED = 0
    ELSEWHERE = 1
    SKIPPED = 2
    DONE = 3


_OUTCOMES = {outcome.name.lower(): outcome for outcome in ClipState}


class ClipEvent(NamedTuple):
    """A clip as an engine told of it; `path` has no suffix, `reason` is why it failed."""

    path: str
    files: tuple[str, ...]
    identity: str
    prompt: str
    seed: int
    time: float
    reason: str = ""

    @property
    def who(self) -> str:
        """Whose clip it is, or which row."""
        return f"{self.identity}, seed {self.seed}" if self.identity else self.path

    @property
    def film(self) -> Path:
        """What of it can be played, if anything."""
        names = sorted(self.files, key=lambda name: not name.endswith((".mp4", ".gif", ".webp")))
        return Path(self.path).with_name(names[0] if names else Path(self.path).name)


@dataclass
class WorkerProgress:
    """What one engine is at. `began` is when it first rendered, `told` when it last said anything of its work."""

    stage: tuple[str, int, int] = ("", 0, 0)
    newest: ClipEvent | None = None
    began: float | None = None
    told: float = 0.0
    devices: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    warnings: list[str] = field(default_factory=list[str])
    made: deque[ClipEvent] = field(default_factory=lambda: deque[ClipEvent](maxlen=_NEWEST))
    found: deque[ClipEvent] = field(default_factory=lambda: deque[ClipEvent](maxlen=_NEWEST))
    times: deque[float] = field(default_factory=deque[float])


class BatchHistory:
    """All that the events of a batch's engines tell, as far as they were read. `expected`: how many clips it lists."""

    def __init__(self) -> None:
        self.expected = 0
        self.refused: tuple[tuple[str, str], ...] = ()
        self.hands: dict[str, WorkerProgress] = {}
        self.counts = dict.fromkeys(ClipState, 0)
        self.failures: dict[str, ClipEvent] = {}
        self.unreadable = 0
        self._outcomes: dict[str, ClipState] = {}

    def add(self, worker: str, events: Iterable[Event]) -> None:
        """Take in more events of one engine, in their order; what holds other things than it should is left out."""
        hand = self.hands.setdefault(worker, WorkerProgress())
        for event in events:
            try:
                self._take(hand, event)
            except _OTHER_THINGS:
                self.unreadable += 1

    def _take(self, hand: WorkerProgress, event: Event) -> None:
        match event["type"]:
            case "clip":
                self._take_clip(hand, event)
            case "stage":
                hand.stage = (
                    str(event["stage"]),
                    int(event.get("done", 0)),
                    int(event.get("total", 0)),
                )
                hand.told = float(event["time"])
                if hand.stage[0] == "rendering" and hand.began is None:
                    hand.began = hand.told
            case "run" if event["state"] in {
                "started",
                "resumed",
            }:  # maybe long after the last one ended
                hand.began = None
            case "gpu":
                hand.devices = [dict(device) for device in event["devices"]]
            case "warning":
                hand.warnings.append(str(event["message"]))
            case "unreadable":
                self.unreadable += 1
            case _:
                pass  # told by the engine's state

    def _take_clip(self, hand: WorkerProgress, event: Event) -> None:
        path, outcome, time = str(event["path"]), _OUTCOMES[event["status"]], float(event["time"])
        names = tuple(map(str, event.get("files", ())))
        reason = str(event["reason"]) if outcome is ClipState.FAILED else ""
        told = ClipEvent(
            path,
            names,
            str(event["identity"]),
            str(event["prompt"]),
            int(event["seed"]),
            time,
            reason,
        )
        hand.newest, hand.told = told, max(hand.told, time)
        if outcome is ClipState.DONE:
            hand.made.append(told)
            hand.times.append(time)
            while hand.times[0] < time - RATE_SECONDS:
                hand.times.popleft()
        elif outcome is not ClipState.FAILED:
            hand.found.append(told)
        self._settle(told, outcome)

    def _settle(self, told: ClipEvent, outcome: ClipState) -> None:
        before = self._outcomes.get(told.path)
        if before is None or outcome > before:
            self._outcomes[told.path] = outcome
            self.counts[outcome] += 1
            if before is not None:
                self.counts[before] -= 1
            self.failures.pop(told.path, None)
        if outcome is ClipState.FAILED and self._outcomes[told.path] is ClipState.FAILED:
            self.failures[told.path] = told

    @property
    def total(self) -> int:
        """How many clips there are to be: as many as are listed, or as were told of where the list is gone."""
        return max(self.expected, len(self._outcomes)) + len(self.refused)

    @property
    def failed(self) -> int:
        """How many clips failed or were refused, as `pv render` counts them."""
        return self.counts[ClipState.FAILED] + len(self.refused)

    @property
    def all_failures(self) -> list[ClipEvent]:
        """Failed clips and refused rows, oldest first."""
        rows = [ClipEvent(row, (), "", "", 0, 0.0, reason) for row, reason in self.refused]
        return rows + sorted(self.failures.values(), key=attrgetter("time"))

    @property
    def left(self) -> int:
        """How many clips nothing was told of yet."""
        return self.total - len(self._outcomes) - len(self.refused)

    @property
    def there(self) -> int:
        """How many clips are there, whoever made them."""
        return len(self._outcomes) - self.counts[ClipState.FAILED]

    @property
    def told(self) -> float:
        """When an engine last said anything of its work."""
        return max((hand.told for hand in self.hands.values()), default=0.0)

    def newest(self, count: int) -> list[ClipEvent]:
        """The clips that were made last, the newest first; those that were found where too few were made."""
        made = nlargest(
            count,
            (told for hand in self.hands.values() for told in hand.made),
            key=attrgetter("time"),
        )
        known = {told.path for told in made}
        found = {
            told.path: told
            for hand in self.hands.values()
            for told in hand.found
            if told.path not in known
        }
        return made + nlargest(count - len(made), found.values(), key=attrgetter("time"))

    def rate(self, now: float) -> float | None:
        """Clips an hour over the last minutes before `now`; None before one was made, or where none is any more."""
        began = min(
            (hand.began for hand in self.hands.values() if hand.began is not None), default=now
        )
        since = max(now - RATE_SECONDS, began)
        made = sum(since <= time <= now for hand in self.hands.values() for time in hand.times)
        return 3600 * made / (now - since) if made and now > since else None

    def eta(self, now: float) -> float | None:
        """Seconds until the last clip, at this rate."""
        rate = self.rate(now)
        return 3600 * self.left / rate if rate else None
