"""Optical flow by RAFT, and VBench's dynamic degree on it.

VBench (Huang et al. 2024, dynamic_degree.py) measures the flow between neighbouring frames at 8
frames per second, by RAFT with its weights of FlyingChairs and FlyingThings3D and 20 updates.
torchvision's raft_large C_T_V1 has the same weights. VBench also counts the border that pads frames
to multiples of 8 pixels; here it is removed.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.models.optical_flow import raft_large

from pvtool_core.media.decode import Pixels
from pvtool_core.tensor_files import fill, read_weights

_UPDATES = 20
_MULTIPLE = 8
_SMALLEST_SIDE = 128
"""In pixels; RAFT's correlation pyramid needs it."""
_LARGEST_SHARE = 0.05
_RATE = 8
_HINT = "Fetch its weights with `pv models fetch raft-large`."

Motion = NDArray[np.float64]


class OpticalFlow:
    """RAFT (Teed & Deng 2020), the large model, in float32."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        """Load the weights. Raises InputRefused if the file does not contain those of RAFT."""
        self._network: Any = raft_large(weights=None)
        fill(self._network, read_weights(weights), weights, "RAFT (large)", _HINT)
        self._network.eval().requires_grad_(False).to(device)
        self._device = device

    @torch.inference_mode()
    def flow(self, first: Pixels, second: Pixels) -> NDArray[np.float32]:
        """Return the motion (height, width, 2), x before y in pixels, between two frames.

        The frames are (height, width, 3). Small ones are enlarged by an integer factor for the
        network, and the flow is the mean within each original pixel, in original pixels.
        """
        height, width = first.shape[:2]
        factor = -(-_SMALLEST_SIDE // min(height, width, _SMALLEST_SIDE))
        one, other = (self._prepare(frame, factor) for frame in (first, second))
        flow: Tensor = self._network(one, other, num_flow_updates=_UPDATES)[-1]
        left, _, top, _ = _margins(factor * height, factor * width)
        flow = flow[..., top : top + factor * height, left : left + factor * width]
        flow = functional.avg_pool2d(flow, factor) / factor
        return flow[0].permute(1, 2, 0).cpu().numpy()

    def largest_motion(self, frames: Pixels, fps: float) -> Motion:
        """Return the mean of the largest 5 % of the flow in pixels, for each pair of frames kept.

        `frames` are (frames, height, width, 3), and those of `kept_frames` are compared, one pair
        at a time. A clip with one frame kept has no pair, and an empty result.
        """
        pairs = itertools.pairwise(kept_frames(frames, fps))
        return np.array([mean_of_largest(self.flow(*pair)) for pair in pairs], np.float64)

    def _prepare(self, frame: Pixels, factor: int) -> Tensor:
        """Return a frame in [-1, 1], (1, 3, height, width), enlarged and padded for the network."""
        picture = torch.from_numpy(np.ascontiguousarray(frame)).to(self._device, torch.float32)
        picture = picture.permute(2, 0, 1)[None] / 127.5 - 1
        picture = picture.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
        return functional.pad(picture, _margins(*picture.shape[-2:]), mode="replicate")


def kept_frames(frames: Pixels, fps: float) -> Pixels:
    """Return every max(1, round(fps / 8))-th frame, from the first."""
    return frames[:: max(1, round(fps / _RATE))]


def mean_of_largest(flow: NDArray[np.float32]) -> float:
    """Return the mean of the largest 5 % of lengths in a flow (height, width, 2)."""
    lengths = np.linalg.norm(flow.astype(np.float64), axis=-1).ravel()
    count = max(1, int(len(lengths) * _LARGEST_SHARE))
    return float(np.sort(lengths)[-count:].mean())


def dynamic_flag(motion: Motion, frames_kept: int, height: int, width: int) -> bool | None:
    """Return whether VBench counts a clip as dynamic; None for one frame, which has no motion.

    At least round(frames_kept / 4) pairs, halves rounded to even, must move by more than 6 pixels
    per 256 pixels of the shorter side. By this rule two frames always count.
    """
    if not len(motion):
        return None
    moving = np.count_nonzero(motion > 6 * min(height, width) / 256)
    return bool(moving >= round(4 * frames_kept / 16))


def dynamic_flow(motion: Motion) -> float | None:
    """Return the mean motion of all pairs in pixels; None for one frame."""
    return float(motion.mean()) if len(motion) else None


def _margins(height: int, width: int) -> tuple[int, int, int, int]:
    """Return left, right, top and bottom margins that make sides multiples of 8, as VBench."""
    tall, wide = -height % _MULTIPLE, -width % _MULTIPLE
    return wide // 2, wide - wide // 2, tall // 2, tall - tall // 2
