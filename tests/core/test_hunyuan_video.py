"""Tests of HunyuanVideo only; the laws of all backbones are in test_backbones.py."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import HunyuanVideoPipeline
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pvtool_core.adapter import Adapter, AdapterMetadata, IdentityAdapter, LoraPair, load_adapter
from pvtool_core.backbones.hunyuan_video import FusedLayout, HunyuanVideo
from pvtool_core.errors import InputRefused
from pvtool_core.objectives.objective import generator_of
from pvtool_core.sampling import AdaptedSteps, denoise, output_weights, rollout_in_memory
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.schema import LoraConfig
from pvtool_core.store.events import ignore
from pvtool_core.trajectories import TrajectoryCache
from tests.support.families import HUNYUAN_VIDEO, pipeline_call
from tests.support.small_hunyuan_video import transformer
from tests.support.small_models import shake, with_settings
from tests.support.training import prepared_trainer

PROMPT = "a <V> woman waving"
LONG = 33  # frames in nine latents: three tiles in time


@pytest.fixture
def small(models: Path) -> TrainJob:
    return HUNYUAN_VIDEO.job(models)


@pytest.fixture
def backbone(small: TrainJob) -> HunyuanVideo:
    return HunyuanVideo(small.model, small.sampler, [PROMPT])


@pytest.fixture
def adapter(backbone: HunyuanVideo) -> IdentityAdapter:
    """Return an adapter with nonzero up projections, like a trained one."""
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2, seed=3)
    shake(adapter)
    return adapter


def clip_of(backbone: HunyuanVideo) -> Tensor:
    """Return the result of all steps for the pipeline's clip of seed 7."""
    return denoise(
        backbone,
        backbone.initial_latents(7),
        backbone.prompt_embeds(PROMPT),
        range(backbone.num_steps),
    )


# Sampler


def test_shift_of_the_settings_replaces_that_of_the_folder(
    small: TrainJob, backbone: HunyuanVideo
) -> None:
    job = with_settings(small, "sampler", shift=3.0)
    shifted, pipeline = (
        HunyuanVideo(job.model, job.sampler, [PROMPT]),
        HUNYUAN_VIDEO.fresh_pipeline(small),
    )
    assert not torch.equal(clip_of(shifted), clip_of(backbone))
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, shift=3.0)
    assert torch.equal(clip_of(shifted), pipeline_call(pipeline, job, PROMPT))
    assert (backbone.facts()["sampler"]["shift"], shifted.facts()["sampler"]["shift"]) == (7.0, 3.0)


def test_multistep_sampler_is_refused(small: TrainJob, tmp_path: Path) -> None:
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    pipeline = HUNYUAN_VIDEO.fresh_pipeline(small)
    pipeline.scheduler = UniPCMultistepScheduler()
    pipeline.save_pretrained(tmp_path / "unipc")
    job = with_settings(small, "model", base_model=str(tmp_path / "unipc"))
    with pytest.raises(InputRefused, match="UniPC"):
        HunyuanVideo(job.model, job.sampler, [])


# Trimmed prompts


def test_a_trimmed_prompt_gives_the_same_latents_up_to_rounding(
    small: TrainJob, backbone: HunyuanVideo
) -> None:
    job = with_settings(small, "model", trim_prompt=True)
    trimmed = HunyuanVideo(job.model, job.sampler, [PROMPT])
    padded, short = (
        each.prompt_embeds(PROMPT)["prompt_embeds"].shape[1] for each in (backbone, trimmed)
    )
    assert (padded, short) == (
        256,
        int(backbone.prompt_embeds(PROMPT)["prompt_attention_mask"].sum()),
    )
    assert torch.allclose(clip_of(trimmed), clip_of(backbone), atol=2e-6)
    assert trimmed.facts() != backbone.facts()


def test_trimmed_prompt_needs_no_attention_mask(
    small: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[Any] = []

    def watched(*given: Any, attn_mask: Any = None, **more: Any) -> Tensor:
        masks.append(attn_mask)
        return dispatch_attention_fn(*given, attn_mask=attn_mask, **more)

    monkeypatch.setattr(
        "diffusers.models.transformers.transformer_hunyuan_video.dispatch_attention_fn", watched
    )
    for trim in (False, True):
        job = with_settings(small, "model", trim_prompt=trim)
        backbone = HunyuanVideo(job.model, job.sampler, [PROMPT])
        masks.clear()
        denoise(backbone, backbone.initial_latents(7), backbone.prompt_embeds(PROMPT), range(1))
        assert [mask is None for mask in masks] == [trim] * 4


# Style LoRA


def test_style_lora_is_merged_before_quantisation(
    small: TrainJob, backbone: HunyuanVideo, tmp_path: Path
) -> None:
    layer = "single_transformer_blocks.0.attn.to_q"
    down, up = torch.randn(2, 32), torch.randn(32, 2)
    save_file(
        {f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up},
        tmp_path / "style.safetensors",
    )
    styles = (LoraConfig(file=str(tmp_path / "style.safetensors"), weight=0.5),)
    for storage, within in (("dtype", 1e-6), ("float8", 0.05)):
        job = with_settings(small, "model", loras=styles, storage=storage)
        styled: Any = HunyuanVideo(job.model, job.sampler, []).denoiser.get_submodule(layer)
        weight = styled.weight.float() * getattr(styled, "float8_scale", 1.0)
        expected = backbone.denoiser.get_submodule(layer).weight + 0.5 * up @ down
        assert torch.dist(weight, expected) < within * expected.norm()


# Layers of the adapter


def test_adapter_of_the_full_model_has_180_layers() -> None:
    with torch.device("meta"):
        adapter = IdentityAdapter(
            HunyuanVideoTransformer3DModel(), HunyuanVideo.lora_target, rank=16
        )
    assert len(adapter.layers) == 180
    assert sum(weight.numel() for weight in adapter.parameters()) == 180 * 2 * 16 * 3072
    assert (
        sum("transformer_blocks" in name and "single" not in name for name in adapter.layers) == 60
    )


# The gradient


def exact_backbone(job: TrainJob, recompute: bool = False) -> HunyuanVideo:
    """Return the model in float64, in which two ways of one computation agree to many digits."""
    backbone = HunyuanVideo(job.model, job.sampler, [PROMPT], recompute)
    backbone.denoiser.double()
    backbone.pipeline.vae.double()
    return backbone


def exact_route(exact: HunyuanVideo) -> tuple[AdaptedSteps, Tensor]:
    adapter = IdentityAdapter(exact.denoiser, exact.lora_target, rank=2)
    for weight in adapter.parameters():
        weight.data = weight.data.double()
    shake(adapter)
    embeds = {name: tensor.double() for name, tensor in exact.prompt_embeds(PROMPT).items()}
    switch = denoise(exact, exact.initial_latents(7).double(), embeds, range(6))
    return AdaptedSteps(exact, adapter, embeds, range(6, 8)), switch


def gradients(adapter: Adapter) -> list[Tensor]:
    found = [weight.grad for weight in adapter.parameters() if weight.grad is not None]
    assert len(found) == len(adapter.parameters())
    for weight in adapter.parameters():
        weight.grad = None
    return found


def test_output_weights_are_the_flow_matching_steps(backbone: HunyuanVideo) -> None:
    linear = [1 - i / 8 for i in range(9)]
    sigmas = [7 * sigma / (1 + 6 * sigma) for sigma in linear]
    expected = {step: sigmas[step + 1] - sigmas[step] for step in (6, 7)}
    assert output_weights(backbone, range(6, 8)) == pytest.approx(expected, rel=1e-6)


def test_recomputation_per_tile_gives_the_same_gradient(
    small: TrainJob,
) -> None:
    found: list[list[Tensor]] = []
    kept: list[int] = []
    for recompute in (False, True):
        backbone = exact_backbone(decoding(small, 21), recompute)
        route, switch = exact_route(backbone)
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            tail = rollout_in_memory(route, switch)
            latents = tail.latents.requires_grad_()
            frames = backbone.decode(latents, [14, 17])
        kept.append(sum(sizes.values()))
        (gradient,) = torch.autograd.grad(frames.square().mean(), latents)
        tail.backward(gradient)
        found.append([gradient, *gradients(route.adapter)])
    assert all(torch.dist(a, b) <= 1e-12 * b.norm() for a, b in zip(*found, strict=True))
    assert kept[1] < kept[0] / 4


def test_base_distance_is_weighted_by_latent_position(small: TrainJob, tmp_path: Path) -> None:
    job = with_settings(small, "training", base_kl_weight=0.5, base_kl_face=0.0, cached_pairs=1)
    objective: Any
    trainer, objective = prepared_trainer(job, tmp_path)
    pair = objective.pairs[0]
    switch = trainer.model.cache.switch(pair.prompt, pair.seed)
    shares = objective._base_kl(pair.faces, switch, [6, 7], generator_of(0, 1)).shares
    assert shares.shape == (1, 1, 3, 4, 4)
    assert shares.min() < 0.1 < 0.9 < shares.max()
    shake(trainer.adapter)
    assert objective.backpropagate_pair(pair, generator_of(0, 1))["base_kl"] > 0


# Decoding with the causal autoencoder


@pytest.fixture
def long(small: TrainJob) -> HunyuanVideo:
    return HunyuanVideo(decoding(small).model, small.sampler, [])


def decoding(job: TrainJob, num_frames: int = LONG, **changes: Any) -> TrainJob:
    """Return the job with many small frames."""
    return with_settings(
        job, "model", **{"num_frames": num_frames, "width": 16, "height": 16, **changes}
    )


def whole_clip(backbone: HunyuanVideo, latents: Tensor) -> Tensor:
    """Decode all frames at once with diffusers."""
    vae = backbone.pipeline.vae
    vae.use_framewise_decoding = True
    whole = vae.decode(latents / vae.config.scaling_factor).sample[0].transpose(0, 1)
    vae.use_framewise_decoding = False
    return (whole.float() / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 5, 13, 17, 21, 25, 29, LONG])
def test_each_frame_decoded_alone_equals_that_of_the_whole_clip(
    small: TrainJob, frames: int
) -> None:
    backbone = HunyuanVideo(decoding(small, frames).model, small.sampler, [])
    latents = backbone.initial_latents(7)
    whole = whole_clip(backbone, latents)
    assert len(whole) == frames
    assert all(torch.equal(backbone.decode(latents, [i])[0], whole[i]) for i in range(frames))
    assert torch.equal(backbone.decode(latents, range(frames)), whole)
    some = [frames - 1, 0, frames // 2]
    assert torch.equal(backbone.decode(latents, some), whole[some])


@torch.no_grad()
def test_each_frame_decoded_alone_is_equal_with_spatial_tiles(small: TrainJob) -> None:
    backbone = HunyuanVideo(decoding(small, height=32, vae_tiling=True).model, small.sampler, [])
    latents, vae = backbone.initial_latents(7), backbone.pipeline.vae
    in_one = backbone.decode(latents, [20])
    vae.tile_sample_min_height, vae.tile_sample_stride_height = 16, 8
    whole = whole_clip(backbone, latents)
    assert all(
        torch.equal(backbone.decode(latents, [i])[0], whole[i]) for i in (0, 12, 13, 16, 17, 28, 32)
    )
    assert not torch.equal(backbone.decode(latents, [20]), in_one)


def test_decoding_a_frame_needs_one_tile_or_two_blended_ones(long: HunyuanVideo) -> None:
    sizes: list[int] = []

    def measure(_: Any, given: Any) -> None:
        sizes.append(given[0].shape[2])

    long.pipeline.vae.decoder.register_forward_pre_hook(measure)
    latents = long.initial_latents(7)
    for frame in range(LONG):
        long.decode(latents, [frame])
    from_one = [frame for frame in range(LONG) if frame <= 12 or (frame - 1) % 12 >= 4]
    assert len(sizes) == 2 * LONG - len(from_one)
    assert max(sizes) == 5


def test_frames_of_one_window_need_no_more_tiles(long: HunyuanVideo) -> None:
    assert list(long.decoded_with(3)) == list(range(13))
    assert list(long.decoded_with(20)) == list(range(17, 25))
    assert list(long.decoded_with(14)) == list(range(25))
    calls: list[Any] = []

    def count(*given: Any) -> None:
        calls.append(given)

    long.pipeline.vae.decoder.register_forward_pre_hook(count)
    for frame in range(LONG):
        calls.clear()
        long.decode(long.initial_latents(7), [frame])
        alone = len(calls)
        long.decode(long.initial_latents(7), list(long.decoded_with(frame)))
        assert len(calls) == 2 * alone


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("frames", [[3, 5], [14], [20, 14, 2]])
def test_gradient_of_some_frames_equals_that_of_the_whole_clip(
    small: TrainJob, frames: list[int], recompute: bool
) -> None:
    backbone = exact_backbone(decoding(small), recompute)
    latents = backbone.initial_latents(7).double().requires_grad_()
    ours = torch.autograd.grad(backbone.decode(latents, frames).sin().sum(), latents)[0]
    theirs = torch.autograd.grad(whole_clip(backbone, latents)[frames].sin().sum(), latents)[0]
    assert ours.abs().max() > 0
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


# Exported files


def terms_of(backbone: HunyuanVideo) -> AdapterMetadata:
    facts = backbone.facts()
    return AdapterMetadata(
        0.75, backbone.num_steps, 6.0, sampler=facts["sampler"], base_model=facts["base"]
    )


@pytest.fixture
def exported(backbone: HunyuanVideo, adapter: IdentityAdapter, tmp_path: Path) -> Path:
    adapter.save(tmp_path / "adapter.safetensors", backbone.lora_layout, terms_of(backbone))
    return tmp_path / "adapter.safetensors"


def test_file_has_the_fused_matrices_of_comfyui(exported: Path, adapter: IdentityAdapter) -> None:
    with safe_open(exported, "pt") as file:
        shapes = {key: tuple(file.get_tensor(key).shape) for key in file.keys()}  # noqa: SIM118 - not a mapping
    double = {f"transformer.double_blocks.{n}.img_attn_qkv": (3 * 32,) for n in range(2)}
    single = {f"transformer.single_blocks.{n}.linear1": (3 * 32 + 128,) for n in range(2)}
    downs = {f"{name}.lora_A.weight": (6, 32) for name in [*double, *single]}
    ups = {f"{name}.lora_B.weight": (*rows, 6) for name, rows in [*double.items(), *single.items()]}
    assert shapes == {**downs, **ups}


def test_fused_matrix_equals_its_parts_and_is_zero_for_the_mlp(
    backbone: HunyuanVideo, adapter: IdentityAdapter
) -> None:
    pairs, input = adapter.pairs(), torch.randn(32)
    packed = backbone.lora_layout.pack(pairs)
    for block, fused, more in (
        ("transformer_blocks.1", "transformer.double_blocks.1.img_attn_qkv", 0),
        ("single_transformer_blocks.0", "transformer.single_blocks.0.linear1", 128),
    ):
        whole = packed[f"{fused}.lora_B.weight"] @ (packed[f"{fused}.lora_A.weight"] @ input)
        parts = [
            pair.up @ (pair.down @ input)
            for pair in (pairs[f"{block}.attn.to_{each}"] for each in "qkv")
        ]
        assert torch.allclose(whole, torch.cat([*parts, torch.zeros(more)]), atol=1e-6)


def test_diffusers_loads_the_same_adapter_at_full_width() -> None:
    names = [
        f"{kind}.0.attn.to_{each}"
        for kind in ("transformer_blocks", "single_transformer_blocks")
        for each in "qkv"
    ]
    pairs = {name: LoraPair(torch.randn(2, 3072), torch.randn(3072, 2)) for name in names}
    theirs: Any = HunyuanVideoPipeline.lora_state_dict(FusedLayout(4 * 3072).pack(pairs))
    input = torch.randn(3072)
    for name, pair in pairs.items():
        down, up = (theirs[f"transformer.{name}.lora_{each}.weight"] for each in "AB")
        assert torch.allclose(up @ (down @ input), pair.up @ (pair.down @ input), atol=1e-3)
    mlp = "transformer.single_transformer_blocks.0.proj_mlp"
    assert not theirs[f"{mlp}.lora_B.weight"].any()
    assert len(theirs) == 2 * (len(names) + 1)


@pytest.mark.slow
def test_pipeline_of_full_width_loads_the_file_and_predicts_the_same(
    tmp_path: Path, exported: Path, backbone: HunyuanVideo
) -> None:
    """The model has one block of each kind and a narrow MLP; diffusers assumes a width of 3072."""
    with torch.device("meta"):
        wide: Any = transformer(
            num_attention_heads=24, attention_head_dim=128,
            num_layers=1, num_single_layers=1, num_refiner_layers=0,
            mlp_ratio=0.01, rope_axes_dim=(16, 56, 56),
        )  # fmt: skip
    wide = wide.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in wide.parameters():
        weight.data.normal_(std=0.02, generator=generator)
    adapter = IdentityAdapter(wide, HunyuanVideo.lora_target, rank=2)
    shake(adapter)
    file = tmp_path / "wide.safetensors"
    adapter.save(
        file,
        FusedLayout(wide.single_transformer_blocks[0].proj_mlp.out_features),
        terms_of(backbone),
    )
    given = wide_input()
    with torch.no_grad(), adapter.acting():
        ours = wide(**given)[0]
    adapter.remove()
    with torch.no_grad():
        base = wide(**given)[0]
    none: dict[str, Any] = dict.fromkeys(
        ["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "vae", "scheduler"]
    )
    pipeline: Any = HunyuanVideoPipeline(transformer=wide, **none)
    pipeline.load_lora_weights(file, adapter_name="identity")
    with torch.no_grad():
        theirs = pipeline.transformer(**given)[0]
    assert torch.allclose(ours, theirs, atol=1e-4 * float(ours.abs().max()))
    assert torch.dist(base, ours) > 0.01 * base.norm()


def wide_input() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(1, 4, 1, 4, 4),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 5, 16),
        "encoder_attention_mask": torch.ones(1, 5),
        "pooled_projections": torch.randn(1, 16),
        "guidance": torch.tensor([6000.0]),
        "return_dict": False,
    }


def test_an_adapter_of_another_model_is_refused(exported: Path, small: TrainJob) -> None:
    wider: Any = transformer(num_attention_heads=3)
    with pytest.raises(InputRefused, match="does not fit"):
        load_adapter(exported, wider, HunyuanVideo.lora_target, FusedLayout(192))


@pytest.mark.parametrize(
    "change", [{"trim_prompt": True}, {"storage": "float8"}, {"dtype": "bfloat16"}]
)
def test_trajectory_key_depends_on_all_settings_that_change_it(
    change: dict[str, Any], small: TrainJob, backbone: HunyuanVideo
) -> None:
    job = with_settings(small, "model", **change)
    caches = [
        TrajectoryCache(None, each, 6, ignore)
        for each in (backbone, HunyuanVideo(job.model, job.sampler, []))
    ]
    assert caches[0].key(PROMPT, 7) != caches[1].key(PROMPT, 7)
