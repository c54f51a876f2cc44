"""Table of metrics: one file for each, listed here with its use in reports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from pvtool_core.evaluation.metric import Metric, SetMetric
from pvtool_core.evaluation.metrics.consistency import Consistency
from pvtool_core.evaluation.metrics.dense_motion import DenseMotion
from pvtool_core.evaluation.metrics.face_share import FaceShare
from pvtool_core.evaluation.metrics.gap import Gap
from pvtool_core.evaluation.metrics.identity_similarity import IdentitySimilarity
from pvtool_core.evaluation.metrics.identity_similarity_min import IdentitySimilarityMin
from pvtool_core.evaluation.metrics.kernel_distance import KernelDistance
from pvtool_core.evaluation.metrics.motion import Motion
from pvtool_core.evaluation.metrics.prompt_score import PromptScore
from pvtool_core.evaluation.metrics.reward_similarity import RewardSimilarity


@dataclass(frozen=True)
class Change:
    """A value derived from those before and after: its key and function."""

    key: str
    of: Callable[[float, float], float | None]


def ratio(before: float, after: float) -> float | None:
    """Return the value after divided by the value before; None if the latter is 0."""
    return after / before if before else None


def difference(before: float, after: float) -> float:
    """Return the value after minus the value before."""
    return after - before


@dataclass(frozen=True)
class MetricEntry:
    """A metric, and how its values are summarised over the clips of one identity."""

    make: type[Metric]
    over_clips: Callable[[Sequence[float]], float] = fmean
    change: Change | None = None


@dataclass(frozen=True)
class SetMetricEntry:
    """A metric of sets, and its minimum number of clips per set.

    With fewer clips, reports omit the metric.
    """

    make: type[SetMetric]
    fewest: int


METRICS: list[MetricEntry] = [
    MetricEntry(IdentitySimilarity),
    MetricEntry(IdentitySimilarityMin, over_clips=min),
    MetricEntry(RewardSimilarity),
    MetricEntry(Gap),
    MetricEntry(FaceShare),
    MetricEntry(Motion, change=Change("motion_ratio", ratio)),
    MetricEntry(DenseMotion, change=Change("dense_motion_ratio", ratio)),
    MetricEntry(PromptScore, change=Change("prompt_change", difference)),
    MetricEntry(Consistency),
]
SET_METRICS: list[SetMetricEntry] = [
    SetMetricEntry(KernelDistance, fewest=50),
]
