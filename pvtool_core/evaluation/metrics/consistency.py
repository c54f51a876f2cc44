"""Consistency of neighbouring frames."""

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class Consistency(Metric):
    """Mean cosine of the embeddings of neighbouring frames; 1 for a single frame."""

    name = "consistency"

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-1, 1]."""
        pictures = self.judges.pictures(clip)
        if len(pictures) == 1:
            return 1.0
        return float((pictures[1:] * pictures[:-1]).sum(-1).mean())
