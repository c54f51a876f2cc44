"""Score the samples of a training run, and compare them with the base model's clips.

The judges are models that training does not use. They are loaded by a function that the trainer is
given: training and evaluation do not depend on each other.
"""

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Protocol

from pvtool_core.backbones.interface import to_pixels
from pvtool_core.errors import NotFinite
from pvtool_core.media.decode import Pixels
from pvtool_core.objectives import AdaptedModel
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.store.events import Report, ScoredSample, ScoresEvent

Scores = Mapping[str, float]


class SampleJudge(Protocol):
    """Scores clips; it leaves random numbers, gradients and the trained model as they are."""

    def score(self, frames: Pixels, prompt: str, seed: int) -> Scores:
        """Return the values of a clip by metric; those that it does not have are left out."""
        ...

    def park(self) -> None:
        """Free the accelerator's memory until the next sample."""
        ...


LoadJudge = Callable[[TrainJob, Report], SampleJudge]


class SampleScoring:
    """Scores of the samples of one step after the other.

    The judge is loaded with the first sample; each clip of the base model is scored once.
    """

    def __init__(self, job: TrainJob, model: AdaptedModel, load: LoadJudge, report: Report) -> None:
        self._job, self._model, self._load, self._report = job, model, load, report
        self._judge: SampleJudge | None = None
        self._base: dict[tuple[str, int], Scores] = {}
        self._clips: list[ScoredSample] = []

    def add(self, frames: Pixels, prompt: str, seed: int) -> None:
        """Score a sample, and the base model's clip of the same prompt and seed."""
        if self._judge is None:
            self._judge = self._load(self._job, self._report)
        if (prompt, seed) not in self._base:
            self._base[prompt, seed] = self._base_scores(self._judge, prompt, seed)
        scores, base = self._judge.score(frames, prompt, seed), self._base[prompt, seed]
        self._clips.append(ScoredSample(prompt=prompt, seed=seed, scores=scores, base=base))

    def _base_scores(self, judge: SampleJudge, prompt: str, seed: int) -> Scores:
        try:
            frames = to_pixels(self._model.whole_clip(self._model.cache.final(prompt, seed)))
        except NotFinite:
            return {}
        return judge.score(frames, prompt, seed)

    def take(self, step: int) -> ScoresEvent | None:
        """Return the scores of the samples added since the last call; None without any."""
        clips, self._clips = self._clips, []
        if self._judge:
            self._judge.park()
        scores, base = _means(clips)
        event = ScoresEvent(
            step=step, clips=len(clips), scores=scores, base=base, samples=tuple(clips)
        )
        return event if clips else None


def _means(clips: list[ScoredSample]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the means of samples and of base clips, over the clips for which both are known."""
    names = dict.fromkeys(name for clip in clips for name in clip.scores)
    pairs = {
        name: [
            (clip.scores[name], clip.base[name])
            for clip in clips
            if name in clip.scores and name in clip.base
        ]
        for name in names
    }
    known = {name: found for name, found in pairs.items() if found}
    return (
        {name: fmean(own for own, _ in found) for name, found in known.items()},
        {name: fmean(base for _, base in found) for name, found in known.items()},
    )
