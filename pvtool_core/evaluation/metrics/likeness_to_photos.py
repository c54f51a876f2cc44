"""Likeness of the clip's person to the identity, by face recognisers."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class _Likeness(Metric):
    """Cosines by the recogniser that `recognizer` names, an attribute of the judges."""

    better, limits, models = "higher", (-1, 1), ("recognizer",)
    recognizer: ClassVar[str] = "held_out"

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return a value in [-1, 1]. Read it together with `faces_found`."""
        return float(np.nan_to_num(self._cosines(clip, subject)).mean())

    def _cosines(self, clip: Clip, subject: Subject) -> NDArray[np.float32]:
        recognizer: str = getattr(self.judges, self.recognizer)
        return self.judges.likeness(clip, subject, recognizer)


class Likeness(_Likeness):
    """Mean over all frames of the cosine between the largest face and the mean of the photos.

    The photos are those used in training, the recogniser is the held-out one
    (`evaluation.recognizer`). A frame without a face counts as 0. Papers give 100 times this value.
    """

    name, label = "likeness", "Likeness"


class LikenessSecond(_Likeness):
    """Like `likeness`, by another held-out recogniser (`evaluation.second_recognizer`)."""

    name, label, models = "likeness_second", "Likeness, second recogniser", ("second_recognizer",)
    recognizer = "second"


class LikenessReward(_Likeness):
    """Like `likeness`, by the recogniser of the identity reward, which training optimises."""

    name, label, better = "likeness_reward", "Likeness, reward's recogniser", ""
    models, rewarded = ("identity_reward",), True
    recognizer = "rewarded"


class LikenessFound(_Likeness):
    """Like `likeness`, over the frames with a face only, as ConsisID and OpenS2V compute it."""

    name, label = "likeness_found", "Likeness, frames with a face"
    condition = "a frame with a face"

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return a value in [-1, 1]; None without a face."""
        cosines = self._cosines(clip, subject)
        return None if np.isnan(cosines).all() else float(np.nanmean(cosines))


class LikenessMin(_Likeness):
    """Likeness in the worst frame, by the held-out recogniser; 0 for a frame without a face."""

    name, label = "likeness_min", "Likeness, worst frame"

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-1, 1]."""
        return float(np.nan_to_num(self._cosines(clip, subject)).min())


class FacesFound(Metric):
    """Fraction of the frames with any face."""

    name, label, better = "faces_found", "Frames with a face", "higher"
    limits, models = (0, 1), ("detector",)

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [0, 1]."""
        return float(np.mean([face is not None for face in self.judges.main_faces(clip)]))


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
