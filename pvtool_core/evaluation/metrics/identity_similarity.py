"""Similarity to the identity, by the held-out recogniser."""

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class IdentitySimilarity(Metric):
    """Mean over frames of the cosine with the identity's mean embedding.

    The value is 0 for a frame without a face.
    """

    name = "identity_similarity"

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-1, 1]. Read it together with `face_share`."""
        return float(self.judges.likeness(clip, subject, self.judges.held_out).mean())
