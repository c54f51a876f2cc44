"""Base classes of metrics."""

import inspect
import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.judges import Judges
from pvtool_core.settings.jobs import Subject

Better = Literal["higher", "lower", ""]
Features = NDArray[np.float32]


class AnyMetric(Protocol):
    """Common part of metrics of clips and of sets.

    Attributes:
        name: Key in reports.
        label: Name in tables.
        better: Which change is an improvement; empty if neither is.
        models: Models that it uses, by their names in the `evaluation` settings, or `detector`,
            `identity_reward` and `semantic_reward`. Without one of them the metric is skipped.
        limits: Smallest and largest possible value.
        rewarded: Whether training optimises it: it is shown, and does not judge.
        condition: Requirement of a clip or an identity for a value, for the report.
        judges: The models, shared by all metrics.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    better: ClassVar[Better] = ""
    models: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    rewarded: ClassVar[bool] = False
    condition: ClassVar[str] = ""
    judges: Judges

    def __init__(self, judges: Judges) -> None:
        self.judges = judges

    @classmethod
    def description(cls) -> str:
        """Return the definition for the report: the docstring of the class."""
        return inspect.cleandoc(cls.__doc__ or "")


class Metric(AnyMetric, Protocol):
    """One number for each clip."""

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return the value of a clip of `subject`; None if it cannot be measured on this clip."""
        ...


class SetMetric(AnyMetric, Protocol):
    """One number for a set of clips, compared with another set.

    Attributes:
        fewest: Minimum number of clips in each set; reports omit the metric for smaller sets.
        advised: Number of clips below which reports warn.
    """

    fewest: ClassVar[int]
    advised: ClassVar[int] = 0

    def features(self, clip: Clip) -> Features | None:
        """Return the features of a clip, (dimensions,); None if it cannot be measured."""
        ...

    def distance(self, features: Sequence[Features], reference: Sequence[Features]) -> float:
        """Return the distance of the clips' features to those of the reference clips."""
        ...
