"""The method of PersonalVideo, tested with AnimateDiff.

The adapter is active in the last quarter of the steps and together with other LoRAs; the distance
from the base model is estimated without bias; the exported file contains the schedule, and cannot
be loaded into another model. Laws of all backbones are in core/test_backbones.py.
"""

import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from pvtool_core.adapter import Adapter, AdapterMetadata, IdentityAdapter, load_adapter, switch_step
from pvtool_core.backbones.animatediff import AnimateDiff
from pvtool_core.errors import InputRefused, RunFailed
from pvtool_core.sampling import (
    AdaptedSteps,
    BaseKl,
    denoise,
    output_weights,
    rollout_in_memory,
    rollout_replayed,
    rollout_stopped,
)
from pvtool_core.settings.jobs import TrainJob
from tests.support.small_models import shake

PROMPT = "a <V> woman waving"


@pytest.fixture
def backbone(job: TrainJob) -> AnimateDiff:
    return AnimateDiff(job.model, job.sampler, [PROMPT])


@pytest.fixture
def adapter(backbone: AnimateDiff) -> IdentityAdapter:
    """Return an adapter with nonzero up projections, like a trained one."""
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2, seed=3)
    shake(adapter)
    return adapter


def test_adapter_of_the_papers_model_has_48_layers(job: TrainJob, backbone: AnimateDiff) -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel

    with torch.device("meta"):
        spatial = UNet2DConditionModel(cross_attention_dim=768)
        unet: Any = UNetMotionModel.from_unet2d(spatial, MotionAdapter(), load_weights=False)
        adapter = IdentityAdapter(unet, backbone.lora_target, rank=32)
    assert len(adapter.layers) == 48
    assert sum(weight.numel() for weight in adapter.parameters()) == 32 * 74_880


def test_the_last_quarter_begins_at_37_of_50_steps() -> None:
    assert [switch_step(0.75, steps) for steps in (50, 16, 8, 4)] == [37, 12, 6, 3]


def test_other_loras_stay_active_and_frozen(backbone: AnimateDiff) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    style = LoraConfig(
        r=2, lora_alpha=2, target_modules=r".*attn[12]\.to_q", init_lora_weights=False
    )
    inject_adapter_in_model(style, backbone.denoiser, "style")
    backbone.denoiser.requires_grad_(False)
    noise, embeds, steps = backbone.initial_latents(7), backbone.prompt_embeds(PROMPT), range(2)
    styled = denoise(backbone, noise, embeds, steps)
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2)
    assert torch.equal(denoise(backbone, noise, embeds, steps), styled)
    assert torch.equal(denoise(backbone, noise, embeds, steps, adapter), styled)
    shake(adapter)
    assert not torch.equal(denoise(backbone, noise, embeds, steps, adapter), styled)
    assert not any(
        weight.requires_grad
        for name, weight in backbone.denoiser.named_parameters()
        if ".style." in name
    )
    adapter.remove()
    assert torch.equal(denoise(backbone, noise, embeds, steps), styled)


# The gradient


@pytest.fixture
def exact(job: TrainJob) -> AnimateDiff:
    """Return the model in float64, in which two methods agree to many digits."""
    backbone = AnimateDiff(job.model, job.sampler, [PROMPT])
    backbone.denoiser.double()
    backbone.pipeline.vae.double()
    return backbone


def loss_of(backbone: Any, latents: Tensor) -> Tensor:
    """Return a loss on decoded frames."""
    vae = backbone.pipeline.vae
    frames = vae.decode(latents[0].transpose(0, 1)).sample
    return (
        frames.sin() * torch.linspace(0, 1, frames.numel(), dtype=frames.dtype).view_as(frames)
    ).sum()


def gradients(adapter: Adapter) -> list[Tensor]:
    found = [weight.grad for weight in adapter.parameters() if weight.grad is not None]
    assert len(found) == len(adapter.parameters())
    for weight in adapter.parameters():
        weight.grad = None
    return found


def exact_route(exact: AnimateDiff, base_kl: BaseKl | None = None) -> tuple[AdaptedSteps, Tensor]:
    adapter = IdentityAdapter(exact.denoiser, exact.lora_target, rank=2)
    for weight in adapter.parameters():
        weight.data = weight.data.double()
    shake(adapter)
    embeds = {name: tensor.double() for name, tensor in exact.prompt_embeds(PROMPT).items()}
    switch = denoise(exact, exact.initial_latents(7).double(), embeds, range(6))
    return AdaptedSteps(exact, adapter, embeds, range(6, 8), base_kl), switch


def gradient_by(tail_of: Any, route: AdaptedSteps, switch: Tensor) -> list[Tensor]:
    tail = tail_of(route, switch)
    latents = tail.latents.requires_grad_()
    tail.backward(torch.autograd.grad(loss_of(route.backbone, latents), latents)[0])
    return gradients(route.adapter)


def close(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(
        torch.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in zip(ours, theirs, strict=True)
    )


def test_exact_gradients_agree_with_base_penalty(exact: AnimateDiff) -> None:
    route, switch = exact_route(exact, BaseKl(0.5, range(6, 8)))
    near = gradient_by(rollout_in_memory, route, switch)
    assert close(gradient_by(rollout_replayed, route, switch), near)
    assert not close(
        gradient_by(rollout_in_memory, dataclasses.replace(route, base_kl=None), switch), near
    )


def test_base_penalty_of_one_random_step_is_unbiased(
    exact: AnimateDiff,
) -> None:
    route, switch = exact_route(exact)
    both, first, second = (
        dataclasses.replace(route, base_kl=BaseKl(0.5, steps)) for steps in ([6, 7], [6], [7])
    )
    distances = [rollout_in_memory(each, switch).base_kl for each in (both, first, second)]
    assert torch.allclose((distances[1] + distances[2]) / 2, distances[0], rtol=1e-12)
    gradients_of = [gradient_by(rollout_in_memory, each, switch) for each in (both, first, second)]
    assert close([(a + b) / 2 for a, b in zip(*gradients_of[1:], strict=True)], gradients_of[0])


def test_base_penalty_of_one_random_step_is_unbiased_with_stopped_gradient(
    exact: AnimateDiff,
) -> None:
    plain, switch = exact_route(exact)
    routes = [
        dataclasses.replace(plain, base_kl=BaseKl(0.5, steps)) for steps in ([6, 7], [6], [7])
    ]
    drawn = [[6, 7], [6], [7]]
    both, first, second = (
        gradient_by(partial(rollout_stopped, drawn=steps), route, switch)
        for route, steps in zip(routes, drawn, strict=True)
    )
    assert close([(a + b) / 2 for a, b in zip(first, second, strict=True)], both)
    assert not close(gradient_by(rollout_stopped, plain, switch), both)


def test_base_penalty_ignores_pixels_of_zero_weight(exact: AnimateDiff) -> None:
    route, switch = exact_route(exact)
    left = torch.zeros_like(switch)
    left[..., : switch.shape[-1] // 2] = 1
    whole, half, other = (
        rollout_in_memory(
            dataclasses.replace(route, base_kl=BaseKl(1.0, [7], shares)), switch
        ).base_kl
        for shares in (1.0, left, 1 - left)
    )
    assert 0 < half < whole
    assert torch.allclose(half + other, whole)


def test_base_penalty_of_a_new_adapter_is_zero(backbone: AnimateDiff) -> None:
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2)
    route = AdaptedSteps(
        backbone, adapter, backbone.prompt_embeds(PROMPT), range(6, 8), BaseKl(1.0, [6, 7])
    )
    assert rollout_in_memory(route, backbone.initial_latents(7)).base_kl == 0
    shake(adapter)
    assert rollout_replayed(route, backbone.initial_latents(7)).base_kl > 0


def test_output_weights_equal_ddim(backbone: AnimateDiff) -> None:
    scheduler: Any = backbone.scheduler
    kept = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps] + [
        float(scheduler.final_alpha_cumprod)
    ]

    def of(now: float, then: float) -> tuple[float, float]:
        a = math.sqrt(then / now)
        return a, math.sqrt(1 - then) - math.sqrt(then * (1 - now) / now)

    (_, b_6), (a_7, b_7) = of(kept[6], kept[7]), of(kept[7], kept[8])
    assert output_weights(backbone, range(6, 8)) == pytest.approx({6: a_7 * b_6, 7: b_7}, rel=1e-5)


def test_stopped_gradient_refuses_a_clipping_sampler(
    backbone: AnimateDiff, adapter: IdentityAdapter
) -> None:
    backbone.scheduler.register_to_config(clip_sample=True)
    route = AdaptedSteps(backbone, adapter, backbone.prompt_embeds(PROMPT), range(6, 8))
    with pytest.raises(RunFailed, match="clips"):
        rollout_stopped(route, backbone.initial_latents(7))


# Exported files


def terms_of(backbone: AnimateDiff) -> AdapterMetadata:
    facts = backbone.facts()
    return AdapterMetadata(
        0.75, backbone.num_steps, 3.0, sampler=facts["sampler"], base_model=facts["base"]
    )


@pytest.fixture
def exported(backbone: AnimateDiff, adapter: IdentityAdapter, tmp_path: Path) -> Path:
    adapter.save(tmp_path / "adapter.safetensors", backbone.lora_layout, terms_of(backbone))
    return tmp_path / "adapter.safetensors"


def test_keys_are_those_of_comfyui_for_stable_diffusion(
    exported: Path, backbone: AnimateDiff, adapter: IdentityAdapter
) -> None:
    with safe_open(exported, "pt") as file:
        keys = set(file.keys())
        rank = int(file.get_tensor(next(key for key in keys if "alpha" in key)))
    names = {"lora_unet_" + name.replace(".", "_") for name in adapter.layers}
    assert keys == {
        f"{name}.{part}"
        for name in names
        for part in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.alpha" in keys
    assert rank == adapter.rank


def test_file_contains_schedule_and_base_model(exported: Path, backbone: AnimateDiff) -> None:
    with safe_open(exported, "pt") as file:
        metadata = file.metadata()
    assert AdapterMetadata.of(metadata) == terms_of(backbone)
    assert (metadata["adapter_start"], metadata["first_step"], metadata["num_inference_steps"]) == (
        "0.75",
        "6",
        "8",
    )
    assert json.loads(metadata["sampler"])["class"] == "DDIMScheduler"
    assert "KSamplerAdvanced 0-6" in metadata["how_to_use"]


def test_adapter_of_another_model_is_refused_without_changes(
    exported: Path, job: TrainJob, tmp_path: Path
) -> None:
    fresh = AnimateDiff(job.model, job.sampler, [PROMPT])
    before = denoise(fresh, fresh.initial_latents(7), fresh.prompt_embeds(PROMPT), range(1))
    with pytest.raises(
        InputRefused,
        match=r"other layers; 0 of its 36 keys match, unmatched \(36\): .*, …, missing",
    ):
        load_adapter(exported, fresh.denoiser, r".*attn2\.to_q", fresh.lora_layout)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(InputRefused, match="not an adapter file"):
        load_adapter(
            tmp_path / "text.safetensors", fresh.denoiser, fresh.lora_target, fresh.lora_layout
        )
    after = denoise(fresh, fresh.initial_latents(7), fresh.prompt_embeds(PROMPT), range(1))
    assert torch.equal(before, after)
    assert not any("lora" in name for name, _ in fresh.denoiser.named_modules())
