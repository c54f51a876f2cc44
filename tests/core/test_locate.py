"""Presets and the weights that they refer to."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pvtool_core import hashes
from pvtool_core.errors import InputRefused, Missing, SettingsError, WeightsMissing
from pvtool_core.models.fingerprints import fingerprint
from pvtool_core.models.locate import (
    locate_faces,
    locate_weights,
    missing_weights,
    resolve,
    resolve_settings,
)
from pvtool_core.models.registry import Registry, models_named_in
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.presets import Presets
from pvtool_core.settings.schema import ControlConfig, LoraConfig, Settings, named_weights
from tests.support.small_models import with_settings
from tests.support.weight_files import pipeline_folder, safetensors


def model_folder(path: Path) -> Path:
    return pipeline_folder(path, "AnimateDiffPipeline")


def test_animatediff_preset_has_the_values_of_the_paper() -> None:
    settings = Presets().get("animatediff").settings()
    training, model = settings.training, settings.model
    assert (model.width, model.height, model.num_frames) == (512, 512, 16)
    assert (training.iterations, training.learning_rate, training.weight_decay) == (800, 1e-4, 1e-2)
    assert (training.beta1, training.beta2, training.epsilon) == (0.9, 0.999, 1e-8)
    assert (settings.sampler.num_inference_steps, settings.sampler.guidance_scale) == (50, 7.5)
    assert settings.adapter.start == 0.75


def test_user_preset_replaces_a_shipped_one_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(
        '[preset]\ndescription = "mine"\n[model]\nbase_model = "x"\n'
        '[identity_reward]\npackage = "y"\n[evaluation]\nrecognizer = "z"\n'
    )
    preset = Presets(own=tmp_path).get("tiny")
    assert (preset.own, preset.description, preset.prompts) == (True, "mine", "default")
    assert preset.settings().training.iterations == 800
    assert preset.settings({"training": {"iterations": 5}}).training.iterations == 5


def models_of(settings: Settings) -> list[tuple[str, str]]:
    """Return each model in the settings, with its file if the setting names one."""
    rewards, judge = settings.identity_reward, settings.evaluation.recognizer
    faces = [f"{rewards.package}/{file}" for file in (rewards.detector, rewards.recognizer, judge)]
    named = [
        settings.model.base_model,
        settings.model.motion_adapter,
        settings.model.config,
        *faces,
    ]
    named.append(settings.semantic_reward.checkpoint)
    parts = [
        name.removeprefix("models:").partition("/") for name in named if name.startswith("models:")
    ]
    return [(model, file) for model, _, file in parts]


@pytest.mark.parametrize("preset", Presets().names())
def test_models_of_presets_can_be_downloaded(preset: str) -> None:
    registry = Registry()
    for model, file in models_of(Presets().get(preset).settings()):
        assert not file or file in registry.get(model).required()


@pytest.mark.parametrize(
    "content", ["[preset]\nname = 'x'", "[preset]\nprompts = 3", "[model]\nwidht = 3"]
)
def test_invalid_preset_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.toml").write_text(content)
    with pytest.raises(SettingsError):
        Presets(own=tmp_path).get("mine").settings()


def test_error_for_missing_preset_suggests_the_nearest() -> None:
    with pytest.raises(Missing, match="Did you mean 'animatediff'"):
        Presets().get("animatedif")


def test_fingerprint_depends_on_files_and_not_on_their_path(tmp_path: Path) -> None:
    first, second = model_folder(tmp_path / "a"), model_folder(tmp_path / "b/c")
    assert fingerprint(first) == fingerprint(second)
    (second / "README.md").write_text("words")
    assert fingerprint(first) == fingerprint(second)
    (second / "unet/diffusion_pytorch_model.safetensors").write_bytes(safetensors(b"Weights"))
    assert fingerprint(first) != fingerprint(second)
    (first / "unet").rename(first / "unet2")
    assert fingerprint(first) != fingerprint(model_folder(tmp_path / "d"))


def test_a_large_file_is_read_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path))
    monkeypatch.setattr(hashes, "LARGE", 4)
    (tmp_path / "large.safetensors").write_bytes(b"content")
    first = fingerprint(tmp_path / "large.safetensors")
    with monkeypatch.context() as reading:
        reading.setattr(hashes, "hash_of", None)
        assert fingerprint(tmp_path / "large.safetensors") == first
    (tmp_path / "large.safetensors").write_bytes(b"Content")
    assert fingerprint(tmp_path / "large.safetensors") != first
    (tmp_path / "large.safetensors").write_bytes(b"content")
    for content in (
        "garbage",
        "[" * 30_000,
        "[]",
        json.dumps({str(tmp_path / "large.safetensors"): 5}),
    ):
        (tmp_path / "cache/digests.json").write_text(content)
        assert fingerprint(tmp_path / "large.safetensors") == first


def test_names_resolve_to_shipped_downloaded_or_given_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path))
    (tmp_path / "cache/models/big").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("preset:prompts").name == "prompts"
    assert resolve("models:big") == tmp_path / "cache/models/big"
    assert resolve("cache/models") == tmp_path / "cache/models"
    for missing in ("preset:nothing", "models:nothing", "nothing"):
        with pytest.raises(WeightsMissing, match=missing):
            resolve(missing)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"weights", "is not a safetensors file"), (safetensors(bytes(64))[:-1], "is truncated")],
)
def test_incomplete_base_model_is_refused_before_a_run_is_created(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    base = model_folder(tmp_path / "base")
    (base / "unet/diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(InputRefused, match=rf"unet/diffusion_pytorch_model\.safetensors {problem}"):
        resolve_settings(
            Presets().get("animatediff").settings({"model": {"base_model": str(base)}})
        )


@pytest.mark.parametrize(
    ("name", "problem"),
    [("style.pt", "not a .safetensors file"), ("style.safetensors", "is not a safe")],
)
def test_invalid_lora_is_refused_before_a_run_is_created(
    name: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"pickle")
    model = {
        "base_model": str(model_folder(tmp_path / "base")),
        "loras": [{"file": str(tmp_path / name)}],
    }
    with pytest.raises(InputRefused, match=problem):
        resolve_settings(Presets().get("animatediff").settings({"model": model}))


def test_adding_a_photo_needs_the_face_models_only(tmp_path: Path) -> None:
    settings = (
        Presets().get("animatediff").settings({"identity_reward": {"package": str(tmp_path)}})
    )
    with pytest.raises(WeightsMissing, match=r"scrfd_10g_bnkps\.onnx"):
        locate_faces(settings)
    for file in ("scrfd_10g_bnkps.onnx", "glintr100.onnx", "w600k_r50.onnx"):
        (tmp_path / file).write_bytes(b"x")
    assert locate_faces(settings).identity_reward.package == str(tmp_path)


def test_job_has_absolute_paths_and_fingerprints_or_missing_names(
    tmp_path: Path,
) -> None:
    base = model_folder(tmp_path / "base")
    settings = (
        Presets()
        .get("animatediff")
        .settings(
            {
                "model": {"base_model": str(base)},
                "identity_reward": {"package": str(tmp_path / "faces")},
            },
            {"semantic_reward": {"checkpoint": str(base / "model_index.json")}},
        )
    )
    (tmp_path / "faces").mkdir()
    for file in (settings.identity_reward.detector, settings.identity_reward.recognizer):
        with pytest.raises(WeightsMissing, match=file):
            resolve_settings(settings)
        (tmp_path / "faces" / file).write_bytes(b"x")
    (tmp_path / "faces" / settings.evaluation.recognizer).write_bytes(b"x")
    resolved = resolve_settings(settings)
    assert resolved.model == replace(
        settings.model, fingerprint=fingerprint(base), motion_adapter="", config=""
    )
    assert resolved.semantic_reward.model == "ViT-H-14"


def test_extending_preset_changes_only_its_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        '[preset]\nextends = "tiny"\ndescription = "mine"\n[training]\niterations = 5\n'
    )
    mine, tiny = Presets(own=tmp_path).get("mine"), Presets().get("tiny")
    assert (mine.description, mine.prompts, mine.licence) == ("mine", tiny.prompts, tiny.licence)
    assert mine.settings() == tiny.settings({"training": {"iterations": 5}})


@pytest.mark.parametrize("parent", ["nothing", "animatediff-12gb", "mine"])
def test_preset_can_extend_only_a_shipped_one_without_base(tmp_path: Path, parent: str) -> None:
    (tmp_path / "mine.toml").write_text(f'[preset]\nextends = "{parent}"\n')
    with pytest.raises(SettingsError, match=r"preset\.extends"):
        Presets(own=tmp_path).get("mine")


@pytest.mark.parametrize("name", Presets().names())
def test_every_shipped_preset_can_be_used(name: str) -> None:
    preset = Presets().get(name)
    assert preset.settings().training.iterations
    assert preset.description
    assert preset.licence


def test_every_setting_that_names_weights_is_known_and_located(models: Path, job: TrainJob) -> None:
    """The walk over the settings finds what `locate_weights` makes absolute, and nothing else."""
    located = locate_weights(job)
    assert list(named_weights(located)) == [
        str(models / "animatediff"),
        str(models / "faces"),
        str(models / "clip"),
    ]
    styled = with_settings(
        job,
        "model",
        base_model="models:base/model.safetensors",
        config="models:config",
        motion_adapter="models:motion",
        loras=(LoraConfig(file="models:style/style.safetensors"),),
        control=ControlConfig(model="models:depth", frames="frames"),
    )
    named = with_settings(
        styled, "semantic_reward", model="ViT-H-14", checkpoint="models:hps/hps.pt"
    )
    expected = ["base", "motion", "config", "style", "depth", "hps"]
    assert models_named_in(named) == expected
    missing = [error.message for error in missing_weights(named)]
    assert len(missing) == len(expected)
    assert all(name in message for name, message in zip(expected, missing, strict=True))
