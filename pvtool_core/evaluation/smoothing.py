"""Smoothing over time, for metrics of motion."""

import numpy as np
from numpy.typing import NDArray


def steadied(values: NDArray[np.float32]) -> NDArray[np.floating]:
    """Return each frame but the first and the last, averaged 1 : 2 : 1 with its neighbours.

    The frames are on the first axis. Motion that continues from frame to frame is kept. Alternating
    changes are reduced to a third: flicker of the picture and jitter of the detector, which still
    clips have too.
    """
    return (values[:-2] + 2 * values[1:-1] + values[2:]) / 4
