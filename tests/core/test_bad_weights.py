"""Unusable weights are refused with a description of their kind."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

from pvtool_core import __main__ as engine
from pvtool_core.errors import ExitStatus, InputRefused
from pvtool_core.faces.analyzer import FaceAnalyzer, load_recognizer
from pvtool_core.faces.insightface_models import open_detector, open_recognizer
from pvtool_core.open_clip_model import ImageText
from pvtool_core.settings.jobs import TrainJob, write_job
from pvtool_core.settings.schema import SemanticRewardConfig
from pvtool_core.store.runs import RunFolder
from pvtool_core.tensor_files import read_weights
from tests.support.small_models import with_settings


@pytest.fixture
def faces(models: Path) -> Path:
    return models / "faces"


def one_node(
    path: Path, operation: str, shape: Sequence[int | str], outputs: int = 1, **attributes: Any
) -> Path:
    """Return an ONNX model with one operation, repeated for each output."""
    node = helper.make_node
    nodes = [
        node(operation, ["input"], [f"out_{number}"], **attributes) for number in range(outputs)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(f"out_{number}", TensorProto.FLOAT, None)
            for number in range(outputs)
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        str(path),
    )
    return path


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("open_it", [open_detector, open_recognizer, load_recognizer])
def test_truncated_onnx_file_is_refused(
    open_it: Callable[[Path], object], share: float, faces: Path, tmp_path: Path
) -> None:
    whole = (faces / "rec.onnx").read_bytes()
    (tmp_path / "rec.onnx").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputRefused, match=r"rec\.onnx is not a complete ONNX model\.") as refusal:
        open_it(tmp_path / "rec.onnx")
    assert refusal.value.hint == "Download it again, and compare its size."


def test_other_file_instead_of_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rec.onnx").write_text("<html>You are not logged in</html>")
    with pytest.raises(InputRefused, match=r"rec\.onnx is not a complete ONNX model"):
        load_recognizer(tmp_path / "rec.onnx")


def test_detector_instead_of_recogniser_is_refused(faces: Path) -> None:
    with pytest.raises(
        InputRefused, match=r"det\.onnx is a face detector, not a face recogniser\."
    ) as refusal:
        load_recognizer(faces / "det.onnx")
    assert "identity_reward.recognizer" in refusal.value.hint


def test_recogniser_instead_of_detector_is_refused(faces: Path) -> None:
    with pytest.raises(
        InputRefused, match=r"rec\.onnx is a face recogniser, not a face detector\."
    ) as refusal:
        FaceAnalyzer(faces, "rec.onnx", (), 64, 0.5)
    assert "identity_reward.detector" in refusal.value.hint


def test_error_describes_other_models_of_a_package(tmp_path: Path) -> None:
    named = {(192, 192): "a model of a face's landmarks", (96, 96): "a model of gender and age"}
    for size, what in named.items():
        path = one_node(tmp_path / "other.onnx", "Flatten", [1, 3, *size])
        with pytest.raises(InputRefused, match=f"is {what}, not a face recogniser"):
            open_recognizer(path)
    for shape in ([1, 3, 50, 60], ["n", 3, "side", "side"], [1, 7]):
        path = one_node(tmp_path / "other.onnx", "Flatten", shape)
        with pytest.raises(
            InputRefused, match="is a model that insightface does not know, not a face recogniser"
        ):
            open_recognizer(path)


def test_recogniser_with_other_crop_size_or_output_is_refused(tmp_path: Path) -> None:
    path = one_node(tmp_path / "rec.onnx", "Flatten", [1, 3, 128, 128])
    with pytest.raises(
        InputRefused, match="expects faces of 128 × 128 pixels, but pv uses 112 × 112"
    ):
        open_recognizer(path)
    path = one_node(tmp_path / "rec.onnx", "Relu", [1, 3, 112, 112])
    with pytest.raises(InputRefused, match="returns no embedding"):
        open_recognizer(path)


def test_a_detector_without_landmarks_is_refused(tmp_path: Path) -> None:
    path = one_node(tmp_path / "det.onnx", "Flatten", [1, 3, 64, 64], outputs=6)
    with pytest.raises(InputRefused, match="detects faces without landmarks") as refusal:
        open_detector(path)
    assert "bnkps" in refusal.value.hint


def test_recogniser_without_gradient_is_refused_as_reward_only(
    tmp_path: Path,
) -> None:
    path = one_node(tmp_path / "rec.onnx", "Flatten", [1, 3, 112, 112])
    model = onnx.load(str(path))
    model.graph.node[0].output[0] = "flat"
    model.graph.node.append(helper.make_node("Hardmax", ["flat"], ["out_0"]))
    onnx.save(model, str(path))
    open_recognizer(path)
    with pytest.raises(InputRefused, match="has a layer without a gradient in torch"):
        load_recognizer(path)


def checkpoint_of(models: Path, path: Path, **changes: Any) -> Path:
    """Write the small model's weights in HPSv2's format, some of them changed."""
    torch.save(
        {"state_dict": load_file(models / "clip" / "open_clip_model.safetensors") | changes}, path
    )
    return path


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_checkpoint_is_refused(share: float, models: Path, tmp_path: Path) -> None:
    whole = checkpoint_of(models, tmp_path / "HPS_v2.1_compressed.pt").read_bytes()
    for suffix in (".pt", ".safetensors"):
        (tmp_path / f"cut{suffix}").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputRefused, match=r"cut\S* is not a complete checkpoint\."):
            read_weights(tmp_path / f"cut{suffix}")


def test_code_in_a_checkpoint_is_refused_and_not_run(models: Path, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "done"),)

    checkpoint_of(models, tmp_path / "hps.pt", extra=Code())
    with pytest.raises(
        InputRefused, match=r"hps\.pt contains code \(posix\.mkdir\) besides tensors\."
    ) as refusal:
        read_weights(tmp_path / "hps.pt")
    assert "tensors only" in refusal.value.hint
    assert not (tmp_path / "done").exists()


def test_a_checkpoint_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "hps.pt")
    with pytest.raises(InputRefused, match=r"No tensors in hps\.pt\."):
        read_weights(tmp_path / "hps.pt")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["unet.attn1.to_q.lora_A.weight"], "it is a LoRA"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "it is a diffusion model"),
        (["down_blocks.0.resnets.0.conv1.weight"], "it is a diffusion model"),
        (["fc.weight"], r"it lacks positional_embedding and \d+ more"),
    ],
)
def test_error_describes_a_checkpoint_of_another_kind(
    names: list[str], why: str, models: Path, tmp_path: Path
) -> None:
    config = folder_model(models, tmp_path, {name: torch.zeros(2, 2) for name in names})
    with pytest.raises(
        InputRefused, match=rf"does not contain the weights of semantic_reward\.model: {why}\."
    ) as refusal:
        ImageText(config, torch.device("cpu"))
    assert refusal.value.message.startswith("open_clip_model.safetensors ")
    assert "semantic_reward.checkpoint" in refusal.value.hint


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"visual.proj": torch.zeros(16, 9)}, r"its visual\.proj is 16 × 9 and not 16 × 8\."),
        ({"visual.extra": torch.zeros(1)}, r"it also has visual\.extra\."),
        ({"logit_scale": torch.zeros(1)}, r"its logit_scale is 1 and not a number\."),
    ],
)
def test_error_names_the_difference_of_another_architecture(
    changed: dict[str, torch.Tensor], why: str, models: Path, tmp_path: Path
) -> None:
    weights = load_file(models / "clip" / "open_clip_model.safetensors")
    with pytest.raises(InputRefused, match=why):
        ImageText(folder_model(models, tmp_path, weights | changed), torch.device("cpu"))


def folder_model(
    models: Path, folder: Path, weights: dict[str, torch.Tensor]
) -> SemanticRewardConfig:
    """Write the small model as an open_clip folder with other weights."""
    shutil.copy(models / "clip" / "open_clip_config.json", folder)
    save_file(weights, folder / "open_clip_model.safetensors")
    return SemanticRewardConfig(model=str(folder))


def test_unknown_open_clip_model_is_refused(models: Path, tmp_path: Path) -> None:
    checkpoint = str(checkpoint_of(models, tmp_path / "hps.pt"))
    with pytest.raises(InputRefused, match="Unknown open_clip model 'ViT-X-14'"):
        ImageText(
            SemanticRewardConfig(model="ViT-X-14", checkpoint=checkpoint), torch.device("cpu")
        )


def test_folder_without_open_clip_model_is_refused(models: Path, tmp_path: Path) -> None:
    config = SemanticRewardConfig(model=str(tmp_path))
    with pytest.raises(InputRefused, match="No weights in"):
        ImageText(config, torch.device("cpu"))
    shutil.copy(models / "clip" / "open_clip_model.safetensors", tmp_path)
    for settings in (None, "{", '{"model_cfg": {"embed_dim": 8}}'):
        if settings:
            (tmp_path / "open_clip_config.json").write_text(settings)
        with pytest.raises(InputRefused, match="is not an open_clip model folder"):
            ImageText(config, torch.device("cpu"))


def test_model_name_without_checkpoint_is_refused() -> None:
    with pytest.raises(InputRefused, match="No checkpoint '' for RN50") as refusal:
        ImageText(SemanticRewardConfig(model="RN50"), torch.device("cpu"))
    assert "semantic_reward.checkpoint" in refusal.value.hint


def test_run_with_unusable_weights_exits_with_status_refused(job: TrainJob, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    wrong = with_settings(job, "identity_reward", recognizer="det.onnx")
    write_job(folder.config, dataclasses.replace(wrong, run="run"))
    assert engine.main([str(folder.path)]) == ExitStatus.REFUSED
    ended = folder.read_exit()
    assert ended is not None
    assert "det.onnx is a face detector, not a face recogniser." in ended.reason
