"""Faces: found and embedded by insightface, and once more in torch where a gradient must pass.

Pictures are RGB. Landmarks are the left eye, right eye, nose, left and right corner of the mouth as the viewer sees
them, x before y, in pixels, the centre of the first pixel being 0. insightface and onnxruntime are imported only by
those who need them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn

CROP = 112

# Where insightface puts the five landmarks in a crop of 112 × 112 (insightface/utils/face_align.py, arcface_dst).
TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)

Picture = NDArray[np.uint8]
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Face:
    """`bbox` is left, top, right, bottom; `landmarks` (5, 2); both in pixels of the picture. `score` in [0, 1]."""

    bbox: Points
    score: float
    landmarks: Points

    @property
    def area(self) -> float:
        left, top, right, bottom = self.bbox.tolist()
        return (right - left) * (bottom - top)

    @property
    def eye_distance(self) -> float:
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))


def largest(faces: Iterable[Face]) -> Face | None:
    """The face that a clip is about, or None where there is none."""
    return max(faces, key=lambda face: face.area, default=None)


class FaceAnalyzer:
    """A detector and any number of recognisers of one insightface package folder, each named by its ONNX file."""

    def __init__(
        self,
        package: Path,
        detector: str,
        recognizers: Sequence[str],
        detection_size: int,
        threshold: float,
        threads: int = 0,
    ) -> None:
        self._detector = _load(package / detector, threads)
        self._detector.prepare(-1, input_size=(detection_size, detection_size), det_thresh=threshold)
        self._recognizers = {name: _load(package / name, threads) for name in recognizers}

    def detect(self, picture: Picture) -> list[Face]:
        """Every face in an RGB picture (height, width, 3), from the left to the right."""
        boxes, landmarks = self._detector.detect(np.ascontiguousarray(picture[..., ::-1]))
        faces = [Face(box[:4], float(box[4]), points) for box, points in zip(boxes, landmarks, strict=True)]
        return sorted(faces, key=lambda face: float(face.bbox[0]))

    def embed(self, crops: Sequence[Picture], recognizer: str) -> Points:
        """Unit embeddings (crops, dimensions) of aligned RGB crops (112, 112, 3)."""
        model = self._recognizers[recognizer]
        found = [model.get_feat(crop[..., ::-1]).ravel() for crop in crops]
        return np.stack([each / np.linalg.norm(each) for each in found]).astype(np.float32)


def _load(onnx: Path, threads: int) -> Any:
    import onnxruntime
    from insightface.model_zoo import get_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return get_model(str(onnx), providers=["CPUExecutionProvider"], provider_options=[{}], sess_options=options)


def align(picture: Picture, landmarks: Points) -> Picture:
    """The face turned and scaled to where recognisers want it: an RGB crop (112, 112, 3)."""
    from insightface.utils.face_align import norm_crop

    return np.asarray(norm_crop(picture, landmarks, CROP), np.uint8)


def similarity_to_template(landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """The similarity transform that takes landmarks (n, 5, 2) nearest to the template, least squares.

    In the plane, Umeyama's closed form (1991, eq. 40-42) is a regression of complex numbers, w = a z + b: `a` turns and
    scales, `b` shifts; both (n,).
    """
    source = torch.view_as_complex(landmarks.contiguous())
    target = torch.view_as_complex(torch.tensor(TEMPLATE, dtype=landmarks.dtype, device=landmarks.device))
    middle, target_middle = source.mean(1, keepdim=True), target.mean()
    offsets = source - middle
    a = (offsets.conj() * (target - target_middle)).sum(1) / offsets.abs().square().sum(1)
    return a, target_middle - a * middle[:, 0]


def align_differentiable(frames: Tensor, landmarks: Tensor) -> Tensor:
    """`align` for frames (n, 3, height, width) in [0, 1] and landmarks (n, 5, 2): crops (n, 3, 112, 112).

    Gradients reach the frames. Equals insightface's norm_crop but for the rounding of its interpolation.
    """
    height, width = frames.shape[-2:]
    a, b = similarity_to_template(landmarks.to(frames.device, torch.float32))
    axis = torch.arange(CROP, dtype=torch.float32, device=frames.device)
    crop_points = torch.complex(*torch.meshgrid(axis, axis, indexing="xy"))
    points = torch.view_as_real((crop_points - b[:, None, None]) / a[:, None, None])
    scale = torch.tensor([2 / (width - 1), 2 / (height - 1)], device=frames.device)
    grid = (points * scale - 1).to(frames.dtype)
    return nn.functional.grid_sample(frames, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def within_crop(landmarks: Float[Tensor, "n 5 2"], height: int, width: int) -> Bool[Tensor, "n {height} {width}"]:
    """Which pixels of frames of that size lie in the crops that `align` takes of faces with those landmarks."""
    a, b = similarity_to_template(landmarks.float())
    pixels = torch.complex(*torch.meshgrid(torch.arange(float(width)), torch.arange(float(height)), indexing="xy"))
    crop_points = torch.view_as_real(a[:, None, None] * pixels + b[:, None, None])
    return ((crop_points >= 0) & (crop_points <= CROP - 1)).all(-1)


def load_recognizer(onnx: Path) -> nn.Module:
    """The recogniser of an ONNX file in torch, frozen and in eval mode; gradients reach its input.

    It takes crops (n, 3, 112, 112) in [-1, 1], that is (x - 0.5) / 0.5, and gives embeddings (n, dimensions) as the
    network leaves them: not yet of unit length.
    """
    from onnx import load
    from onnx2torch import convert

    return convert(load(str(onnx))).eval().requires_grad_(False)  # given a path, it writes a file beside the model
