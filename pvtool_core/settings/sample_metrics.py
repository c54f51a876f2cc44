"""Table of the metrics that score samples during training, and how the front end shows them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pvtool_core.settings.objectives import LossInfo


@dataclass(frozen=True, kw_only=True)
class SampleMetric:
    """One metric of evaluation, by its name in the table of metrics.

    Attributes:
        info: Display of the curve, and its label in messages.
        against: How values are compared with those of the base model's clips: `ratio` and
            `difference` are shown instead of the value; empty shows the value itself.
        curve: Whether the dashboard draws it; all are exported.
    """

    info: LossInfo
    against: Literal["", "ratio", "difference"] = ""
    curve: bool = False

    def shown(self, value: float | None, base: float | None) -> float | None:
        """Return the shown number; None without a value or without one to compare with."""
        if value is None or not self.against:
            return value
        if base is None:
            return None
        if self.against == "difference":
            return value - base
        return value / base if base > 0 else None


LIKENESS, GAP = "likeness", "gap"
"""Names of the metric that selects the best checkpoint, and of the reward's excess over it."""
SAMPLE_METRICS: Mapping[str, SampleMetric] = {
    LIKENESS: SampleMetric(info=LossInfo("Likeness", "likeness", (0.0, 1.0)), curve=True),
    GAP: SampleMetric(info=LossInfo("Reward's recogniser minus held-out", "gap")),
    "faces_found": SampleMetric(info=LossInfo("Frames with a face", "faces", (0.0, 1.0))),
    "motion": SampleMetric(
        info=LossInfo("Motion / base model's", "motion", (0.0, 1.0)), against="ratio", curve=True
    ),
    "clip_t": SampleMetric(
        info=LossInfo("CLIP-T - base model's", "CLIP-T"), against="difference", curve=True
    ),
}


def compared(scores: Mapping[str, float], base: Mapping[str, float]) -> dict[str, float]:
    """Return the shown number of each metric of the table that has one."""
    shown = {
        name: metric.shown(scores.get(name), base.get(name))
        for name, metric in SAMPLE_METRICS.items()
    }
    return {name: value for name, value in shown.items() if value is not None}
