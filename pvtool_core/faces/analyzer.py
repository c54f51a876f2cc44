"""Face detection and recognition by insightface, and differentiable recognition in torch.

Images are RGB. Landmarks are left eye, right eye, nose, left and right mouth corner as the viewer
sees them, x before y, in pixels, with the centre of the first pixel at 0. insightface and
onnxruntime are imported only when needed.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn

from pvtool_core.errors import InputRefused, NotFinite
from pvtool_core.faces.insightface_models import CROP, OnnxRecognizer, open_detector

# Landmarks in a crop of 112 × 112 (insightface/utils/face_align.py, arcface_dst).
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
    """One detected face.

    `bbox` is left, top, right, bottom; `landmarks` (5, 2); both in pixels of the image. `score` in
    [0, 1].
    """

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
    """Return the largest face, or None without any."""
    return max(faces, key=lambda face: face.area, default=None)


class FaceAnalyzer:
    """A detector and recognisers: ONNX files of an insightface package, or at absolute paths."""

    def __init__(
        self,
        package: Path,
        detector: str,
        recognizers: Sequence[str],
        detection_size: int,
        threshold: float,
        threads: int = 0,
    ) -> None:
        """Load the models. Raises InputRefused if a file is of another kind."""
        self._detection_size = detection_size
        self._detector = open_detector(package / detector, threads)
        self._detector.prepare(
            -1, input_size=(detection_size, detection_size), det_thresh=threshold
        )
        self._recognizers = {name: OnnxRecognizer(package / name, threads) for name in recognizers}

    def detect(self, picture: Picture) -> list[Face]:
        """Return every face in an RGB image (height, width, 3), from left to right."""
        if min(picture.shape[:2]) * self._detection_size < max(picture.shape[:2]):
            return []  # the shorter side would be 0 after scaling for the detector
        boxes, landmarks = self._detector.detect(np.ascontiguousarray(picture[..., ::-1]))
        faces = [
            Face(box[:4], float(box[4]), points)
            for box, points in zip(boxes, landmarks, strict=True)
        ]
        return sorted(faces, key=lambda face: float(face.bbox[0]))

    def embed(self, crops: Sequence[Picture], recognizer: str) -> Points:
        """Return unit embeddings (crops, dimensions) of aligned RGB crops (112, 112, 3).

        `recognizer` is one of the names or paths given. Raises NotFinite.
        """
        model = self._recognizers[recognizer]
        found = [model.embed(crop).ravel() for crop in crops]
        with np.errstate(invalid="ignore"):  # invalid results are handled below
            embeddings = np.stack([each / np.linalg.norm(each) for each in found]).astype(
                np.float32
            )
        if not np.isfinite(embeddings).all():
            raise NotFinite(
                f"embeddings by {recognizer}", "Check the recogniser: `pv models verify`."
            )
        return embeddings


def align(picture: Picture, landmarks: Points) -> Picture:
    """Return the aligned face: an RGB crop (112, 112, 3), rotated and scaled for recognisers."""
    from insightface.utils.face_align import norm_crop

    return np.asarray(norm_crop(picture, landmarks, CROP), np.uint8)


def similarity_to_template(landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least-squares similarity transform from landmarks (n, 5, 2) to the template.

    In the plane, Umeyama's closed form (1991, eq. 40-42) is a regression of complex numbers, w = a
    z + b: `a` rotates and scales, `b` shifts; both (n,).
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
    """Align faces in frames (n, 3, height, width) in [0, 1] by landmarks (n, 5, 2).

    Returns crops (n, 3, 112, 112). Gradients reach the frames. Equals insightface's norm_crop up to
    interpolation rounding.
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
    landmarks: Float[Tensor, "n 5 2"], height: int, width: int, margin: float = 0.0
) -> Bool[Tensor, "n {height} {width}"]:
    """Return a mask of the pixels in frames of this size that `align` uses for these landmarks.

    `margin` enlarges it beyond each edge by a share of the crop's side.
    """
    a, b = similarity_to_template(landmarks.float())
    pixels = torch.complex(
        *torch.meshgrid(torch.arange(float(width)), torch.arange(float(height)), indexing="xy")
    )
    crop_points = torch.view_as_real(a[:, None, None] * pixels + b[:, None, None])
    beyond = margin * CROP
    return ((crop_points >= -beyond) & (crop_points <= CROP - 1 + beyond)).all(-1)


_EQUAL = 1e-3
"""Tolerance of embeddings in torch and onnxruntime; rounding leaves 1e-5, or more in float16."""


class Recognizer(nn.Module):
    """A face recogniser in torch with insightface's preprocessing for the same file."""

    def __init__(self, network: nn.Module, mean: float, std: float, order: str = "rgb") -> None:
        """Wrap `network`, which takes crops (n, 3, 112, 112) of 0 to 255 after normalisation.

        `mean` is subtracted, and the result divided by `std`. `order` is that of its channels, rgb
        or bgr.
        """
        super().__init__()
        self.network, self.mean, self.std = network, mean / 255, std / 255
        self.order = order
        self.takes_several = _takes_several(network)

    def forward(self, crops: Float[Tensor, "n 3 112 112"]) -> Float[Tensor, "n width"]:
        """Return embeddings of RGB crops in [0, 1], not normalised."""
        prepared = (crops - self.mean) / self.std
        if self.order == "bgr":
            prepared = prepared.flip(1)
        parts = [prepared] if self.takes_several else prepared.split(1)
        return torch.cat([self.network(part) for part in parts])


@torch.no_grad()
def _takes_several(network: nn.Module) -> bool:
    """Return whether a batch works; some exporters fix the batch size to one."""
    try:
        return len(network(torch.zeros(2, 3, CROP, CROP))) == 2
    except RuntimeError:
        return False


def load_recognizer(onnx: Path) -> Recognizer:
    """Load the recogniser of an ONNX file in torch, frozen and in eval mode.

    Gradients reach its crops. Raises InputRefused if the file is not a recogniser, or has a layer
    without a gradient.
    """
    from pvtool_core.faces.onnx_torch import in_torch  # imports onnx, which only rewards need

    theirs = OnnxRecognizer(onnx)
    try:
        network = in_torch(onnx, theirs.output)
        ours = Recognizer(network, theirs.mean, theirs.std, theirs.order).eval()
    except NotImplementedError as error:
        hint = "Set identity_reward.recognizer to another file; this one is for evaluation only."
        words = f"{onnx.name} has a layer without a gradient in torch: {_layer_of(error)}."
        raise InputRefused(words, hint) from error
    _check_equal(onnx, ours, theirs)
    return ours


def _layer_of(error: NotImplementedError) -> str:
    """Return the layer that an error of onnx2torch names, or its message."""
    named = re.search(r"operation_type='(\w+)', version=(\d+)", str(error))
    return f"{named[1]} of opset {named[2]}" if named else str(error)


@torch.no_grad()
def _check_equal(onnx: Path, ours: Recognizer, theirs: OnnxRecognizer) -> None:
    """Raise InputRefused if the network gives another embedding in torch than in onnxruntime."""
    crop = np.random.default_rng(0).integers(0, 256, (CROP, CROP, 3), np.uint8)
    wanted = torch.from_numpy(theirs.embed(crop)).double()
    found = ours(torch.from_numpy(crop).permute(2, 0, 1)[None] / 255).double()
    if found.shape != wanted.shape or not (found - wanted).norm() <= _EQUAL * wanted.norm():
        hint = "Export it with another opset, or set identity_reward.recognizer to another file."
        raise InputRefused(
            f"{onnx.name} gives other embeddings in torch than in onnxruntime.", hint
        )
