"""ConsisID's conditions of a photo, computed by diffusers' code with the published face models.

diffusers prepares the models itself, too, but only on CUDA, with pickles read by other libraries,
and with downloads. Here they are read as tensors only, and the ONNX models run on the CPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pvtool_core.errors import InputRefused, WeightsMissing
from pvtool_core.faces.insightface_models import open_detector, open_recognizer
from pvtool_core.settings.references import load_named
from pvtool_core.settings.schema import MethodConfig
from pvtool_core.tensor_files import fill, read_weights

DETECTOR_FILE, PARSER_FILE = "detection_Resnet50_Final.pth", "parsing_bisenet.pth"
"""facexlib's RetinaFace and BiSeNet, in the folder `method.weights`."""
_VISION_MODEL = "EVA02-CLIP-L-14-336"
_PROCESS = "diffusers.pipelines.consisid.consisid_utils:process_face_embeddings_infer"
_CROP_SIDE = 512
_DETECTION_SIDE, _DETECTION_THRESHOLD = 640, 0.5
_NO_FACE = "align face fail"
"""Error of diffusers' code if facexlib finds no face; if insightface does not, either, the list of
faces is empty."""
_ROTARY = ("freqs_cos", "freqs_sin")
"""Buffers of rotary embeddings, which are computed for the size of the image."""
_HINT = "Download it again with `pv models fetch consisid`."


@dataclass(frozen=True, eq=False)
class FaceConditions:
    """Conditions of ConsisID, computed from a photo.

    `identity` (1, 1280) joins the embeddings of antelopev2 and of EVA-CLIP, `states` are hidden
    states of the latter. `image` is the aligned face on white, and `landmarks` (5, 2) are those of
    the photo.
    """

    identity: Tensor
    states: Sequence[Tensor]
    image: Image.Image
    landmarks: Any


@runtime_checkable
class FaceEncoder(Protocol):
    """Face models of ConsisID."""

    def encode(self, name: str, photo: Image.Image) -> FaceConditions:
        """Return the conditions of a photo. Raises InputRefused, with its name, without a face."""
        ...


def load_face_encoder(
    method: MethodConfig, device: torch.device, dtype: torch.dtype
) -> FaceEncoder:
    """Load the published face models. Raises WeightsMissing, and InputRefused for other files."""
    folder = Path(method.weights)
    finder = load_named("facexlib.detection.retinaface:RetinaFace")("resnet50", device=device)
    parser = load_named("facexlib.parsing.bisenet:BiSeNet")(num_class=19)
    _fill(finder, folder / DETECTOR_FILE, "facexlib's face detector")
    _fill(parser, folder / PARSER_FILE, "facexlib's face parser")
    create_model = load_named("consisid_eva_clip:create_model")
    vision = create_model(_VISION_MODEL, force_custom_clip=True).visual
    fill_vision(vision, Path(method.image_encoder))
    for model in (finder, parser, vision):
        model.eval().requires_grad_(False).to(device)
    vision.to(dtype)
    detector = open_detector(Path(method.detector))
    detector.prepare(
        ctx_id=-1, input_size=(_DETECTION_SIDE, _DETECTION_SIDE), det_thresh=_DETECTION_THRESHOLD
    )
    recognizer = open_recognizer(Path(method.recognizer))
    process = load_named(_PROCESS)

    def conditions(photo: Any) -> Any:
        return process(
            _aligner(finder, parser, device),
            vision,
            recognizer,
            vision.image_mean,
            vision.image_std,
            _Antelope(detector, recognizer),
            device,
            dtype,
            photo,
        )

    return PublishedFaceEncoder(conditions)


class PublishedFaceEncoder:
    """`FaceEncoder` by diffusers' `process_face_embeddings_infer`, with the models bound to it."""

    def __init__(self, conditions: Callable[[Any], Any]) -> None:
        self._conditions = conditions

    @torch.no_grad()
    def encode(self, name: str, photo: Image.Image) -> FaceConditions:
        try:
            found = self._conditions(np.asarray(photo, np.uint8))
        except (IndexError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and _NO_FACE not in str(error):
                raise
            raise InputRefused(
                f"ConsisID's detector finds no face in {name}.",
                "Use a photo that shows more of the head as the first one.",
            ) from error
        return FaceConditions(*found)


class _Antelope:
    """The two models of antelopev2, called like insightface's FaceAnalysis."""

    def __init__(self, detector: Any, recognizer: Any) -> None:
        self._detector, self._recognizer = detector, recognizer

    def get(self, image: Any) -> list[Any]:
        """Return the faces in a BGR image, with box, landmarks and embedding."""
        from insightface.app.common import Face

        boxes, landmarks = self._detector.detect(image, max_num=0, metric="default")
        faces = [
            Face(bbox=box[:4], kps=points, det_score=box[4])
            for box, points in zip(boxes, landmarks, strict=True)
        ]
        for face in faces:
            self._recognizer.get(image, face)
        return faces


def _aligner(finder: nn.Module, parser: nn.Module, device: torch.device) -> Any:
    """Return facexlib's helper with these models.

    Its own constructor would load them by file names, and download them and one more.
    """
    helper = load_named("facexlib.utils.face_restoration_helper:FaceRestoreHelper")
    aligner = helper.__new__(helper)
    aligner.face_det, aligner.face_parse, aligner.device = finder, parser, device
    aligner.upscale_factor, aligner.crop_ratio = 1, (1, 1)
    aligner.face_size = (_CROP_SIDE, _CROP_SIDE)
    aligner.face_template = np.array(_FACE_TEMPLATE)
    aligner.template_3points = aligner.pad_blur = aligner.use_parse = False
    aligner.clean_all()
    return aligner


_FACE_TEMPLATE = (
    (192.98138, 239.94708),
    (318.90277, 240.1936),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
)
"""Landmarks of FFHQ's aligned faces of 512 × 512 pixels, as in facexlib 0.3.0."""


def fill_vision(vision: nn.Module, file: Path) -> None:
    """Load the vision tower of a published EVA-CLIP. Raises WeightsMissing, InputRefused."""
    weights = {
        name.removeprefix("visual."): tensor
        for name, tensor in _read(file).items()
        if name.startswith("visual.") and not name.endswith(_ROTARY)
    }
    rotary = {name: own for name, own in vision.state_dict().items() if name.endswith(_ROTARY)}
    fill(vision, {**weights, **rotary}, file, "EVA-CLIP L/14 at 336 pixels", _HINT)


def _fill(model: nn.Module, file: Path, owner: str) -> None:
    fill(model, _read(file), file, owner, _HINT)


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise WeightsMissing(str(file), _HINT)
    return read_weights(file)
