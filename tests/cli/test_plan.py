"""`pv train --plan` with the job of a real engine."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvtool_core.paths import presets_dir
from tests.support.commands import Pv

pytestmark = pytest.mark.usefixtures("engines_in_process")


def test_plan_is_one_json_object_and_creates_no_run(pv: Pv, home: Path, mara: str) -> None:
    answer = pv(
        "train", mara, "--plan", "--tflops", "0.02", "--base-model", "models:elsewhere", "--json"
    )
    assert answer.status == 0, answer.err
    plan = answer.json
    assert plan["passes"] == {
        "iteration": 1,
        "iteration_with_gradient": 4,
        "pairs": 24,
        "cache": 384,
    }
    assert plan["peak"]["bytes"] == max(plan["phases"].values())
    assert plan["seconds"]["run"] == pytest.approx(plan["tflop"]["run"] / 0.02)
    assert (plan["assumed"], len(plan["missing"])) == (True, 1)
    assert "models:elsewhere" in answer.err
    assert not (home / "data/runs").exists()


def test_objective_is_planned_with_its_own_passes(pv: Pv, mara: str) -> None:
    rewards = ("--set", "semantic_reward.model=models:nowhere")
    answer = pv("train", mara, "--plan", "--objective", "dreambooth", *rewards, "--json")
    assert answer.status == 0, answer.err
    plan = answer.json
    assert (plan["missing"], plan["passes"]["iteration_with_gradient"]) == ([], 1)
    assert plan["passes"]["cache"] == 0
    wrong = pv("train", mara, "--plan", "--objective", "dream")
    assert "training.objective: is 'dream', not one of personalvideo, dreambooth" in wrong.err


def set_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


Change = Callable[[Path], object]
HOSTILE: dict[str, tuple[Change, str]] = {
    "no pipeline": (
        lambda folder: (folder / "model_index.json").unlink(),
        "is not a diffusers folder",
    ),
    "deep JSON": (
        lambda folder: (folder / "unet/config.json").write_text("[" * 100_000),
        "nested too deeply",
    ),
    "a negative number": (
        lambda folder: (folder / "scheduler/scheduler_config.json").write_text(
            '{"num_train_timesteps": -5}'
        ),
        "cannot be loaded as animatediff",
    ),
    "another class": (
        lambda folder: set_json(
            folder / "model_index.json", scheduler=["diffusers", "NoScheduler"]
        ),
        "cannot be loaded as animatediff",
    ),
    "a function for a text encoder": (
        lambda folder: set_json(folder / "text_encoder/config.json", architectures=["pipeline"]),
        "cannot be loaded as animatediff",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_plan_refuses_unusable_base_model(name: str, pv: Pv, mara: str, tmp_path: Path) -> None:
    change, words = HOSTILE[name]
    base = tmp_path / "base"
    shutil.copytree(presets_dir() / "tiny/animatediff", base)
    change(base)
    answer = pv("train", mara, "--plan", "--base-model", str(base))
    assert (answer.status, answer.out) == (3, ""), answer.err
    assert re.search(words, answer.err)


@pytest.mark.parametrize(
    "config", ["[" * 30_000, "[]", "{}", '{"model_cfg": 5}', '{"model_cfg": {"embed_dim": NaN}}']
)
def test_plan_refuses_invalid_open_clip_folder(
    config: str, pv: Pv, mara: str, tmp_path: Path
) -> None:
    (tmp_path / "open_clip_config.json").write_text(config)
    answer = pv("train", mara, "--plan", "--set", f"semantic_reward.model={tmp_path}")
    assert (answer.status, answer.out) == (3, ""), answer.err
    assert "is not an open_clip model folder" in answer.err


def test_plan_refuses_invalid_settings_like_training(pv: Pv, mara: str) -> None:
    answer = pv("train", mara, "--plan", "--set", "training.iterations=0")
    assert (answer.status, answer.out) == (2, "")
    assert "training.iterations: is 0" in answer.err
