"""Similarity to the identity in the worst frame."""

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class IdentitySimilarityMin(Metric):
    """The lowest similarity of all frames, by the held-out recogniser.

    The value is 0 for a frame without a face.
    """

    name = "identity_similarity_min"

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-1, 1]."""
        return float(self.judges.likeness(clip, subject, self.judges.held_out).min())
