"""Faces: found and embedded by insightface, and once more in torch where a gradient must pass.

Pictures are RGB. Landmarks are the left eye, right eye, nose, left and right corner of the mouth as the viewer sees
them, x before y, in pixels, the centre of the first pixel being 0. insightface and onnxruntime are imported only by
those who need them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn

from pvtool_core.errors import InputRefused, NotFinite
from pvtool_core.faces.insightface_models import CROP, open_detector, open_recognizer
from pvtool_core.faces.onnx_torch import in_torch

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
        """Raises InputRefused if a file is not what it is named as."""
        self._detector = open_detector(package / detector, threads)
        self._detector.prepare(
            -1, input_size=(detection_size, detection_size), det_thresh=threshold
        )
        self._recognizers = {name: open_recognizer(package / name, threads) for name in recognizers}

    def detect(self, picture: Picture) -> list[Face]:
        """Every face in an RGB picture (height, width, 3), from the left to the right."""
        boxes, landmarks = self._detector.detect(np.ascontiguousarray(picture[..., ::-1]))
        faces = [
            Face(box[:4], float(box[4]), points)
            for box, points in zip(boxes, landmarks, strict=True)
        ]
        return sorted(faces, key=lambda face: float(face.bbox[0]))

    def embed(self, crops: Sequence[Picture], recognizer: str) -> Points:
        """Unit embeddings (crops, dimensions) of aligned RGB crops (112, 112, 3). Raises NotFinite."""
        model = self._recognizers[recognizer]
        found = [model.get_feat(crop[..., ::-1]).ravel() for crop in crops]
        with np.errstate(invalid="ignore"):  # what a broken recogniser gives is looked at below
            embeddings = np.stack([each / np.linalg.norm(each) for each in found]).astype(
                np.float32
            )
        if not np.isfinite(embeddings).all():
            raise NotFinite(
                f"embeddings by {recognizer}", "Check the recogniser: `pv models verify`."
            )
        return embeddings


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
    target = torch.view_as_complex(
        torch.tensor(TEMPLATE, dtype=landmarks.dtype, device=landmarks.device)
    )
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
    return nn.functional.grid_sample(
        frames, grid, mode="bilinear", padding_mode="zeros", align_corners=True
    )


def within_crop(
    landmarks: Float[Tensor, "n 5 2"], height: int, width: int
) -> Bool[Tensor, "n {height} {width}"]:
    """Which pixels of frames of that size lie in the crops that `align` takes of faces with those landmarks."""
    a, b = similarity_to_template(landmarks.float())
    pixels = torch.complex(
        *torch.meshgrid(torch.arange(float(width)), torch.arange(float(height)), indexing="xy")
    )
    crop_points = torch.view_as_real(a[:, None, None] * pixels + b[:, None, None])
    return ((crop_points >= 0) & (crop_points <= CROP - 1)).all(-1)


_EQUAL = 1e-3
"""Relative distance of embeddings in torch and onnxruntime; rounding leaves 1e-5, or more in float16."""


class Recognizer(nn.Module):
    """A face recogniser in torch that prepares its crops as insightface does for the same file."""

    def __init__(self, network: nn.Module, mean: float, std: float) -> None:
        """`network` takes crops (n, 3, 112, 112), `mean` off and divided by `std` in the units of 0 to 255."""
        super().__init__()
        self.network, self.mean, self.std = network, mean / 255, std / 255
        self.takes_several = _takes_several(network)

    def forward(self, crops: Float[Tensor, "n 3 112 112"]) -> Float[Tensor, "n width"]:
        """Embeddings of RGB crops in [0, 1], as the network leaves them: not yet of unit length."""
        prepared = (crops - self.mean) / self.std
        parts = [prepared] if self.takes_several else prepared.split(1)
        return torch.cat([self.network(part) for part in parts])


@torch.no_grad()
def _takes_several(network: nn.Module) -> bool:
    """Whether a batch goes through; some exporters write the size of their example, one, into the graph."""
    try:
        return len(network(torch.zeros(2, 3, CROP, CROP))) == 2
    except RuntimeError:
        return False


def load_recognizer(onnx: Path) -> Recognizer:
    """The recogniser of an ONNX file in torch, frozen and in eval mode; gradients reach its crops.

    Raises InputRefused if the file is no recogniser, or has a layer through which no gradient can be led.
    """
    theirs = open_recognizer(onnx)
    try:
        ours = Recognizer(in_torch(onnx), theirs.input_mean, theirs.input_std).eval()
    except NotImplementedError as error:
        hint = "Name another recogniser in identity_reward.recognizer; this one can only judge."
        words = f"{onnx.name} has a layer that torch cannot take a gradient through: {_layer_of(error)}."
        raise InputRefused(words, hint) from error
    _check_equal(onnx, ours, theirs)
    return ours


def _layer_of(error: NotImplementedError) -> str:
    """The layer that an error of onnx2torch names, or its own words."""
    named = re.search(r"operation_type='(\w+)', version=(\d+)", str(error))
    return f"{named[1]} of opset {named[2]}" if named else str(error)


@torch.no_grad()
def _check_equal(onnx: Path, ours: Recognizer, theirs: Any) -> None:
    """Raises InputRefused if the network in torch gives another embedding than onnxruntime does."""
    crop = np.random.default_rng(0).integers(0, 256, (CROP, CROP, 3), np.uint8)
    wanted = torch.from_numpy(theirs.get_feat(crop[..., ::-1])).double()
    found = ours(torch.from_numpy(crop).permute(2, 0, 1)[None] / 255).double()
    if found.shape != wanted.shape or not (found - wanted).norm() <= _EQUAL * wanted.norm():
        hint = "Export it again with another opset, or name another recogniser in identity_reward.recognizer."
        raise InputRefused(
            f"{onnx.name} gives other embeddings in torch than in onnxruntime.", hint
        )
