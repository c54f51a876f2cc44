"""`pv train --plan` equals training in passes, operations and bytes."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pvtool.cli.plan_report import facts, verdict, words, work
from pvtool_core import __main__ as engine
from pvtool_core.backbones import load_backbone
from pvtool_core.backbones.meta_model import meta_model
from pvtool_core.estimate.counts import Meter, count, forward, sizes
from pvtool_core.estimate.requirements import (
    GIB,
    Counts,
    Estimate,
    Machine,
    Passes,
    architecture_of,
    passes_of,
    sustained,
)
from pvtool_core.models.locate import missing_weights
from pvtool_core.settings.jobs import PlanJob, TrainJob, write_job
from pvtool_core.settings.presets import Presets
from pvtool_core.settings.schema import Settings
from pvtool_core.store.event_log import read_records
from pvtool_core.store.runs import RunFolder
from tests.support.keyword_vectors import inversion_job
from tests.support.small_models import with_settings
from tests.support.training import prepared_trainer

NOWHERE = Machine(name="", memory=0, host_memory=8 * GIB)


def plan_job(settings: Settings) -> PlanJob:
    folder, motion, _ = architecture_of(settings)
    return PlanJob(**settings.sections(), architecture=str(folder), motion=str(motion or ""))


@pytest.fixture(scope="module")
def small(job: TrainJob) -> Estimate:
    """Return the plan of the small random models on disk."""
    counts = count(plan_job(job))
    return Estimate(job, counts, passes_of(job, len(job.prompts)), NOWHERE, 0)


@pytest.fixture(scope="module")
def large() -> Estimate:
    """Return the plan of the preset animatediff, without its weights."""
    settings = Presets().get("animatediff").settings()
    a100 = Machine(name="NVIDIA A100-SXM4-80GB", memory=80 * GIB, host_memory=64 * GIB)
    return Estimate(
        settings,
        count(plan_job(settings)),
        passes_of(settings, 50),
        a100,
        sustained(a100.name, "float16"),
    )


def test_plan_names_what_to_change_if_the_memory_is_not_enough(large: Estimate) -> None:
    l4 = Machine(name="NVIDIA L4", memory=8 * GIB, host_memory=64 * GIB)
    text = "\n\n".join(map(str, words(dataclasses.replace(large, machine=l4))))
    assert "NVIDIA L4 has 8.00 GiB, which is not enough for 11." in text
    assert "← peak" in text
    assert "--set model.num_frames: fewer frames" in text
    assert re.search(r"run .* 1\.9 EFLOP +\d[\d.]* h", text)


def preset(**training: Any) -> Settings:
    return Presets().get("animatediff").settings({"training": training})


@pytest.mark.parametrize(
    ("training", "passes"),
    [
        ({"gradient": "full"}, Passes(0, 13, 50, 200)),
        ({"gradient": "replay"}, Passes(13, 13, 50, 200)),
        ({"gradient": "drtune", "gradient_steps": 2}, Passes(13, 2, 50, 200)),
        ({"gradient": "drtune"}, Passes(13, 13, 50, 200)),
        ({"gradient": "replay", "base_kl_weight": 1.0}, Passes(15, 13, 50, 200)),
        ({"gradient": "full", "cached_pairs": 24}, Passes(0, 13, 50, 24)),
    ],
)
def test_number_of_passes(training: dict[str, Any], passes: Passes) -> None:
    assert passes_of(preset(**training), prompts=50) == passes


@pytest.mark.parametrize("gradient", ["full", "replay", "drtune"])
def test_iteration_runs_the_planned_number_of_passes(
    job: TrainJob, gradient: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = with_settings(job, "training", gradient=gradient, gradient_steps=1, base_kl_weight=1.0)
    trainer, _ = prepared_trainer(job, tmp_path)
    made = {True: 0, False: 0}
    plain = trainer.backbone.predict

    def counted(*given: Any) -> Any:
        made[torch.is_grad_enabled()] += 1
        return plain(*given)

    monkeypatch.setattr(trainer.backbone, "predict", counted)
    trainer.iterate(1)
    passes = passes_of(job, len(job.prompts))
    assert (made[False], made[True]) == (passes.plain, passes.with_gradient)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_reconstruction_is_planned_without_rewards_by_its_own_work(
    weight: float, job: TrainJob
) -> None:
    job = with_settings(job, "training", objective="dreambooth", sample_every=2)
    job = with_settings(job, "dreambooth", prior_weight=weight, prior_images=3)
    passes = passes_of(job, len(job.prompts))
    assert passes == Passes(0, 1 + bool(weight), 8, 3 * bool(weight), 4)
    estimate = Estimate(job, count(plan_job(job)), passes, NOWHERE, 0)
    assert not {"identity reward", "semantic reward"} & estimate.weights().keys()
    phases = estimate.phases()
    assert "judging frames" not in phases and "encoding a photo" in phases
    assert ("filling the cache, denoising" in phases) == bool(weight)
    counts, flops = estimate.counts, estimate.flops()
    backbone = load_backbone(job.model, job.sampler, job.prompts)
    embeds = backbone.prompt_embeds(job.prompts[0])
    with backbone.as_image_model(), torch.no_grad(), Meter() as meter:
        backbone.predict(backbone.initial_latents(0), 7, embeds)
    assert counts.step.flops == pytest.approx(meter.flops, rel=0.1)  # 77 tokens, not 40
    assert counts.sample_latents == job.model.num_frames * counts.latents
    expected = (1 + bool(weight)) * counts.gradient.flops + counts.encode.flops
    assert flops["iteration"] == expected > 0
    assert flops["cache"] == 8 * 3 * bool(weight) * counts.step.flops
    sampled = 3 * (2 * counts.sample_step.flops + counts.sample_clip.flops)
    assert flops["samples"] == sampled + 8 * counts.sample_step.flops
    assert "0 pairs" in str(work(estimate)) or weight


def test_training_of_the_image_model_is_planned_for_single_frames(
    small: Estimate, job: TrainJob
) -> None:
    job = with_settings(job, "training", image_model=True)
    job = with_settings(job, "semantic_reward", weight=0.0)
    counts = count(plan_job(job))
    assert counts.sample_step == small.counts.step
    assert counts.sample_clip == small.counts.clip
    assert job.model.num_frames * counts.latents == counts.sample_latents == small.counts.latents
    assert counts.gradient.flops < small.counts.gradient.flops / job.model.num_frames
    assert 0 < counts.frames.flops < small.counts.frames.flops
    assert counts.semantic_frames.flops == counts.semantic_weights == 0
    estimate = dataclasses.replace(small, settings=job, counts=counts)
    assert "semantic reward" not in estimate.weights()
    assert {"judging frames", "sampling, denoising"} <= estimate.phases().keys()
    assert estimate.flops()["iteration"] < small.flops()["iteration"]


def test_sizes_and_operations_equal_those_of_the_installed_model(
    small: Estimate, job: TrainJob
) -> None:
    backbone = load_backbone(job.model, job.sampler, job.prompts)
    latents, embeds = backbone.initial_latents(0), backbone.prompt_embeds(job.prompts[0])
    own = [*backbone.denoiser.parameters(), *backbone.denoiser.buffers()]
    assert small.counts.denoiser == sum(each.numel() * each.element_size() for each in own)
    assert small.counts.parameters == sum(each.numel() for each in backbone.denoiser.parameters())
    with torch.no_grad(), Meter() as meter:
        backbone.predict(latents, 7, embeds)
    text = 32 * 16 * 2 * 4  # the small prompts have 40 tokens, the plan assumes CLIP's 77
    assert small.counts.step.flops == pytest.approx(meter.flops, rel=0.05)
    assert small.counts.step.peak == pytest.approx(meter.peak + text, rel=0.1)


def test_meter_measures_peak_memory() -> None:
    def run() -> torch.Tensor:
        first = torch.ones(1000)
        second = first * 2  # both are in memory
        del first
        return second + 1

    assert forward(run).peak == 8000


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_animatediff_is_planned_without_weights(large: Estimate) -> None:
    counts = large.counts
    assert counts.parameters == pytest.approx(1.277e9, rel=0.01)
    assert counts.step.flops == pytest.approx(35.5e12, rel=0.02)
    assert counts.clip.flops == pytest.approx(16 * 2.5e12, rel=0.02)
    assert counts.semantic_clip.flops == pytest.approx(16 * 0.33e12, rel=0.05)
    assert counts.adapter == 32 * 74_880
    assert counts.gradient.flops == pytest.approx(
        3 * counts.step.flops, rel=0.05
    )  # forward, recomputed forward, backward
    assert 2 * GIB < counts.gradient.kept < 4 * GIB
    assert large.peak[1] < 14 * GIB  # on a GPU of 16 GB


def test_step_without_recomputation_stores_40_gib() -> None:
    settings = preset(recompute=False)
    assert count(plan_job(settings)).gradient.kept / GIB == pytest.approx(40.4, rel=0.15)


def test_full_gradient_needs_memory_for_all_steps(large: Estimate) -> None:
    kept = dataclasses.replace(
        large, settings=preset(gradient="full"), passes=Passes(0, 13, 50, 200)
    )
    more = kept.phases()["judging frames"] - large.phases()["judging frames"]
    assert more == 13 * large.counts.gradient.kept


def test_fit_and_time_depend_on_the_device(large: Estimate) -> None:
    assert large.fits
    assert not dataclasses.replace(
        large, machine=dataclasses.replace(large.machine, memory=8 * GIB)
    ).fits
    assert "is enough for" in verdict(large)
    assert "is not enough" not in verdict(large)
    laptop = dataclasses.replace(large, machine=dataclasses.replace(large.machine, host_memory=GIB))
    assert "CPU memory of 1.00 GiB is not enough" in verdict(laptop)
    hours = large.seconds()["run"] / 3600
    assert 2 < hours < 6
    twice = dataclasses.replace(large, tflops=2 * large.tflops)
    assert twice.seconds()["run"] == pytest.approx(large.seconds()["run"] / 2)


def test_unknown_device_has_no_time_estimate(small: Estimate) -> None:
    assert (small.fits, small.seconds()) == (None, {})
    assert "add --tflops for a time estimate" in verdict(small)
    assert sustained("Radeon", "float16") == sustained("NVIDIA A100", "float32") == 0
    assert facts(small)["tflop"]["run"] > 0


def test_engine_reports_plan_of_missing_weights(
    tmp_path: Path, small: Estimate, job: TrainJob
) -> None:
    folder = RunFolder(tmp_path)
    away = with_settings(job, "identity_reward", package="models:nowhere")
    write_job(folder.config, plan_job(away))
    assert engine.main([str(tmp_path)]) == 0
    found = {event["type"]: event for event in read_records(folder.events)[0]}
    assert Counts.of(found["counts"]) == small.counts
    assert found["machine"]["host_memory"] > 0


def test_missing_models_are_listed_with_download_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path))
    first, *others = missing_weights(Presets().get("animatediff").settings())
    assert "models:realistic-vision" in first.message
    assert "pv models fetch realistic-vision" in first.hint
    assert len(others) == 3
    assert missing_weights(Presets().get("tiny").settings()) == []


@pytest.mark.parametrize(("width", "height", "tflop"), [(768, 512, 792), (1280, 720, 3254)])
def test_hunyuan_video_is_planned_at_both_sizes_of_the_paper(
    width: int, height: int, tflop: float
) -> None:
    size = {"width": width, "height": height, "trim_prompt": False}
    settings = Presets().get("hunyuan-video").settings({"model": size})
    model = dataclasses.replace(settings.model, device="meta")
    backbone = meta_model(model, settings.sampler, True, architecture_of(settings)[0])
    latents, embeds = backbone.initial_latents(0), backbone.prompt_embeds("")
    assert forward(lambda: backbone.predict(latents, 49, embeds)).flops == pytest.approx(
        tflop * 1e12, rel=0.02
    )
    assert sum(each.numel() for each in backbone.denoiser.parameters()) == pytest.approx(
        12.8e9, rel=0.01
    )


def test_offload_and_storage_reduce_gpu_memory() -> None:
    block = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False), torch.nn.LayerNorm(64)).to(
        torch.bfloat16
    )
    denoiser = torch.nn.ModuleDict(
        {"blocks": torch.nn.ModuleList([block]), "last": torch.nn.Linear(8, 8)}
    )
    blocks: list[torch.nn.Module] = [block]
    matrix, rest, last = 64 * 64, 2 * 2 * 64, (8 * 8 + 8) * 4
    assert sizes(denoiser, blocks, "dtype", offload=False) == (2 * matrix + rest + last, 0)
    assert sizes(denoiser, blocks, "dtype", offload=True) == (last, 2 * matrix + rest)
    assert sizes(denoiser, blocks, "int8", offload=False) == (matrix + rest + last, 0)
    assert sizes(denoiser, blocks, "nf4", offload=False) == (matrix * 9 // 16 + rest + last, 0)


def test_textual_inversion_is_planned_with_its_batch_and_its_text_encoder(job: TrainJob) -> None:
    job = inversion_job(job, batch_size=3, vectors=2)
    passes = passes_of(job, len(job.prompts))
    assert passes == Passes(0, 3, 8, 0, 4)
    estimate = Estimate(job, count(plan_job(job)), passes, NOWHERE, 0)
    counts = estimate.counts
    assert counts.adapter == 2 * 16
    assert estimate.weights()["text encoder"] == counts.text_encoders > 0
    lora = count(plan_job(with_settings(job, "training", objective="dreambooth")))
    assert counts.parameters == lora.parameters
    assert 0.5 < counts.gradient.flops / lora.gradient.flops < 1
    each = counts.gradient.flops + counts.encode.flops
    assert estimate.flops()["iteration"] == 3 * each
