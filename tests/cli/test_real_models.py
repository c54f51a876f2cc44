"""From a photo to clips through the commands, on small random models of the classes that users bring."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from pvtool_core.media import read_mp4
from pvtool_core.paths import presets_dir
from tests.conftest import DETECTION_SIDE

Shell = Callable[..., Any]


@pytest.fixture
def shell(home: Path) -> Shell:
    """Run `pv … --json` as a process of its own; what it printed, a line each."""

    def run(*words: str) -> Any:
        command = [sys.executable, "-m", "pvtool.cli.main", *words, "--json"]
        environment = {**os.environ, "PV_HOME": str(home)}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def small_rewards(models: Path) -> list[str]:
    """Judges that see one face in the middle of whatever they are shown, as a random model paints none."""
    settings = {
        "identity_reward.package": models / "faces",
        "identity_reward.detector": "det.onnx",
        "identity_reward.recognizer": "rec.onnx",
        "identity_reward.detection_size": DETECTION_SIDE,
        "evaluation.recognizer": "other.onnx",
        "semantic_reward.model": models / "clip",
    }
    return [f"--set={key}={value}" for key, value in settings.items()]


STEPS = (
    "training.iterations=20",
    "training.cached_pairs=2",
    "training.sample_every=10",
    "training.checkpoint_every=10",
)


@pytest.mark.slow
def test_a_stable_diffusion_folder_goes_from_photo_to_clips(shell: Shell, models: Path, tmp_path: Path) -> None:
    motion = [f"--set=model.motion_adapter={models / 'motion'}"]
    sizes = ["--set=model.width=32", "--set=model.height=32", "--set=model.num_frames=4"]
    train_and_render(shell, models, tmp_path, models / "still", [*motion, *sizes], frames=4)


def train_and_render(
    shell: Shell, models: Path, folder: Path, base_model: Path, settings: list[str], frames: int
) -> None:
    """20 iterations on a base model, two clips beside those of the original, and the adapter as a file."""
    shell("identity", "add", "ada", str(presets_dir() / "tiny/samples/ada-woman.png"), "--consent", "hers")
    steps = [f"--set={step}" for step in STEPS]
    (trained,) = shell("train", "ada", "--base-model", str(base_model), *small_rewards(models), *settings, *steps)
    assert trained["state"] == "finished"
    (run,) = shell("runs", "show", trained["run"])
    assert (run["step"], run["checkpoints"]) == (20, [10, 20])
    clips = shell("render", "ada", "a <V> woman dancing", "--seed", "0..1", "--base", "--out", str(folder / "out"))
    assert [clip["status"] for clip in clips] == ["done"] * 4
    pictures = {clip["identity"]: read_mp4(Path(clip["path"])) for clip in clips}
    assert all(len(picture) == frames for picture in pictures.values())
    assert (pictures["ada"] != pictures["base"]).any()
    (exported,) = shell("runs", "export", trained["run"], str(folder / "ada.safetensors"))
    with safe_open(exported["path"], "pt") as file:
        assert file.metadata()["adapter_start"] == "0.75"
