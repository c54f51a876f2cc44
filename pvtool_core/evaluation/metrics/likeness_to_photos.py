"""Likeness of the clip's person to the identity, by face recognisers."""

import numpy as np

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class Likeness(Metric):
    """Mean over all frames of the cosine between the largest face and the mean of the photos.

    The photos are those used in training, the recogniser is the held-out one
    (`evaluation.recognizer`). A frame without a face counts as 0. Papers give 100 times this value.
    """

    name, label, better = "likeness", "Likeness", "higher"
    limits = (-1, 1)
    models = ("recognizer",)

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-1, 1]. Read it together with `faces_found`."""
        judges = self.judges
        return float(np.nan_to_num(judges.likeness(clip, subject, judges.held_out)).mean())


class LikenessSecond(Metric):
    """Like `likeness`, by another held-out recogniser (`evaluation.second_recognizer`)."""

    name, label, better = "likeness_second", "Likeness, second recogniser", "higher"
    limits = (-1, 1)
    models = ("second_recognizer",)

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-1, 1]."""
        judges = self.judges
        return float(np.nan_to_num(judges.likeness(clip, subject, judges.second)).mean())


class LikenessFound(Metric):
    """Like `likeness`, over the frames with a face only, as ConsisID and OpenS2V compute it."""

    name, label, better = "likeness_found", "Likeness, frames with a face", "higher"
    limits = (-1, 1)
    models = ("recognizer",)
    condition = "a frame with a face"

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return a value in [-1, 1]; None without a face."""
        likeness = self.judges.likeness(clip, subject, self.judges.held_out)
        return None if np.isnan(likeness).all() else float(np.nanmean(likeness))


class LikenessMin(Metric):
    """Likeness in the worst frame, by the held-out recogniser; 0 for a frame without a face."""

    name, label, better = "likeness_min", "Likeness, worst frame", "higher"
    limits = (-1, 1)
    models = ("recognizer",)

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-1, 1]."""
        judges = self.judges
        return float(np.nan_to_num(judges.likeness(clip, subject, judges.held_out)).min())


class FacesFound(Metric):
    """Fraction of the frames with any face."""

    name, label, better = "faces_found", "Frames with a face", "higher"
    limits = (0, 1)
    models = ("detector",)

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [0, 1]."""
        return float(np.mean([face is not None for face in self.judges.main_faces(clip)]))


class LikenessReward(Metric):
    """Like `likeness`, by the recogniser of the identity reward, which training optimises."""

    name, label, rewarded = "likeness_reward", "Likeness, reward's recogniser", True
    limits = (-1, 1)
    models = ("identity_reward",)

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-1, 1]."""
        judges = self.judges
        return float(np.nan_to_num(judges.likeness(clip, subject, judges.rewarded)).mean())


class Gap(Metric):
    """`likeness_reward` minus `likeness`: a rise can mean reward hacking."""

    name, label, rewarded = "gap", "Reward's recogniser minus held-out", True
    models = ("recognizer", "identity_reward")

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-2, 2]."""
        judges = self.judges
        held_out, rewarded = (
            np.nan_to_num(judges.likeness(clip, subject, name))
            for name in (judges.held_out, judges.rewarded)
        )
        return float(rewarded.mean() - held_out.mean())
