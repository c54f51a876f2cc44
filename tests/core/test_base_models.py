"""Unusable base models are refused before a run is created, however they are given."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pvtool_core.backbones import load_backbone
from pvtool_core.errors import ExitStatus, InputRefused, PvError
from pvtool_core.models.adding import add
from pvtool_core.models.base_models import check_base_model, prediction_of
from pvtool_core.models.installed import Models, ModelState
from pvtool_core.models.locate import family_of, locate_model, locate_style
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.schema import ControlConfig, ModelConfig
from tests.support.animatediff import PROMPT, clip, original_names
from tests.support.families import FAMILIES
from tests.support.weight_files import checkpoint, pipeline_folder, safetensors

Change = Callable[[Path], Any]
UNET = "unet/diffusion_pytorch_model.safetensors"


def set_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def renamed(file: str, other: str) -> Change:
    return lambda folder: (folder / file).rename(folder / other)


def without(part: str) -> Change:
    return lambda folder: shutil.rmtree(folder / part)


def as_shards(folder: Path) -> None:
    index = {
        "weight_map": {
            "a": "diffusion_pytorch_model-00001-of-00002.safetensors",
            "b": "gone.safetensors",
        }
    }
    (folder / UNET).rename(folder / "unet/diffusion_pytorch_model-00001-of-00002.safetensors")
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def in_two_variants(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet/diffusion_pytorch_model.non_ema.safetensors")
    (folder / "text_encoder/model.safetensors").rename(
        folder / "text_encoder/model.fp16.safetensors"
    )


BROKEN: dict[str, tuple[Change, str]] = {
    "no VAE": (without("vae"), "missing|lacks"),
    "no text encoder": (without("text_encoder"), "missing|lacks"),
    "no tokenizer": (without("tokenizer"), "missing|lacks"),
    "no scheduler": (without("scheduler"), "missing|lacks"),
    "not named": (
        lambda folder: set_json(folder / "model_index.json", vae=[None, None]),
        r"missing VAE \(vae/\)",
    ),
    "no config": (lambda folder: (folder / "vae/config.json").unlink(), r"missing VAE \(vae/\)"),
    "no weights": (lambda folder: (folder / UNET).unlink(), r"unet has no weights"),
    "another name": (
        renamed(UNET, "unet/model.safetensors"),
        "unet has no diffusion_pytorch_model.safetensors",
    ),
    "a missing shard": (as_shards, "gone.safetensors"),
    "two variants": (in_two_variants, "different variants only: fp16, non_ema"),
    "inpainting": (
        lambda folder: set_json(folder / "unet/config.json", in_channels=9),
        "is an inpainting model",
    ),
    "editing": (
        lambda folder: set_json(folder / "unet/config.json", in_channels=8),
        "is an image editing model",
    ),
    "SD 2": (
        lambda folder: set_json(folder / "unet/config.json", cross_attention_dim=1024),
        "is Stable Diffusion 2",
    ),
    "SDXL": (
        lambda folder: set_json(folder / "unet/config.json", cross_attention_dim=2048),
        "is SDXL",
    ),
    "other text": (
        lambda folder: set_json(folder / "text_encoder/config.json", hidden_size=512),
        "has width 512",
    ),
    "another class": (
        lambda folder: set_json(
            folder / "model_index.json", _class_name="StableDiffusionInpaintPipeline"
        ),
        "holds a StableDiffusionInpaintPipeline",
    ),
    "cut config": (
        lambda folder: (folder / "unet/config.json").write_text("{"),
        "config.json is not JSON",
    ),
    "deep config": (
        lambda folder: (folder / "vae/config.json").write_text("[" * 100_000),
        "nested too deeply",
    ),
    "a list": (
        lambda folder: (folder / "unet/config.json").write_text("[]"),
        "config.json is not a JSON object",
    ),
    "deep scheduler": (
        lambda folder: (folder / "scheduler/scheduler_config.json").write_text("[" * 100_000),
        "nested too deeply",
    ),
    "a name for a scheduler": (
        lambda folder: (folder / "scheduler/scheduler_config.json").write_text('"another/model"'),
        "scheduler_config.json is not a JSON object",
    ),
    "another library": (
        lambda folder: set_json(
            folder / "model_index.json", feature_extractor=["antigravity", "Fly"]
        ),
        "code of its own, 'antigravity'",
    ),
    "deep index": (
        lambda folder: (folder / "model_index.json").write_text("[" * 100_000),
        "nested too deeply",
    ),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("damage", BROKEN)
def test_unusable_folder_is_refused_by_add_and_by_settings(damage: str, home: Path) -> None:
    change, words = BROKEN[damage]
    base = pipeline_folder(home / "base")
    change(base)
    model = ModelConfig(base_model=str(base), motion_adapter="models:none", config="")
    for attempt in (lambda: add(Models(), "mine", [base]), lambda: locate_model(model)):
        with pytest.raises(PvError, match=words) as refusal:
            attempt()
        assert refusal.value.status in {ExitStatus.REFUSED, ExitStatus.MISSING}
        assert refusal.value.hint
    assert Models().state("mine") is ModelState.MISSING


def test_error_for_pickled_weights_names_the_file_and_the_solution(home: Path) -> None:
    base = pipeline_folder(home / "base")
    (base / UNET).unlink()
    torch.save({"weight": torch.zeros(2)}, base / "unet/diffusion_pytorch_model.bin")
    for attempt in (lambda: add(Models(), "mine", [base]), lambda: check_base_model(base)):
        with pytest.raises(
            InputRefused, match=r"only pickled weights \(diffusion_pytorch_model\.bin\)"
        ) as refusal:
            attempt()
        assert "save_pretrained" in refusal.value.hint


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_folder_of_fp16_variants_loads_like_one_without_variants(
    family: Any, models: Path, tmp_path: Path
) -> None:
    job = family.job(models)
    base = shutil.copytree(job.model.base_model, tmp_path / "base")
    for file in base.rglob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    check_base_model(base)
    half, plain = (
        load_backbone(replace(job.model, base_model=str(folder)), job.sampler, [PROMPT])
        for folder in (base, job.model.base_model)
    )
    weights = dict(plain.denoiser.named_parameters())
    assert all(
        torch.equal(value, weights[name]) for name, value in half.denoiser.named_parameters()
    )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_folder_saved_by_diffusers_is_accepted(family: Any, models: Path) -> None:
    check_base_model(Path(family.job(models).model.base_model))


# Stable Diffusion in one file

UNET_KEY = "model.diffusion_model.input_blocks.0.0.weight"
WHOLE = {
    UNET_KEY: (8, 4, 3, 3),
    "model.diffusion_model.out.2.weight": (4, 8, 3, 3),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (8, 768),
    "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 8),
}


def only(*prefixes: str) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in WHOLE.items() if key.startswith(prefixes)}


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (only("model.", "cond_stage"), "missing VAE"),
        (only("model.", "first_stage"), "missing text encoder"),
        (only("first_stage", "cond_stage"), "missing UNet"),
        (only("model."), "missing VAE and text encoder"),
        ({**WHOLE, UNET_KEY: (8, 9, 3, 3)}, "is an inpainting model"),
        ({**WHOLE, "conditioner.embedders.1.model.ln_final.weight": (8,)}, "is SDXL"),
        ({**WHOLE, "cond_stage_model.model.ln_final.weight": (8,)}, "is Stable Diffusion 2"),
        ({"lora_unet_x.lora_down.weight": (4, 8)}, "is a LoRA"),
        ({"control_model.x.weight": (4, 8)}, "is a ControlNet"),
        ({"blocks.0.self_attn.q.weight": (4, 8)}, "does not hold a Stable Diffusion checkpoint"),
    ],
)
def test_incomplete_single_file_is_refused(shapes: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=words):
        family_of(checkpoint(tmp_path / "sd.safetensors", shapes))


@pytest.mark.parametrize(
    ("suffix", "words"), [("ckpt", "pickled checkpoint"), ("gguf", "GGUF"), ("txt", "is not a")]
)
def test_error_names_the_format_of_other_files(suffix: str, words: str, tmp_path: Path) -> None:
    (tmp_path / f"sd.{suffix}").write_bytes(b"GGUF")
    with pytest.raises(InputRefused, match=words):
        family_of(tmp_path / f"sd.{suffix}")


def test_an_incomplete_single_file_is_not_added(home: Path) -> None:
    with pytest.raises(InputRefused, match="missing VAE"):
        add(Models(), "mine", [checkpoint(home / "sd.safetensors", only("model.", "cond_stage"))])
    assert (
        add(
            Models(),
            "lora",
            [checkpoint(home / "lora.safetensors", {"lora_unet_x.lora_up.weight": (4, 8)})],
        )
        == []
    )


@pytest.mark.parametrize(
    ("keys", "metadata", "kind", "zero"),
    [
        ((), {}, None, False),
        (("v_pred",), {}, "v_prediction", False),
        (("v_pred", "ztsnr"), {}, "v_prediction", True),
        (("ztsnr",), {}, "v_prediction", True),
        ((), {"modelspec__prediction_type": "v"}, "v_prediction", False),
        ((), {"modelspec__prediction_type": "v_prediction"}, "v_prediction", False),
        ((), {"modelspec__prediction_type": "epsilon"}, "epsilon", False),
        (
            (),
            {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"},
            "v_prediction",
            True,
        ),
    ],
)
def test_prediction_type_is_read_from_the_file(
    keys: Any, metadata: Any, kind: Any, zero: bool, tmp_path: Path
) -> None:
    file = checkpoint(
        tmp_path / "sd.safetensors", {**WHOLE, **dict.fromkeys(keys, (0,))}, **metadata
    )
    assert prediction_of(file) == (prediction := type(prediction_of(file))(kind, zero))
    assert prediction.zero_terminal_snr is zero


def test_unknown_or_contradictory_prediction_type_is_refused(tmp_path: Path) -> None:
    for metadata, keys, words in (
        ("sample", (), "'sample'"),
        ("epsilon", ("ztsnr",), "exclude each other"),
    ):
        shapes = {**WHOLE, **dict.fromkeys(keys, (0,))}
        file = checkpoint(tmp_path / "sd.safetensors", shapes, modelspec__prediction_type=metadata)
        with pytest.raises(InputRefused, match=words):
            family_of(file)


@pytest.mark.parametrize("zero", [False, True])
def test_v_prediction_file_renders_the_same_clip_as_its_folder(
    zero: bool, job: TrainJob, models: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(models / "still", tmp_path / "still")
    tensors = original_names(folder)
    plain = replace(
        job.model,
        base_model=str(tmp_path / "plain.safetensors"),
        motion_adapter=str(models / "motion"),
        config=str(models / "still"),
    )
    save_file(tensors, plain.base_model)
    marks = {"v_pred": torch.zeros(0)} | ({"ztsnr": torch.zeros(0)} if zero else {})
    save_file({**tensors, **marks}, tmp_path / "v.safetensors")
    file = replace(plain, base_model=str(tmp_path / "v.safetensors"))
    set_json(
        folder / "scheduler/scheduler_config.json",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=zero,
    )
    made = clip(file, job)
    assert torch.isfinite(made).all()
    assert torch.equal(made, clip(replace(plain, base_model=str(folder), config=""), job))
    assert not torch.allclose(made, clip(plain, job))
    backbone = load_backbone(file, job.sampler, [])
    sampler = backbone.facts()["sampler"]
    assert (sampler["prediction_type"], sampler["rescale_betas_zero_snr"]) == ("v_prediction", zero)


# Motion adapters and ControlNets


def one_model(folder: Path, kind: str, **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": kind, **config}))
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(safetensors(b"weights"))
    return folder


def leave_it(folder: Path) -> None:
    pass


def with_config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        set_json(folder / "config.json", **values)

    return change


def without_file(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()

    return change


@pytest.mark.parametrize("name", ["/dev/zero", "pipe"])
def test_control_frames_that_are_not_a_file_are_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    control = ControlConfig(
        model=str(pipeline_folder(tmp_path / "base")), frames=str(tmp_path / name)
    )
    with pytest.raises(InputRefused, match="is not a regular file"):
        locate_style(ModelConfig(base_model="preset:tiny/animatediff", control=control))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (leave_it, ""),
        (with_config(_class_name="UNet2DConditionModel"), "not a motion adapter"),
        (with_config(block_out_channels=[1, 2, 3]), "has blocks of"),
        (with_config(conv_in_channels=9), "takes pictures too"),
        (without_file("config.json"), r"missing config\.json"),
        (without_file("diffusion_pytorch_model.safetensors"), "has no weights"),
    ],
)
def test_motion_adapter_is_checked_before_a_run_is_created(
    change: Change, words: str, tmp_path: Path
) -> None:
    base = pipeline_folder(tmp_path / "base")
    motion = one_model(tmp_path / "motion", "MotionAdapter", block_out_channels=[320, 640])
    change(motion)
    model = ModelConfig(base_model=str(base), motion_adapter=str(motion))
    if not words:
        assert locate_model(model).motion_adapter == str(motion)
        return
    with pytest.raises(InputRefused, match=words):
        locate_model(model)


def test_complete_small_models_are_accepted(job: TrainJob, models: Path) -> None:
    assert load_file(models / "still/unet/diffusion_pytorch_model.safetensors")
    still = replace(
        job.model, base_model=str(models / "still"), motion_adapter=str(models / "motion")
    )
    assert locate_model(still) == replace(still, config="")
