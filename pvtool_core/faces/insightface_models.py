"""Open the ONNX files of an insightface package in onnxruntime, and refuse files of another kind.

insightface recognises a model by the shapes of its inputs and outputs.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtool_core.errors import InputRefused
from pvtool_core.models.onnx_files import external_files, external_problem, missing_external
from pvtool_core.models.registry import Registry

CROP = 112
"""Side of the crops for recognisers, in pixels."""


def open_detector(onnx: Path, threads: int = 0) -> Any:
    """Open a detector as insightface's SCRFD.

    Raises InputRefused for other files, or without landmarks.
    """
    model = _open(onnx, threads)
    if type(model).__name__ != "SCRFD":
        hint = (
            "Name the package's detector in identity_reward.detector, such as scrfd_10g_bnkps.onnx."
        )
        raise InputRefused(f"{onnx.name} is {_kind(model)}, not a face detector.", hint)
    if not model.use_kps:
        hint = (
            "Set identity_reward.detector to one with landmarks ('bnkps' in insightface's names)."
        )
        raise InputRefused(f"{onnx.name} detects faces without landmarks.", hint)
    return model


class OnnxRecognizer:
    """A recogniser in onnxruntime.

    It gets its channels in the order that the registry of models has for the file's content.
    `mean` is subtracted from pixels of 0 to 255, and the result divided by `std`; `output` is the
    name of the embedding in the graph.
    """

    def __init__(self, onnx: Path, threads: int = 0) -> None:
        """Open the file. Raises InputRefused as `open_recognizer`."""
        self._model = open_recognizer(onnx, threads)
        self.order = Registry().channels(onnx)
        self.mean: float = self._model.input_mean
        self.std: float = self._model.input_std
        self.output: str = self._model.output_names[0]

    def embed(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embedding (1, dimensions) of an RGB crop (112, 112, 3), not normalised."""
        reverse = crop if self.order == "bgr" else crop[..., ::-1]
        return self._model.get_feat(reverse)  # which reverses the channels


def open_recognizer(onnx: Path, threads: int = 0) -> Any:
    """Open a recogniser as insightface's ArcFaceONNX, which expects BGR and reverses the channels.

    Of two outputs, as AdaFace's embedding and its norm, the embedding is used. Raises InputRefused
    for other files or crop sizes.
    """
    model = _open(onnx, threads)
    hint = "Set identity_reward.recognizer and evaluation.recognizer to ArcFace files, "
    hint += "such as glintr100.onnx."
    if type(model).__name__ != "ArcFaceONNX":
        raise InputRefused(f"{onnx.name} is {_kind(model)}, not a face recogniser.", hint)
    if len(model.output_shape) != 2:
        raise InputRefused(f"{onnx.name} is not a face recogniser: it returns no embedding.", hint)
    if model.input_size != (CROP, CROP):
        width, height = model.input_size
        raise InputRefused(
            f"{onnx.name} expects faces of {width} × {height} pixels, but pv uses {CROP} × {CROP}.",
            hint,
        )
    if (kind := model.session.get_inputs()[0].type) != "tensor(float)":
        raise InputRefused(
            f"{onnx.name} takes numbers of the type {kind}, not float32.", "Export it in float32."
        )
    return model


_KINDS = {
    "SCRFD": "a face detector",
    "ArcFaceONNX": "a face recogniser",
    "Landmark": "a model of a face's landmarks",
    "Attribute": "a model of gender and age",
    "INSwapper": "a face swapper",
}


def _kind(model: Any) -> str:
    """Return a description of a file, by the class that insightface chose for it."""
    return _KINDS.get(type(model).__name__, "a model that insightface does not know")


def _check_external(onnx: Path) -> None:
    """Raise InputRefused if the model's weights file is missing, incomplete or elsewhere."""
    if not onnx.is_file():
        return
    if problem := external_problem(onnx):
        raise InputRefused(
            f"{onnx.name} {problem}.", "Get both files again, or export the model in one file."
        )
    if missing := missing_external(onnx):
        hint = "Put the file beside it, or export the model with external_data=False."
        raise InputRefused(
            f"{onnx.name} keeps its weights in {missing[0]}, which is missing.", hint
        )


def _open(onnx: Path, threads: int) -> Any:
    """Open an ONNX file with insightface, by the shapes of its inputs and outputs.

    Return None for unknown shapes.
    """
    _check_external(onnx)
    path = (
        onnx.resolve() if external_files(onnx) else onnx
    )  # onnx does not follow links to a weights file
    import onnxruntime
    from insightface.model_zoo import get_model

    runtime: Any = onnxruntime
    refusals = runtime.capi.onnxruntime_pybind11_state
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return get_model(
            str(path),
            providers=["CPUExecutionProvider"],
            provider_options=[{}],
            sess_options=options,
        )
    except (refusals.InvalidProtobuf, refusals.InvalidArgument) as error:
        raise InputRefused(
            f"{onnx.name} is not a complete ONNX model.",
            "Download it again, and compare its size.",
        ) from error
    except (
        refusals.Fail,
        refusals.InvalidGraph,
        refusals.NotImplemented,
        refusals.RuntimeException,
    ) as error:
        hint = "Download or export it again; `--debug` shows the error of onnxruntime."
        raise InputRefused(
            f"{onnx.name} is an ONNX model that onnxruntime cannot run.", hint
        ) from error
    except AssertionError:  # several outputs
        return _with_embedding_only(path, options)
    except (
        IndexError,
        TypeError,
        ValueError,
    ):  # raised for inputs or outputs unknown to insightface
        return None


class _OneOutput:
    """A session of onnxruntime of which one output is visible."""

    def __init__(self, session: Any, output: Any) -> None:
        self._output = output
        self.get_inputs, self.run = session.get_inputs, session.run

    def get_outputs(self) -> list[Any]:
        return [self._output]


def _with_embedding_only(path: Path, options: Any) -> Any:
    """Open a recogniser with outputs besides its embedding; None if they cannot be told apart."""
    import onnxruntime
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wide = [each for each in session.get_outputs() if len(each.shape) == 2 and each.shape[1] != 1]
    return ArcFaceONNX(str(path), _OneOutput(session, wide[0])) if len(wide) == 1 else None
