"""Likeness of other people in the clip to the identity."""

import numpy as np

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class Bystander(Metric):
    """Highest likeness of any face but the largest, mean over the frames with several faces.

    By the held-out recogniser. Its difference from the base model's clip shows how much the adapter
    changes other people into the identity.
    """

    name, label, better = "bystander", "Likeness of bystanders", "lower"
    models = ("recognizer",)
    condition = "a frame with several faces"

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return a value in [-1, 1]; None if no frame has several faces."""
        highest = self.judges.other_faces(clip, subject, self.judges.held_out)
        return float(np.mean(highest)) if highest else None
