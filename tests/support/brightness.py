"""Brightness of the frames."""

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class Brightness(Metric):
    """Mean of all pixels, from 0 to 1."""

    name, label = "brightness", "Brightness"

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return the mean."""
        return float(clip.frames.mean() / 255)
