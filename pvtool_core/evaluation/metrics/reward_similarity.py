"""Similarity to the identity, by the recogniser of the identity reward."""

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class RewardSimilarity(Metric):
    """Like `identity_similarity`, by the recogniser that training optimises.

    It must not be used alone to judge results.
    """

    name = "reward_similarity"

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-1, 1]."""
        return float(self.judges.likeness(clip, subject, self.judges.rewarded).mean())
