"""Exported adapter files: their schedule in ComfyUI, sampler, styles and bytes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pvtool_core.adapter import (
    AdapterMetadata,
    IdentityAdapter,
    LoraPair,
    read_adapter,
    read_rank,
    switch_step,
)
from pvtool_core.backbones import load_backbone
from pvtool_core.backbones.animatediff import KohyaLayout
from pvtool_core.errors import InputRefused
from pvtool_core.hashes import sha256_of
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.schema import ControlConfig, LoraConfig
from pvtool_core.store.events import ignore
from pvtool_core.trainer import Trainer
from tests.support import save_adapter
from tests.support.families import FAMILIES, Family
from tests.support.small_models import with_settings

DDIM: Mapping[str, Any] = {"class": "DDIMScheduler"}


def euler(shift: float) -> Mapping[str, Any]:
    return {"class": "FlowMatchEulerDiscreteScheduler", "shift": shift}


# ComfyUI's formulas, reimplemented from comfy/model_sampling.py and comfy/samplers.py


class StableDiffusion:
    """ModelSamplingDiscrete with Stable Diffusion's betas."""

    def __init__(self) -> None:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        kept = torch.cumprod(1 - betas, 0)
        self.levels = ((1 - kept) / kept).sqrt().float()

    def level(self, time: Tensor) -> Tensor:
        """Return the noise level at a time in 0 … 999, interpolated by the logarithm."""
        low, high, part = time.floor().long(), time.ceil().long(), time.frac()
        logs = self.levels.log()
        return ((1 - part) * logs[low] + part * logs[high]).exp()

    def percent_to_sigma(self, percent: float) -> float:
        return float(self.level(torch.tensor((1 - percent) * 999.0)))

    def normal(self, steps: int) -> list[float]:
        return self.level(torch.linspace(999, 0, steps)).tolist()

    def karras(self, steps: int) -> list[float]:
        low, high = float(self.levels[0]) ** (1 / 7), float(self.levels[-1]) ** (1 / 7)
        return [(high + part * (low - high)) ** 7 for part in torch.linspace(0, 1, steps).tolist()]


class Flow:
    """ModelSamplingDiscreteFlow, as ModelSamplingSD3 sets its shift."""

    def __init__(self, shift: float) -> None:
        self.shift = shift
        self.levels = self.level(torch.arange(1, 1001) / 1000)

    def level(self, time: Any) -> Any:
        return self.shift * time / (1 + (self.shift - 1) * time)

    def percent_to_sigma(self, percent: float) -> float:
        return self.level(1 - percent)

    def simple(self, steps: int) -> list[float]:
        return [
            float(self.levels[-(1 + int(step * len(self.levels) / steps))]) for step in range(steps)
        ]


def first_active_step(percent: float, model: Any, levels: list[float]) -> int:
    """Return the first step in which a keyframe at `percent` is active.

    Its level is at or below that of the percent.
    """
    start = model.percent_to_sigma(percent)
    return next(step for step, level in enumerate(levels) if start >= level)


def percent_in_file(first: int, steps: int, sampler: Mapping[str, Any], scheduler: str) -> float:
    """Return the percent in an adapter's metadata, checked against its instructions."""
    terms = AdapterMetadata((first + 0.5) / steps, steps, 5.0, sampler, "base")
    assert switch_step(terms.start, steps) == first
    metadata = terms.metadata()
    assert metadata["comfyui_scheduler"] == scheduler
    percent = metadata["comfyui_start_percent"]
    assert f"{percent} at strength 1" in metadata["how_to_use"]
    assert f"scheduler {scheduler}" in metadata["how_to_use"]
    return float(percent)


def switches() -> Iterator[tuple[int, int]]:
    """Return numbers of steps, each with first active steps: all up to 100 steps, some beyond."""
    for steps in range(2, 101):
        yield from ((steps, first) for first in range(1, steps))
    for steps in (250, 333, 334, 499, 500, 501, 750, 997, 1000):
        yield from ((steps, first) for first in {1, 2, 5, steps // 2, int(0.75 * steps), steps - 1})


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 7.0, 12.0])
def test_flow_model_adapter_starts_at_its_first_active_step_in_comfyui(shift: float) -> None:
    model = Flow(shift)
    levels = {steps: model.simple(steps) for steps, _ in switches()}
    for steps, first in switches():
        assert (
            first_active_step(
                percent_in_file(first, steps, euler(shift), "simple"), model, levels[steps]
            )
            == first
        )


def test_stable_diffusion_adapter_starts_at_its_first_active_step_in_comfyui() -> None:
    model = StableDiffusion()
    levels = {steps: model.normal(steps) for steps, _ in switches()}
    for steps, first in switches():
        assert (
            first_active_step(percent_in_file(first, steps, DDIM, "normal"), model, levels[steps])
            == first
        )


@pytest.mark.parametrize("sampler", [DDIM, euler(3.0)])
def test_percent_is_valid_after_rounding_to_thousandths(
    sampler: Mapping[str, Any],
) -> None:
    model, scheduler = (StableDiffusion(), "normal") if sampler is DDIM else (Flow(3.0), "simple")
    for steps in (2, 16, 25, 30, 50, 99, 334, 499, 500):
        levels = getattr(model, scheduler)(steps)
        for first in range(1, steps):
            percent = round(percent_in_file(first, steps, sampler, scheduler), 3)
            assert first_active_step(percent, model, levels) == first


def test_percents_of_50_steps_equal_those_measured_in_comfyui() -> None:
    flow, still = Flow(7.0), StableDiffusion()
    assert percent_in_file(37, 50, euler(7.0), "simple") == 0.73
    assert percent_in_file(37, 50, DDIM, "normal") == 0.745
    assert first_active_step(0.75, flow, flow.simple(50)) == 38  # the fraction is one step late,
    assert first_active_step(0.75, still, still.normal(50)) == 37
    assert (
        first_active_step(0.75, still, still.karras(50)) == 30
    )  # and other schedulers need other values


def test_instructions_are_complete() -> None:
    wan = AdapterMetadata(0.75, 50, 5.0, euler(3.0), "base").metadata()["how_to_use"]
    for words in (
        "ModelSamplingSD3 with shift 3",
        "sampler euler, scheduler simple, 50 steps",
        "both conditionings",
        "KSamplerAdvanced 0-37",
        "add_noise enable, return_with_leftover_noise enable",
        "37-50 with the LoRA (add_noise disable",
        "same scheduler",
    ):
        assert words in wan
    assert (
        "ModelSamplingSD3"
        not in AdapterMetadata(0.75, 50, 7.5, DDIM, "base").metadata()["how_to_use"]
    )


@pytest.mark.parametrize("steps", [1, 50])
@pytest.mark.parametrize("sampler", [DDIM, euler(3.0)])
def test_adapter_active_in_all_steps_needs_no_keyframe(
    sampler: Mapping[str, Any], steps: int
) -> None:
    metadata = AdapterMetadata(0.0, steps, 5.0, sampler, "base").metadata()
    assert (metadata["first_step"], float(metadata["comfyui_start_percent"])) == ("0", 0.0)
    assert f"Acts in all {steps} denoising steps" in metadata["how_to_use"]
    assert "Keyframe" not in metadata["how_to_use"]
    assert "callback" not in metadata["how_to_use"]


# Other metadata


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


def test_the_noise_levels_of_flow_matching_are_in_the_file(family: Family, models: Path) -> None:
    job = family.job(models)
    backbone: Any = load_backbone(job.model, job.sampler, [])
    facts = json.loads(json.dumps(backbone.sampler_facts()))
    assert facts["class"] == type(backbone.scheduler).__name__
    assert backbone.facts()["sampler"].items() <= facts.items()  # the cache key is unchanged
    if facts["class"] == "DDIMScheduler":
        return
    assert facts["noise_levels"] == backbone.scheduler.sigmas.tolist()
    assert len(facts["sigmas"]) == job.sampler.num_inference_steps
    shift = facts["shift"]
    shifted = [shift * sigma / (1 + (shift - 1) * sigma) for sigma in facts["sigmas"]]
    assert [*shifted, 0.0] == pytest.approx(facts["noise_levels"], abs=1e-6)
    assert facts["sigmas_rule"].startswith("numpy.linspace(1, ")


def test_styles_and_control_of_the_training_run_are_in_the_file_without_paths(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainer = Trainer(job, None, ignore)
    lora = LoraConfig(file=str(tmp_path / "ink.safetensors"), weight=0.7, fingerprint="abc")
    control = ControlConfig(
        model=str(tmp_path / "openpose"), frames=str(tmp_path / "dance"), fingerprint="d e"
    )
    trainer.job = with_settings(job, "model", loras=(lora,), control=control)
    metadata = trainer.terms().metadata()
    assert json.loads(metadata["style_loras"]) == [
        {"file": "ink.safetensors", "weight": 0.7, "fingerprint": "abc"}
    ]
    assert json.loads(metadata["control"]) == {
        "model": "openpose", "frames": "dance", "weight": 1.0, "fingerprint": "d e",
    }  # fmt: skip
    assert str(tmp_path) not in str(metadata)
    assert metadata["keyword"] == "<V>"
    assert "<V>" in metadata["how_to_use"]
    assert AdapterMetadata.of(metadata) == trainer.terms()


def metadata_of(path: Path) -> AdapterMetadata:
    with safe_open(path, "pt") as file:
        return AdapterMetadata.of(file.metadata())


def test_older_file_version_is_read(adapters: dict[str, Path], tmp_path: Path) -> None:
    with safe_open(adapters["zero"], "pt") as file:
        metadata = file.metadata()
    old = {key: metadata[key] for key in (
        "format", "adapter_start", "first_step", "num_inference_steps", "guidance_scale", "sampler",
        "base_model_fingerprint", "how_to_use", "rank",
    )}  # fmt: skip
    save_file(load_file(adapters["zero"]), tmp_path / "old.safetensors", metadata=old)
    assert metadata_of(tmp_path / "old.safetensors") == metadata_of(adapters["zero"])
    assert (
        read_adapter(tmp_path / "old.safetensors").keys() == read_adapter(adapters["zero"]).keys()
    )


# Reproducible files


def test_equal_adapters_are_equal_bytes_in_every_process(tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.safetensors" for n in range(2)]
    save_adapter.save(files[0])
    other = {**os.environ, "PYTHONHASHSEED": "1"}  # sets of words have another order
    script = save_adapter.__file__
    subprocess.run([sys.executable, "-P", script, str(files[1])], check=True, env=other)
    assert len({sha256_of(file) for file in files}) == 1
    assert metadata_of(files[0]).sampler["note"] == 'größer ≥ \\ "\x7f\n'
    assert len(read_adapter(files[0])) == 36


def test_saving_an_adapter_again_gives_equal_bytes(tmp_path: Path) -> None:
    denoiser = torch.nn.ModuleDict({"to_q": torch.nn.Linear(4, 4)})
    adapter = IdentityAdapter(denoiser, "to_q", rank=2)
    terms = AdapterMetadata(0.75, 50, 7.5, DDIM, "base")
    for number in range(8):
        adapter.save(tmp_path / f"{number}.safetensors", KohyaLayout(), terms)
    assert len({sha256_of(file) for file in tmp_path.iterdir()}) == 1
    packed = KohyaLayout().pack({"to_q": LoraPair(*adapter.parameters())})
    tensors = read_adapter(tmp_path / "0.safetensors")
    assert metadata_of(tmp_path / "0.safetensors") == terms
    assert all(torch.equal(tensors[key], value) for key, value in packed.items())


INVALID: dict[str, dict[str, str | None]] = {
    "no rank": {"rank": None},
    "a word for a rank": {"rank": "x"},
    "a rank of too many digits": {"rank": "9" * 5000},
    "a rank that fills the memory": {"rank": "999999999"},
    "a negative rank": {"rank": "-2"},
    "a rank of zero": {"rank": "0"},
    "no start": {"adapter_start": None},
    "a start that is not a number": {"adapter_start": "nan"},
    "steps of too many digits": {"num_inference_steps": "9" * 5000},
    "no steps": {"num_inference_steps": "0"},
    "infinite guidance": {"guidance_scale": "inf"},
    "a deep sampler": {"sampler": "[" * 30_000},
    "a list for a sampler": {"sampler": "[1]"},
    "half a control": {"control": "{"},
    "a number for styles": {"style_loras": "5"},
    "a number for a style": {"style_loras": "[5]"},
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_metadata_of_an_adapter_is_refused(
    name: str, adapters: dict[str, Path], tmp_path: Path
) -> None:
    with safe_open(adapters["zero"], "pt") as file:
        metadata = {**file.metadata(), **INVALID[name]}
    hostile = tmp_path / "hostile.safetensors"
    save_file(
        load_file(adapters["zero"]),
        hostile,
        {key: text for key, text in metadata.items() if text is not None},
    )
    read = read_rank if "rank" in INVALID[name] else read_adapter
    with pytest.raises(InputRefused, match="invalid metadata") as refused:
        read(hostile)
    assert refused.value.hint
