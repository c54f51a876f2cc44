"""Copying of the photos: likeness to a photo that training has not used."""

import numpy as np
from numpy.typing import NDArray

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject

_CONDITION = "a photo that training has not used (identity_reward.held_out_photos)"


class LikenessHeldOutPhoto(Metric):
    """Mean cosine of the frames' faces with the held-out photos, by the held-out recogniser."""

    name, label, better = "likeness_held_out_photo", "Likeness to held-out photos", "higher"
    models = ("recognizer",)
    condition = _CONDITION

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return a value in [-1, 1]; None without a face or without such a photo."""
        judges = self.judges
        held_out = judges.photos(subject, judges.held_out).held_out
        if not len(held_out) or not judges.face_crops(clip):
            return None
        return float((judges.embeddings(clip, judges.held_out) @ held_out.T).mean())


class CopyPaste(Metric):
    """(θ(face, held-out) − θ(face, training)) / θ(training, held-out), mean over frames.

    θ is the angle between embeddings by the held-out recogniser; for several photos, of their mean.
    1 is a copy of the training photos; 0 is equally like both (WithAnyone, 2025).
    """

    name, label, better = "copy_paste", "Copy-Paste", "lower"
    models = ("recognizer",)
    condition = _CONDITION

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return a value; None without a face or without such a photo."""
        judges = self.judges
        photos = judges.photos(subject, judges.held_out)
        if not len(photos.held_out) or not judges.face_crops(clip):
            return None
        training, middle = photos.mean, photos.held_out.mean(0)
        held_out = middle / np.linalg.norm(middle)
        faces = judges.embeddings(clip, judges.held_out)
        between = _angle(training @ held_out)
        if not between:
            return None
        return float(((_angle(faces @ held_out) - _angle(faces @ training)) / between).mean())


def _angle(cosine: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.arccos(np.clip(cosine, -1, 1))
