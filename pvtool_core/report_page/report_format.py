"""The types of report.json, version 2, as `pv eval` writes it."""

from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict

VERSION = 2


class Interval(TypedDict):
    """A mean with its 95 % interval; without one, `low` and `high` are None."""

    mean: float
    low: float | None
    high: float | None


class Mean(Interval):
    """The mean of a metric over the clips of a method for which it could be measured."""

    clips: int


class Difference(Interval):
    """The mean difference from the reference, over clips of equal identity, prompt and seed."""

    pairs: int
    significant: bool


class Method(TypedDict):
    """The scores of a method; its differences are absent for the reference."""

    clips: int
    means: Mapping[str, Mean]
    differences: NotRequired[Mapping[str, Difference]]
    sets: NotRequired[Mapping[str, float | None]]


class Photos(TypedDict):
    """The likeness of an identity's own photos to each other."""

    ceiling: float | None


class IdentityScores(TypedDict):
    """The means of one identity by method and metric."""

    methods: Mapping[str, Mapping[str, float | None]]
    photos: NotRequired[Photos]
    alarms: NotRequired[Sequence[str]]


class MetricInfo(TypedDict):
    """The definition of a metric; `weights` has the SHA-256 of each file by its name.

    `limits` are the smallest and largest possible value; None if there are none.
    """

    label: str
    description: str
    better: Literal["higher", "lower", ""]
    reward: bool
    limits: NotRequired[Sequence[float] | None]
    weights: Mapping[str, str]


class Skipped(TypedDict):
    """The reason why a metric was not measured, and the command that installs its weights."""

    reason: str
    command: str


class WorstFrame(TypedDict):
    """The frame with the lowest likeness; `time` is in seconds."""

    index: int
    time: float
    likeness: float


class ScoredClip(TypedDict):
    """A clip with its scores; a score is None if it cannot be measured."""

    file: str
    identity: str
    prompt: str
    seed: int
    method: str
    fps: float
    frames: int
    scores: Mapping[str, float | None]
    worst_frame: WorstFrame | None


class Failed(TypedDict):
    """A clip that could not be scored."""

    file: str
    reason: str


class Checkpoint(TypedDict):
    """The means of a checkpoint of training."""

    step: int
    means: Mapping[str, Interval]


class EvaluationReport(TypedDict):
    """The content of report.json. `metrics` is in the order of rows."""

    version: int
    reference: str | None
    methods: Mapping[str, Method]
    identities: Mapping[str, IdentityScores]
    metrics: Mapping[str, MetricInfo]
    skipped: NotRequired[Mapping[str, Skipped]]
    alarms: NotRequired[Sequence[str]]
    fvd_reference: NotRequired[str]
    clips: Sequence[ScoredClip]
    failed: NotRequired[Sequence[Failed]]
    checkpoints: NotRequired[Sequence[Checkpoint]]


def ordered_methods(report: EvaluationReport) -> list[str]:
    """Return the names of all methods, the reference first."""
    return sorted(report["methods"], key=lambda name: name != report["reference"])


def definition(report: EvaluationReport, metric: str) -> MetricInfo:
    """Return the definition of a metric; one that the report does not define has its name only."""
    undefined = MetricInfo(label=metric, description="", better="", reward=False, weights={})
    return report["metrics"].get(metric, undefined)


def main_metric(report: EvaluationReport) -> str | None:
    """Return `likeness`, or the first metric with a direction that was not optimised in training.

    Groups of clips are sorted by it. Returns None if there is none.
    """
    names = sortable_metrics(report)
    return "likeness" if "likeness" in names else next(iter(names), None)


def sortable_metrics(report: EvaluationReport) -> list[str]:
    """Return the metrics with a direction that some clip has a score of, rewards last."""
    measured = {name for clip in report["clips"] for name in clip["scores"]}
    named = [
        name for name, info in report["metrics"].items() if info["better"] and name in measured
    ]
    return sorted(named, key=lambda name: report["metrics"][name]["reward"])
