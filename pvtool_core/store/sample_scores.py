"""Scores of the samples of a run: the newest and the best, and how many followed the best."""

from collections.abc import Iterable

from pvtool_core.settings.sample_metrics import LIKENESS
from pvtool_core.store.events import Event, ScoresEvent


class SampleScores:
    """Scores of a run's samples in the order of steps.

    Attributes:
        newest: Scores of the newest samples; None before the first ones.
        best: Scores of the trained samples with the highest held-out likeness, the first of equal
            ones; None before the first ones.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.newest: ScoresEvent | None = None
        self.best: ScoresEvent | None = None
        self._steps: list[int] = []
        for event in events:
            if isinstance(event, ScoresEvent):
                self.add(event)

    def __contains__(self, step: int) -> bool:
        return step in self._steps

    def add(self, event: ScoresEvent) -> None:
        """Add the scores of a step. Step 0 is the base model and never the best."""
        self.newest = event
        self._steps.append(event.step)
        likeness = event.scores.get(LIKENESS)
        if not event.step or likeness is None:
            return
        if self.best is None or likeness > self.best.scores[LIKENESS]:
            self.best = event

    def since_best(self, every: int) -> int:
        """Return the number of regular samples after the best one.

        `every` are the iterations between them; samples on request do not count.
        """
        if self.best is None:
            return 0
        return sum(step > self.best.step and step % every == 0 for step in self._steps)
