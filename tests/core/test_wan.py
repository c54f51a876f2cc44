"""Tests of Wan only; the laws of all backbones are in test_backbones.py."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from pvtool_core.adapter import IdentityAdapter, LoraPair
from pvtool_core.backbones import load_backbone
from pvtool_core.backbones.interface import to_pixels
from pvtool_core.backbones.wan import Wan, WanLayout, recompute_decoder
from pvtool_core.errors import InputRefused, NotFinite
from pvtool_core.sampling import denoise
from pvtool_core.settings.jobs import TrainJob
from tests.support.families import WAN, WAN_VAE, pipeline_call, save_wan, save_wan_dense
from tests.support.small_models import with_settings

PROMPT = "a <V> woman waving"


@pytest.fixture
def job(models: Path) -> TrainJob:
    return WAN.job(models)


def load(job: TrainJob) -> Wan:
    return Wan(job.model, job.sampler, [PROMPT])


def final_latents(backbone: Wan) -> Tensor:
    return denoise(
        backbone,
        backbone.initial_latents(7),
        backbone.prompt_embeds(PROMPT),
        range(backbone.num_steps),
    )


@pytest.mark.parametrize(("heads", "layers", "count"), [(12, 30, 90), (40, 40, 120)])
def test_adapter_of_the_full_model_has_three_layers_per_block(
    heads: int, layers: int, count: int
) -> None:
    with torch.device("meta"):
        transformer = WanTransformer3DModel(num_attention_heads=heads, num_layers=layers)
        adapter = IdentityAdapter(transformer, Wan.lora_target, rank=32)
    assert len(adapter.layers) == count
    assert sum(weight.numel() for weight in adapter.parameters()) == count * 2 * 32 * heads * 128


def test_keys_are_those_of_the_original_code_and_comfyui() -> None:
    pair = LoraPair(torch.ones(2, 8), torch.ones(8, 2))
    assert set(WanLayout().pack({"blocks.3.attn1.to_q": pair})) == {
        "diffusion_model.blocks.3.self_attn.q.lora_A.weight",
        "diffusion_model.blocks.3.self_attn.q.lora_B.weight",
    }


def test_multistep_sampler_is_replaced_by_euler_with_its_shift(
    job: TrainJob,
) -> None:
    own, other = load(job), load(with_settings(job, "sampler", shift=5.0))
    kept = own.facts()["sampler"]
    assert (kept["class"], kept["shift"]) == ("FlowMatchEulerDiscreteScheduler", 3.0)
    assert other.facts()["sampler"]["shift"] == 5.0
    assert other.scheduler.sigmas[4] > own.scheduler.sigmas[4]


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_noise_levels_equal_those_of_wans_sampler(shift: float, job: TrainJob) -> None:
    backbone = load(
        with_settings(with_settings(job, "sampler", num_inference_steps=50), "sampler", shift=shift)
    )
    own: Any = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    own.set_timesteps(50)
    assert torch.allclose(backbone.scheduler.sigmas, own.sigmas, atol=1e-6)


def test_some_weights_stay_in_float32_as_in_diffusers(job: TrainJob) -> None:
    backbone = load(with_settings(job, "model", dtype="bfloat16"))
    assert backbone.denoiser.blocks[0].scale_shift_table.dtype == torch.float32


def test_frames_are_decoded_without_later_latents(job: TrainJob) -> None:
    backbone = load(job)
    latents = final_latents(backbone).requires_grad_()
    for frame, counting in ((0, 1), (1, 2), (4, 2), (5, 3), (8, 3)):
        assert list(backbone.decoded_with(frame)) == list(range(4 * (counting - 1) + 1))
        (gradient,) = torch.autograd.grad(backbone.decode(latents, [frame]).mean(), latents)
        reached = gradient[0].abs().amax((0, 2, 3)) > 0
        assert reached.tolist() == [latent < counting for latent in range(3)]


@pytest.mark.slow
def test_a_frame_depends_on_more_latents_than_a_clip_has() -> None:
    sizes: dict[str, Any] = {**WAN_VAE, "num_res_blocks": 2}
    vae: Any = AutoencoderKLWan(**sizes).double().requires_grad_(False)
    latents = torch.randn(1, 16, 41, 2, 2, dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(vae.decode(latents).sample[0, :, -1].sin().sum(), latents)
    assert int((gradient[0].abs().amax((0, 2, 3)) > 0).sum()) == 38


def test_a_recomputed_decoder_gives_the_same_frames_and_gradient() -> None:
    torch.manual_seed(0)
    vae: Any = AutoencoderKLWan(**WAN_VAE).requires_grad_(False)
    latents = torch.randn(1, 16, 3, 4, 4, requires_grad=True)
    found: list[tuple[Tensor, Tensor]] = []
    for _ in ("plain", "recomputed"):
        frames = vae.decode(latents).sample
        found.append((frames, torch.autograd.grad(frames.sin().sum(), latents)[0]))
        recompute_decoder(vae.decoder)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_dense_wan_2_2_model_equals_diffusers_exactly(job: TrainJob, tmp_path: Path) -> None:
    save_wan_dense(tmp_path / "dense")
    job = with_settings(job, "model", base_model=str(tmp_path / "dense"), width=64, height=64)
    backbone = load(job)
    theirs = pipeline_call(WAN.fresh_pipeline(job), job, PROMPT, output_type="pt")[0]
    with torch.no_grad():
        assert torch.equal(backbone.decode(final_latents(backbone), range(9)), theirs)


def test_model_with_two_transformers_is_refused(job: TrainJob, tmp_path: Path) -> None:
    save_wan(tmp_path / "experts", boundary_ratio=0.9)
    model = dataclasses.replace(job.model, base_model=str(tmp_path / "experts"))
    with pytest.raises(InputRefused, match="two transformers"):
        load_backbone(model, job.sampler, [PROMPT])


def test_a_size_that_diffusers_would_round_down_is_refused(job: TrainJob, tmp_path: Path) -> None:
    save_wan_dense(tmp_path / "dense")
    model = dataclasses.replace(job.model, base_model=str(tmp_path / "dense"), width=48)
    with pytest.raises(InputRefused, match="Invalid size 48×32"):
        load_backbone(model, job.sampler, [PROMPT])


@pytest.mark.parametrize("changes", [{"storage": "float8"}, {"offload": True}])
def test_denoiser_can_be_quantised(changes: dict[str, Any], job: TrainJob) -> None:
    plain, stored = load(job), load(with_settings(job, "model", **changes))
    ours, theirs = final_latents(stored), final_latents(plain)
    assert torch.equal(ours, theirs) == ("offload" in changes)
    assert (ours - theirs).norm() < 0.1 * theirs.norm()


@pytest.mark.parametrize("tiling", [False, True])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_overflow_of_the_autoencoder_is_not_clamped_to_white_or_black(
    job: TrainJob, value: float, tiling: bool
) -> None:
    """diffusers clamps the autoencoder's output, including infinities."""
    backbone = load(with_settings(job, "model", vae_tiling=tiling))
    last: Any = backbone.pipeline.vae.decoder.conv_out
    last.bias.data[1] = value
    frames = backbone.decode(backbone.initial_latents(7), range(backbone.num_frames))
    assert frames[:, 0].isfinite().all()
    with pytest.raises(NotFinite):
        to_pixels(frames)
