"""Open the ONNX files of an insightface package in onnxruntime, and refuse files of another kind.

insightface recognises a model by the shapes of its inputs and outputs.
"""

from pathlib import Path
from typing import Any

from pvtool_core.errors import InputRefused
from pvtool_core.models.onnx_files import external_files, external_problem, missing_external

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


def open_recognizer(onnx: Path, threads: int = 0) -> Any:
    """Open a recogniser as insightface's ArcFaceONNX.

    Raises InputRefused for other files or crop sizes.
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
    except (
        AssertionError,
        IndexError,
        TypeError,
        ValueError,
    ):  # raised for inputs or outputs unknown to insightface
        return None
