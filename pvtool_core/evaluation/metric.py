"""Base classes of metrics."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.judges import Judges
from pvtool_core.settings.jobs import Subject


class Metric(Protocol):
    """One number for each clip.

    `name` is its key in reports; `judges` are the models shared by all metrics.
    """

    name: ClassVar[str]
    judges: Judges

    def __init__(self, judges: Judges) -> None:
        self.judges = judges

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return the value of a clip of `subject`; None if it cannot be measured on this clip."""
        ...


class SetMetric(Protocol):
    """One number for a set of clips, compared with another set; otherwise like `Metric`."""

    name: ClassVar[str]
    judges: Judges

    def __init__(self, judges: Judges) -> None:
        self.judges = judges

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> float:
        """Return the value of `clips`, those with an adapter.

        `reference` are the base model's clips.
        """
        ...
