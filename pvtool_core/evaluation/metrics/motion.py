"""Motion of the face's landmarks."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.evaluation.smoothing import steadied
from pvtool_core.settings.jobs import Subject


class Motion(Metric):
    """Mean motion of the face's landmarks from frame to frame, in % of the width.

    Frames are averaged with their neighbours first, against flicker and jitter of the detector.
    """

    name, label = "motion", "Motion of the face"
    condition = "four frames in a row with a face"

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return the motion; None if no four frames in a row have a face."""
        points = [face.landmarks if face else None for face in self.judges.main_faces(clip)]
        return landmark_motion(points, clip.frames.shape[2])


def landmark_motion(points: Sequence[NDArray[np.float32] | None], width: int) -> float | None:
    """Return the motion of landmarks (5, 2) between smoothed frames, in per cent of the width.

    None without four frames in a row that have them.
    """
    rows = [points[first : first + 4] for first in range(len(points) - 3)]
    pairs = [steadied(np.stack(row)) for row in map(_complete, rows) if row]
    steps = [float(np.linalg.norm(after - before, axis=-1).mean()) for before, after in pairs]
    return 100 * fmean(steps) / width if steps else None


def _complete(row: Sequence[NDArray[np.float32] | None]) -> list[NDArray[np.float32]]:
    """Return the row, or nothing if one of its frames has no face."""
    found = [points for points in row if points is not None]
    return found if len(found) == len(row) else []
