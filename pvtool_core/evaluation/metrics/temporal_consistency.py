"""Consistency of neighbouring frames."""

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class TemporalConsistency(Metric):
    """Mean cosine of the embeddings of consecutive frames, by `evaluation.text_model`.

    A still clip has 1: read it together with motion.
    """

    name, label, better = "temporal_consistency", "Temporal consistency", "higher"
    limits = (-1, 1)
    models = ("text_model",)
    condition = "at least two frames"

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return a value in [-1, 1]; None for a single frame."""
        pictures = self.judges.pictures(clip, "text_model")
        if len(pictures) == 1:
            return None
        return float((pictures[1:] * pictures[:-1]).sum(-1).mean())
