"""Motion of all pixels."""

from itertools import pairwise

import numpy as np

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.evaluation.smoothing import steadied
from pvtool_core.media.decode import Pixels
from pvtool_core.settings.jobs import Subject


class DenseMotion(Metric):
    """Mean optical flow (Farnebäck) from frame to frame, in % of the width.

    Frames are averaged with their neighbours first, against flicker.
    """

    name, label = "dense_motion", "Motion of all pixels"
    condition = "at least four frames"

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return the motion; None for fewer than four frames."""
        return dense_motion(clip.frames)


def dense_motion(frames: Pixels) -> float | None:
    """Return the mean optical flow between neighbouring smoothed frames, in % of the width.

    None for fewer than four frames. Farnebäck 2003, with the settings of OpenCV's example: its wide
    window follows shapes rather than noise.
    """
    import cv2

    if len(frames) < 4:
        return None
    greys = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    steady = steadied(greys.astype(np.float32)).round().astype(np.uint8)
    still = np.zeros((*greys.shape[1:], 2), np.float32)
    flows = [
        cv2.calcOpticalFlowFarneback(before, after, still.copy(), 0.5, 3, 15, 3, 5, 1.2, 0)
        for before, after in pairwise(steady)
    ]
    return (
        100
        * float(np.mean([np.linalg.norm(flow, axis=-1).mean() for flow in flows]))
        / frames.shape[2]
    )
