"""The models and metrics of an evaluation, and the scores of one clip by them.

Evaluation shares no code with the rewards except model loading, and its models must have other
weights than theirs. The rewards' own models are reported beside them, to detect reward hacking.
"""

import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np

from pvtool_core.errors import NotFinite, UsageError
from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.judges import Judges, Skipped
from pvtool_core.evaluation.metric import AnyMetric
from pvtool_core.evaluation.metrics import METRICS, SET_METRICS
from pvtool_core.evaluation.scores import ClipScores, WorstFrame
from pvtool_core.settings.jobs import EvaluateJob, Subject

SCORERS = "Check the face recognisers and the image-text model: `pv models verify`."


class Evaluator:
    """The models that score clips, and the metrics that use them.

    Attributes:
        skipped: Metrics that are not computed, with the reason.
    """

    def __init__(self, job: EvaluateJob) -> None:
        """Select the metrics of the job whose models are available.

        Raises UsageError for an unknown metric, InputRefused if a judge is a reward.
        """
        self.judges = Judges(job)
        self.skipped: dict[str, Skipped] = {}
        known = [each.name for each in (*METRICS, *SET_METRICS)]
        if unknown := [name for name in job.metrics if name not in known]:
            raise UsageError(f"Unknown metric {unknown[0]!r}.", f"Metrics: {', '.join(known)}.")
        self._metrics = [each(self.judges) for each in METRICS if self._is_wanted(each, job)]
        self.set_metrics = [each(self.judges) for each in SET_METRICS if self._is_wanted(each, job)]
        rewards = job.identity_reward
        detection = [rewards.detection_size, rewards.detection_threshold, rewards.held_out_photos]
        common = [self.judges.weights("detector"), *detection]
        self.digests = {
            each.name: self._digest(each, common) for each in (*self._metrics, *self.set_metrics)
        }

    def _is_wanted(self, metric: type[AnyMetric], job: EvaluateJob) -> bool:
        if job.metrics and metric.name not in job.metrics:
            return False
        for model in metric.models:
            if missing := self.judges.missing(model):
                self.skipped[metric.name] = missing
                return False
        return True

    def _digest(self, metric: AnyMetric, common: Sequence[object]) -> str:
        """Return a hash of how the values of a metric are computed."""
        weights = [self.judges.content(model) for model in metric.models]
        facts = json.dumps([metric.description(), weights, *common])
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def score(self, clip: Clip, subject: Subject, known: ClipScores | None = None) -> ClipScores:
        """Return the value of each metric, and features for metrics of sets.

        Values of `known` are not computed again. Raises NotFinite if one is NaN or infinite.
        """
        self.judges.forget_clip()
        scored = known or ClipScores(clip.about, clip.fps, len(clip.frames), notes=clip.notes)
        for metric in self._metrics:
            if metric.name not in scored.scores:
                value = metric.measure(clip, subject)
                if value is not None and not math.isfinite(value):
                    raise NotFinite(f"{metric.name} of {clip.name}", SCORERS)
                scored.scores[metric.name] = value
        if scored.worst_frame is None and "likeness_min" in scored.scores:
            scored.worst_frame = self._worst_frame(clip, subject)
        return self._with_features(clip, scored)

    def score_reference(self, clip: Clip, known: ClipScores | None = None) -> ClipScores:
        """Return the features of a clip that others are compared with."""
        self.judges.forget_clip()
        scored = known or ClipScores(clip.about, clip.fps, len(clip.frames), notes=clip.notes)
        return self._with_features(clip, scored)

    def _with_features(self, clip: Clip, scored: ClipScores) -> ClipScores:
        for metric in self.set_metrics:
            if metric.name not in scored.features:
                features = metric.features(clip)
                if features is not None and not np.isfinite(features).all():
                    raise NotFinite(f"features of {clip.name} for {metric.name}", SCORERS)
                scored.features[metric.name] = [] if features is None else features.tolist()
        return scored

    def _worst_frame(self, clip: Clip, subject: Subject) -> WorstFrame:
        judges = self.judges
        likeness = np.nan_to_num(judges.likeness(clip, subject, judges.held_out))
        index = int(likeness.argmin())
        return WorstFrame(index, round(index / clip.fps, 4), float(likeness[index]))

    def is_complete(self, scored: ClipScores, of_a_set: bool = False) -> bool:
        """Return whether there is nothing left to compute; `of_a_set`: for a reference clip."""
        names = {metric.name for metric in self._metrics}
        features = {metric.name for metric in self.set_metrics}
        return features <= scored.features.keys() and (of_a_set or names <= scored.scores.keys())
