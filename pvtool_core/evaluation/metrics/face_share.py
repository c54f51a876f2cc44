"""Share of frames with a face."""

from statistics import fmean

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class FaceShare(Metric):
    """Share of frames in which the detector finds a face, from 0 to 1."""

    name = "face_share"

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return the share of frames with any face."""
        return fmean(face is not None for face in self.judges.faces(clip))
