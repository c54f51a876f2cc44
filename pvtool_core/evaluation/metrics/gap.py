"""Difference between the similarity by the reward's recogniser and by the held-out one."""

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class Gap(Metric):
    """`reward_similarity` minus `identity_similarity`: a rise can mean reward hacking."""

    name = "gap"

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-2, 2]."""
        judges = self.judges
        held_out, rewarded = (
            judges.likeness(clip, subject, name) for name in (judges.held_out, judges.rewarded)
        )
        return float(rewarded.mean() - held_out.mean())
