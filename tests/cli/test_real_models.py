"""The commands from a photo to clips, on small random models of the supported classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from pvtool_core.media.decode import frames_of
from pvtool_core.paths import presets_dir
from tests.support.commands import Pv
from tests.support.families import HUNYUAN_VIDEO, WAN, Family
from tests.support.small_models import DETECTION_SIDE

Shell = Callable[..., Any]


@pytest.fixture
def shell(pv: Pv, engines_in_process: None) -> Shell:
    """Run `pv … --json` in a home with the identity Ada; return its output lines."""

    def run(*words: str) -> Any:
        answer = pv(*words, "--json")
        assert answer.status == 0, answer.err
        return answer.lines

    photo = presets_dir() / "tiny/samples/ada-woman.png"
    run("identity", "add", "ada", str(photo), "--adult", "--consent", "hers")
    return run


def small_rewards(models: Path) -> dict[str, Any]:
    """Write a detector that finds a face in any picture, since random models draw none."""
    return {
        "identity_reward.package": models / "faces",
        "identity_reward.detector": "det.onnx",
        "identity_reward.recognizer": "rec.onnx",
        "identity_reward.detection_size": DETECTION_SIDE,
        "evaluation.recognizer": "other.onnx",
        "semantic_reward.model": models / "clip",
    }


STEPS = {
    "training.iterations": 8,
    "training.cached_pairs": 1,
    "training.sample_every": 8,
    "training.checkpoint_every": 4,
    "training.sample_prompts": 1,
}


@pytest.mark.slow
def test_stable_diffusion_folder_from_photo_to_clips(
    shell: Shell, models: Path, tmp_path: Path
) -> None:
    motion = {"model.motion_adapter": models / "motion"}
    keys = train_and_render(shell, models, tmp_path, models / "still", motion, frames=4)
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight" in keys


@pytest.mark.slow
def test_hunyuan_video_folder_from_photo_to_clips(
    shell: Shell, models: Path, tmp_path: Path
) -> None:
    keys = train_and_render(shell, models, tmp_path, folder_of(HUNYUAN_VIDEO, models), {}, frames=5)
    fused = [f"double_blocks.{n}.img_attn_qkv" for n in range(2)] + [
        f"single_blocks.{n}.linear1" for n in range(2)
    ]
    assert keys == {f"transformer.{name}.lora_{part}.weight" for name in fused for part in "AB"}


@pytest.mark.slow
def test_wan_folder_from_photo_to_clips(shell: Shell, models: Path, tmp_path: Path) -> None:
    keys = train_and_render(shell, models, tmp_path, folder_of(WAN, models), {}, frames=5)
    names = [f"blocks.{n}.self_attn.{projection}" for n in range(2) for projection in "qkv"]
    assert keys == {f"diffusion_model.{name}.lora_{part}.weight" for name in names for part in "AB"}


def folder_of(family: Family, models: Path) -> Path:
    return Path(family.job(models).model.base_model)


def train_and_render(
    shell: Shell, models: Path, folder: Path, base_model: Path, more: dict[str, Any], frames: int
) -> set[str]:
    """Train 8 iterations, render with and without adapter; return the names in its file."""
    sizes = {"model.width": 32, "model.height": 32, "model.num_frames": frames}
    sets = [
        f"--set={key}={value}"
        for key, value in {**small_rewards(models), **sizes, **STEPS, **more}.items()
    ]
    (trained,) = shell("train", "ada", "--preset", "tiny", "--base-model", str(base_model), *sets)
    assert trained["state"] == "finished"
    (run,) = shell("runs", "show", trained["run"])
    assert (run["step"], run["checkpoints"]) == (8, [4, 8])
    assert len(list(Path(trained["path"]).rglob("*.mp4"))) == 2  # of the base model and of step 8
    words = (
        "a <V> woman dancing",
        "--run",
        trained["run"],
        "--seed",
        "0",
        "--base",
        "--out",
        str(folder / "out"),
    )
    clips = shell("render", "ada", *words)
    assert [clip["status"] for clip in clips] == ["done"] * 2
    pictures = {clip["identity"]: frames_of(Path(clip["path"])) for clip in clips}
    assert all(len(picture) == frames for picture in pictures.values())
    assert (pictures["ada"] != pictures["base"]).any()
    (exported,) = shell("runs", "export", trained["run"], str(folder / "ada.safetensors"))
    with safe_open(exported["path"], "pt") as file:
        assert file.metadata()["adapter_start"] == "0.75"
        return set(file.keys())
