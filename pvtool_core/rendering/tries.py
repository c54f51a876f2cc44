"""Tries of clips in this process: which seed follows, and the result of each planned clip.

Results of tries are those of their sidecars, so that a batch continues where it was killed. Imports
no torch.
"""

import threading
from dataclasses import dataclass, replace

from pvtool_core.batches.seed_tries import applies_to, further_try, is_settled
from pvtool_core.settings.jobs import RenderItem, TriesConfig
from pvtool_core.store.clip_likeness import ClipLikeness, Try
from pvtool_core.store.events import ClipEvent


@dataclass
class TriedClip:
    """A planned clip, and the events of all its tries so far, its own first."""

    planned: RenderItem
    events: list[ClipEvent]

    @property
    def likeness(self) -> ClipLikeness | None:
        """The likeness of the planned clip, with its tries if there are several."""
        own = self.events[0].likeness
        tries = tuple(
            Try(seed=event.seed, mean=event.likeness.mean, clip=event.path.rpartition("/")[2])
            for event in self.events
            if event.likeness
        )
        return replace(own, tries=tries) if own and len(tries) > 1 else own

    @property
    def event(self) -> ClipEvent:
        """The result of the planned clip: failed if a try failed, otherwise done if any was."""
        first, last = self.events[0], self.events[-1]
        statuses = {event.status for event in self.events}
        status = next(
            (one for one in ("failed", "done", "elsewhere") if one in statuses), first.status
        )
        reason = f"Seed {last.seed}: {last.reason}" if status == "failed" else ""
        seconds = round(sum(event.seconds or 0.0 for event in self.events), 3)
        likeness = self.likeness
        return replace(first, status=status, reason=reason, seconds=seconds, likeness=likeness)


class Tries:
    """Collects the results of clips and their tries, from any thread."""

    def __init__(self, config: TriesConfig) -> None:
        self._config = config
        self._waiting: dict[str, TriedClip] = {}
        self._next: list[RenderItem] = []
        self._settled: list[TriedClip] = []
        self._turn = threading.Lock()

    def add(self, item: RenderItem, event: ClipEvent) -> ClipEvent | None:
        """Add the result of a clip or of a try.

        Return the event to report, or None if a further try or `take_settled` follows.
        """
        if not applies_to(item, self._config):
            return event
        with self._turn:
            tried = self._waiting.pop(item.clip, None)
            if tried is None and (
                event.likeness is None or is_settled(event.likeness, self._config)
            ):
                return event
            tried = tried or TriedClip(item, [])
            tried.events.append(event)
            if event.status == "failed":
                return tried.event
            if self._is_over(tried):
                self._settled.append(tried)
            else:
                following = further_try(tried.planned, len(tried.events), self._config.seed_step)
                self._waiting[following.clip] = tried
                self._next.append(following)
        return None

    def _is_over(self, tried: TriedClip) -> bool:
        last = tried.events[-1].likeness
        enough = last is None or last.mean >= self._config.min_likeness
        return enough or len(tried.events) >= self._config.max_tries

    def take_next(self) -> list[RenderItem]:
        """Return the tries to render that were added since the last call."""
        with self._turn:
            following, self._next = self._next, []
        return following

    def take_settled(self) -> list[TriedClip]:
        """Return the clips with several tries that ended since the last call."""
        with self._turn:
            settled, self._settled = self._settled, []
        return settled
