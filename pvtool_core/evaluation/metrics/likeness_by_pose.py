"""Likeness by the direction of the head."""

import numpy as np
from numpy.typing import NDArray

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject

NOSE_LENGTH = 0.5
"""Distance of the nose's tip from the plane of the eyes, in distances between the eyes."""


class _LikenessOfBand(Metric):
    least, most = 0.0, 90.0
    models = ("recognizer",)

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return a value in [-1, 1]; None if no frame has such a face."""
        likeness = self.judges.likeness(clip, subject, self.judges.held_out)
        faces = self.judges.main_faces(clip)
        own = [
            float(value)
            for value, face in zip(likeness, faces, strict=True)
            if face and self.least <= abs(yaw(face.landmarks)) < self.most
        ]
        return float(np.mean(own)) if own else None


class LikenessFrontal(_LikenessOfBand):
    """Mean likeness of the frames in which the head is turned by less than 20 degrees.

    The angle is estimated from five landmarks.
    """

    name, label, better = "likeness_frontal", "Likeness, frontal (< 20°)", "higher"
    limits = (-1, 1)
    condition = "a face turned by less than 20°"
    most = 20.0


class LikenessTurned(_LikenessOfBand):
    """Mean likeness of the frames in which the head is turned by 20 to 45 degrees."""

    name, label, better = "likeness_turned", "Likeness, turned (20–45°)", "higher"
    limits = (-1, 1)
    condition = "a face turned by 20 to 45°"
    least, most = 20.0, 45.0


class LikenessProfile(_LikenessOfBand):
    """Mean likeness of the frames in which the head is turned by at least 45 degrees."""

    name, label, better = "likeness_profile", "Likeness, profile (≥ 45°)", "higher"
    limits = (-1, 1)
    condition = "a face turned by at least 45°"
    least, most = 45.0, 91.0


def yaw(landmarks: NDArray[np.float32]) -> float:
    """Return the estimated rotation of a head about its vertical axis in degrees.

    `landmarks` are (5, 2): eyes, nose, mouth corners. Positive: turned to the right of the picture.
    On a head turned by ψ, the eyes are d cos ψ apart, and the nose is p d sin ψ beside their
    middle, with p = NOSE_LENGTH; both along the line through the eyes.
    """
    left, right, nose = landmarks[:3].astype(np.float64)
    across = right - left
    distance = float(np.linalg.norm(across))
    if not distance:
        return 90.0
    mouth = landmarks[3:].astype(np.float64).mean(0)
    # The nose is between eyes and mouth, so that a tilt of the middle line is not taken for a turn.
    middle = (left + right) / 2 + (mouth - (left + right) / 2) / 2
    aside = float((nose - middle) @ across) / distance
    return float(np.degrees(np.arctan2(aside / NOSE_LENGTH, distance)))
