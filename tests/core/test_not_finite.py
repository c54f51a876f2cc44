"""NaN and infinity are errors with a reason; no clip, sample or cache entry is written."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pvtool_core.backbones.animatediff import AnimateDiff
from pvtool_core.backbones.interface import to_pixels, unit_range
from pvtool_core.errors import NotFinite
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.schema import LoraConfig
from pvtool_core.store.event_log import read_records
from pvtool_core.trainer import RunFiles
from tests.support.render_jobs import Engine, item, render_job
from tests.support.small_models import with_settings

REASON = "not finite"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Engine) -> Path:
    """Return a home without cached trajectories."""
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_nan_of_an_adapter_fails_its_clip_only(
    run: Engine, home: Path, job: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.safetensors"
    metadata = header_of(adapters["strong"])
    tensors = load_file(adapters["strong"])
    first = next(name for name in tensors if "lora_up" in name)
    save_file(
        {**tensors, first: torch.full_like(tensors[first], math.nan)}, broken, metadata=metadata
    )
    clips = [
        item(tmp_path / "out/bad", adapter=broken),
        item(tmp_path / "out/good", adapter=adapters["strong"]),
    ]
    assert run(render_job(job, *clips)).status == 6
    events = {event["path"]: event for event in run.events if event["type"] == "clip"}
    assert events[clips[0].clip]["status"] == "failed"
    assert REASON in events[clips[0].clip]["reason"]
    assert events[clips[1].clip]["status"] == "done"
    assert sorted(path.name for path in (tmp_path / "out").glob("*") if path.is_file()) == [
        "good.json",
        "good.mp4",
    ]


def test_nan_of_a_seed_fails_its_clip_only(
    run: Engine, home: Path, job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = AnimateDiff.initial_latents

    def spoiled(backbone: AnimateDiff, seed: int) -> Any:
        return noise(backbone, seed) * (math.nan if seed == 4 else 1)

    monkeypatch.setattr(AnimateDiff, "initial_latents", spoiled)
    wanted = render_job(job, *(item(tmp_path / f"out/{seed}", seed) for seed in (3, 4, 5)))
    assert run(wanted).status == 6
    assert sorted(run.clips()) == ["done", "done", "failed"]
    assert not (tmp_path / "out/4.mp4").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_frames_that_are_not_finite_are_not_written(
    run: Engine,
    home: Path,
    job: TrainJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
) -> None:
    decode = AnimateDiff.decode

    def overflowing(backbone: AnimateDiff, latents: Any, frames: Any) -> Any:
        decoded = decode(backbone, latents, frames)
        decoded[0, 0, 0, 0] = value
        return unit_range(decoded)

    monkeypatch.setattr(AnimateDiff, "decode", overflowing)
    ended = run(render_job(job, item(tmp_path / "out/clip")))
    assert ended.status == 1
    assert REASON in ended.message
    assert not (tmp_path / "out/clip.mp4").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pixels_of_values_that_are_not_finite_are_refused(value: float) -> None:
    frames = torch.zeros(2, 3, 4, 4)
    frames[1, 2, 3, 3] = value
    with pytest.raises(NotFinite):
        to_pixels(frames)


def test_infinite_decoder_output_is_not_clamped_to_white_or_black() -> None:
    decoded = torch.tensor(
        [-2.0, -1.0, 1.0, 3.0, math.inf, -math.inf, math.nan], dtype=torch.float16
    )
    frames = unit_range(decoded)
    assert frames[:4].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert frames[4:].isnan().all()


def test_cache_neither_stores_nor_loads_latents_that_are_not_finite(
    run: Engine, home: Path, job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = AnimateDiff.predict

    def overflowing(backbone: AnimateDiff, latents: Any, step: int, embeds: Any) -> Any:
        return predict(backbone, latents, step, embeds) * math.inf

    with monkeypatch.context() as broken:
        broken.setattr(AnimateDiff, "predict", overflowing)
        assert run(render_job(job, item(tmp_path / "out/clip"))).status == 1
    assert list((home / "cache/trajectories").rglob("*.safetensors")) == []
    assert run(render_job(job, item(tmp_path / "out/clip"))).status == 0


def test_sample_that_is_not_finite_causes_a_warning_and_no_file(
    run: Engine, home: Path, job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = AnimateDiff.decode

    def overflowing(backbone: AnimateDiff, latents: Any, frames: Any) -> Any:
        decoded = decode(backbone, latents, frames)
        return decoded * math.nan if backbone.model.fps == 7 and step["samples"] else decoded

    step = {"samples": False}
    monkeypatch.setattr(AnimateDiff, "decode", overflowing)
    short = with_settings(job, "training", iterations=1, sample_every=1)
    short = with_settings(short, "model", fps=7)
    sample = RunFiles.sample

    def sampling(*words: Any) -> None:
        step["samples"] = True
        sample(*words)
        step["samples"] = False

    monkeypatch.setattr(RunFiles, "sample", sampling)
    assert run(short).status == 0
    folder = run.root / "train-0"
    assert list((folder / "samples").rglob("*.mp4")) == []
    events, _ = read_records(folder / "events.jsonl")
    warnings = [event["message"] for event in events if event["type"] == "warning"]
    assert [REASON in warning for warning in warnings] == [True, True]


def header_of(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def test_style_lora_with_nan_writes_no_files(
    run: Engine, home: Path, job: TrainJob, tmp_path: Path
) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{name}.lora_down.weight": torch.full((2, 16), math.nan),
        f"{name}.lora_up.weight": torch.zeros(16, 2),
        f"{name}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, tmp_path / "nan.safetensors")
    lora = LoraConfig(file=str(tmp_path / "nan.safetensors"))
    with_lora = dataclasses.replace(job, model=dataclasses.replace(job.model, loras=(lora,)))
    ended = run(render_job(with_lora, item(tmp_path / "out/clip")))
    assert ended.status in {1, 3}
    assert not (tmp_path / "out/clip.mp4").exists()
