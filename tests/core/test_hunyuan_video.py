"""HunyuanVideo on a small random pipeline of diffusers' own classes: the laws of the method, and what is its own."""

import gc
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import HunyuanVideoPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pvtool_core.adapter import IdentityAdapter, LoraPair, Terms, load_adapter
from pvtool_core.backbones import Backbone, load_backbone
from pvtool_core.backbones.hunyuan_video import FusedLayout, HunyuanVideo
from pvtool_core.config import LoraConfig, TrainJob
from pvtool_core.errors import InputRefused
from pvtool_core.runs import ADAPTER_FILE, EventWriter, Heartbeat, RunFolder, State
from pvtool_core.sampling import BaseKl, Route, denoise, output_weights, tail_in_memory, tail_replayed, tail_stopped
from pvtool_core.trainer import Pair, Trainer, bank_pairs, generator_of, train
from pvtool_core.trajectories import TrajectoryCache
from pvtool_core.weights import resolve_settings
from tests.conftest import with_settings
from tests.small_hunyuan_video import hunyuan_job, save_hunyuan_video, transformer

PROMPT = "a <V> woman waving"
LONG = 33  # frames in nine latents: three tiles in time


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "hunyuan-video"
    save_hunyuan_video(folder)
    return folder


@pytest.fixture(scope="module")
def small(job: TrainJob, folder: Path) -> TrainJob:
    return hunyuan_job(job, folder)


@pytest.fixture
def backbone(small: TrainJob) -> HunyuanVideo:
    return HunyuanVideo(small.model, small.sampler, [PROMPT])


@pytest.fixture
def adapter(backbone: HunyuanVideo) -> IdentityAdapter:
    """One that has been trained: its up projections are not zero."""
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2, seed=3)
    shake(adapter)
    return adapter


def shake(adapter: IdentityAdapter) -> None:
    generator = torch.Generator().manual_seed(1)
    for weight in adapter.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator)


def fresh_pipeline(job: TrainJob) -> Any:
    pipeline: Any = HunyuanVideoPipeline.from_pretrained(job.model.base_model, dtype=getattr(torch, job.model.dtype))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.requires_grad_(False)
    return pipeline


def pipeline_call(pipeline: Any, job: TrainJob, **more: Any) -> Tensor:
    model, sampler = job.model, job.sampler
    sizes = {"num_frames": model.num_frames, "height": model.height, "width": model.width}
    steps = {"num_inference_steps": sampler.num_inference_steps, "guidance_scale": sampler.guidance_scale}
    generator = torch.Generator().manual_seed(7)
    return pipeline(PROMPT, **sizes, **steps, generator=generator, **{"output_type": "latent", **more}).frames


def clip_of(backbone: HunyuanVideo) -> Tensor:
    """All steps of the clip that the pipeline makes of seed 7."""
    return denoise(backbone, backbone.initial_latents(7), backbone.prompt_embeds(PROMPT), range(backbone.num_steps))


# It is diffusers' own pipeline


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("guidance", [1.0, 6.0])
def test_with_the_adapter_off_latents_and_frames_are_diffusers_own_to_the_bit(
    small: TrainJob, dtype: str, guidance: float
) -> None:
    job = with_settings(with_settings(small, "model", dtype=dtype), "sampler", guidance_scale=guidance)
    backbone = HunyuanVideo(job.model, job.sampler, [PROMPT])
    shake(IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2))
    latents, pipeline = clip_of(backbone), fresh_pipeline(job)
    assert torch.equal(latents, pipeline_call(pipeline, job))
    theirs = pipeline_call(pipeline, job, output_type="pt")[0]
    assert torch.equal(backbone.decode(latents, range(9)).to(theirs.dtype), theirs)


def test_the_shift_of_the_settings_takes_the_place_of_the_folder_s(small: TrainJob, backbone: HunyuanVideo) -> None:
    job = with_settings(small, "sampler", shift=3.0)
    shifted, pipeline = HunyuanVideo(job.model, job.sampler, [PROMPT]), fresh_pipeline(small)
    assert not torch.equal(clip_of(shifted), clip_of(backbone))
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, shift=3.0)
    assert torch.equal(clip_of(shifted), pipeline_call(pipeline, job))
    assert (backbone.facts()["sampler"]["shift"], shifted.facts()["sampler"]["shift"]) == (7.0, 3.0)


def test_a_step_is_the_scheduler_s_own_and_can_be_taken_anywhere(backbone: HunyuanVideo) -> None:
    scheduler: Any = backbone.scheduler
    for dtype in (torch.float32, torch.bfloat16):
        latents, output = (torch.randn(1, 4, 3, 4, 4) for _ in range(2))
        for step in (5, 0, 7, 5):
            scheduler._step_index, scheduler._begin_index = None, step
            theirs = scheduler.step(output.to(dtype), scheduler.timesteps[step], latents).prev_sample
            assert torch.equal(backbone.advance(latents, step, output.to(dtype)), theirs)
            assert theirs.dtype == dtype


def test_it_is_a_backbone_that_is_found_by_its_family(small: TrainJob, tmp_path: Path) -> None:
    settings = resolve_settings(small)
    loaded = load_backbone(settings.model, settings.sampler, [])
    assert isinstance(loaded, HunyuanVideo)
    assert isinstance(loaded, Backbone)
    assert loaded.facts()["base"] == settings.model.fingerprint


def test_the_text_encoders_are_gone_before_the_denoiser_comes(small: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[weakref.ref[Any]] = []
    alive: list[bool] = []
    load = HunyuanVideoPipeline.from_pretrained

    def watched(*given: Any, **more: Any) -> Any:
        alive.extend(each() is not None for each in loaded)
        pipeline: Any = load(*given, **more)
        assert (pipeline.transformer is None) != (pipeline.text_encoder is None)
        if pipeline.text_encoder is not None:
            loaded.extend(weakref.ref(each) for each in (pipeline.text_encoder, pipeline.text_encoder_2))
        return pipeline

    monkeypatch.setattr(HunyuanVideoPipeline, "from_pretrained", watched)
    gc.disable()  # at once, not when the collector comes round
    try:
        HunyuanVideo(small.model, small.sampler, [PROMPT])
    finally:
        gc.enable()
    assert alive == [False, False]


def test_a_sampler_with_a_memory_is_refused(small: TrainJob, folder: Path, tmp_path: Path) -> None:
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    pipeline = fresh_pipeline(small)
    pipeline.scheduler = UniPCMultistepScheduler()
    pipeline.save_pretrained(tmp_path / "unipc")
    job = with_settings(small, "model", base_model=str(tmp_path / "unipc"))
    with pytest.raises(InputRefused, match="UniPC"):
        HunyuanVideo(job.model, job.sampler, [])


# A prompt without its padding


def test_a_trimmed_prompt_gives_the_same_latents_up_to_rounding(small: TrainJob, backbone: HunyuanVideo) -> None:
    job = with_settings(small, "model", trim_prompt=True)
    trimmed = HunyuanVideo(job.model, job.sampler, [PROMPT])
    padded, short = (each.prompt_embeds(PROMPT)["prompt_embeds"].shape[1] for each in (backbone, trimmed))
    assert (padded, short) == (256, int(backbone.prompt_embeds(PROMPT)["prompt_attention_mask"].sum()))
    assert torch.allclose(clip_of(trimmed), clip_of(backbone), atol=2e-6)
    assert trimmed.facts() != backbone.facts()


def test_with_a_trimmed_prompt_the_streams_attend_without_a_mask(
    small: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[Any] = []

    def watched(*given: Any, attn_mask: Any = None, **more: Any) -> Tensor:
        masks.append(attn_mask)
        return dispatch_attention_fn(*given, attn_mask=attn_mask, **more)

    monkeypatch.setattr("diffusers.models.transformers.transformer_hunyuan_video.dispatch_attention_fn", watched)
    for trim in (False, True):
        job = with_settings(small, "model", trim_prompt=trim)
        backbone = HunyuanVideo(job.model, job.sampler, [PROMPT])
        masks.clear()
        denoise(backbone, backbone.initial_latents(7), backbone.prompt_embeds(PROMPT), range(1))
        assert [mask is None for mask in masks] == [trim] * 4


# A style LoRA


def test_a_style_lora_is_part_of_the_weights_before_they_are_stored_in_fewer_bits(
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


# Where the adapter sits, and when


def test_the_adapter_sits_on_q_k_v_of_both_kinds_of_blocks_and_nowhere_else(
    backbone: HunyuanVideo, adapter: IdentityAdapter
) -> None:
    blocks = [f"{kind}.{n}" for kind in ("transformer_blocks", "single_transformer_blocks") for n in range(2)]
    assert set(adapter.layers) == {f"{block}.attn.to_{projection}" for block in blocks for projection in "qkv"}
    trained = [name for name, weight in backbone.denoiser.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * 12
    assert all("lora_" in name for name in trained)


def test_on_the_paper_s_model_the_adapter_has_180_layers() -> None:
    with torch.device("meta"):
        adapter = IdentityAdapter(HunyuanVideoTransformer3DModel(), HunyuanVideo.lora_target, rank=16)
    assert len(adapter.layers) == 180
    assert sum(weight.numel() for weight in adapter.parameters()) == 180 * 2 * 16 * 3072
    assert sum("transformer_blocks" in name and "single" not in name for name in adapter.layers) == 60


def test_a_new_adapter_changes_nothing_and_a_trained_one_only_while_it_acts(backbone: HunyuanVideo) -> None:
    base, embeds = clip_of(backbone), backbone.prompt_embeds(PROMPT)
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2)
    assert torch.equal(denoise(backbone, backbone.initial_latents(7), embeds, range(8), adapter), base)
    shake(adapter)
    assert torch.equal(clip_of(backbone), base)
    assert not torch.allclose(denoise(backbone, backbone.initial_latents(7), embeds, range(8), adapter), base, atol=0.1)


# The gradient


@pytest.fixture
def exact(small: TrainJob) -> HunyuanVideo:
    return exact_backbone(small)


def exact_backbone(job: TrainJob, recompute: bool = False) -> HunyuanVideo:
    """The model in float64, where two ways of one computation agree to many digits."""
    backbone = HunyuanVideo(job.model, job.sampler, [PROMPT], recompute)
    backbone.denoiser.double()
    backbone.pipeline.vae.double()
    return backbone


def exact_route(exact: HunyuanVideo, base_kl: BaseKl | None = None) -> tuple[Route, Tensor]:
    adapter = IdentityAdapter(exact.denoiser, exact.lora_target, rank=2)
    for weight in adapter.parameters():
        weight.data = weight.data.double()
    shake(adapter)
    embeds = {name: tensor.double() for name, tensor in exact.prompt_embeds(PROMPT).items()}
    switch = denoise(exact, exact.initial_latents(7).double(), embeds, range(6))
    return Route(exact, adapter, embeds, range(6, 8), base_kl), switch


def loss_of(backbone: Any, latents: Tensor) -> Tensor:
    """A loss on decoded frames."""
    frames = backbone.pipeline.vae.decode(latents).sample
    return (frames.sin() * torch.linspace(0, 1, frames.numel(), dtype=frames.dtype).view_as(frames)).sum()


def gradient_by(tail_of: Any, route: Route, switch: Tensor) -> list[Tensor]:
    tail = tail_of(route, switch)
    latents = tail.latents.requires_grad_()
    tail.backward(torch.autograd.grad(loss_of(route.backbone, latents), latents)[0])
    return gradients(route.adapter)


def gradients(adapter: IdentityAdapter) -> list[Tensor]:
    found = [weight.grad for weight in adapter.parameters() if weight.grad is not None]
    assert len(found) == len(adapter.parameters())
    for weight in adapter.parameters():
        weight.grad = None
    return found


def close(ours: list[Tensor], theirs: list[Tensor], within: float = 1e-6) -> bool:
    """Within a share of the gradient's length: in float64 too, the rotary embedding counts in float32."""
    return all(torch.dist(a, b) <= within * b.norm() for a, b in zip(ours, theirs, strict=True))


def test_both_exact_gradients_equal_back_propagation_through_the_whole_chain(exact: HunyuanVideo) -> None:
    route, switch = exact_route(exact)
    latents = exact.initial_latents(7).double().requires_grad_()
    for step in range(8):
        with route.adapter.acting(step >= 6):
            latents = exact.advance(latents, step, exact.predict(latents, step, route.embeds))
    loss_of(exact, latents).backward()
    whole = gradients(route.adapter)
    assert max(gradient.abs().max() for gradient in whole) > 1e-6
    assert close(gradient_by(tail_in_memory, route, switch), whole)
    assert close(gradient_by(tail_replayed, route, switch), whole)


def test_the_stopped_gradient_is_that_of_autograd_and_of_drawn_steps_on_average(exact: HunyuanVideo) -> None:
    route, switch = exact_route(exact)
    every = gradient_by(tail_stopped, route, switch)
    latents = switch
    with route.adapter.acting():
        for step in route.steps:
            latents = exact.advance(latents, step, exact.predict(latents.detach(), step, route.embeds))
        loss_of(exact, latents).backward()
    assert close(every, gradients(route.adapter))
    singles = [gradient_by(partial(tail_stopped, drawn=[step]), route, switch) for step in route.steps]
    assert close([(a + b) / 2 for a, b in zip(*singles, strict=True)], every)
    assert not close(singles[0], every)


def test_the_weights_of_the_outputs_are_the_steps_of_flow_matching(backbone: HunyuanVideo) -> None:
    linear = [1 - i / 8 for i in range(9)]
    sigmas = [7 * sigma / (1 + 6 * sigma) for sigma in linear]
    expected = {step: sigmas[step + 1] - sigmas[step] for step in (6, 7)}
    assert output_weights(backbone, range(6, 8)) == pytest.approx(expected, rel=1e-6)


def test_recomputed_activations_give_the_same_gradient_and_are_fewer(small: TrainJob) -> None:
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
            tail = tail_in_memory(route, switch)
            latents = tail.latents.requires_grad_()
            frames = backbone.decode(latents, [14, 17])
        kept.append(sum(sizes.values()))
        (gradient,) = torch.autograd.grad(frames.square().mean(), latents)
        tail.backward(gradient)
        found.append([gradient, *gradients(route.adapter)])
    assert close(found[1], found[0], within=1e-12)
    assert kept[1] < kept[0] / 4


def test_straying_from_the_base_counts_by_place_also_where_latents_are_fewer_than_frames(
    small: TrainJob, tmp_path: Path
) -> None:
    job = with_settings(small, "training", base_kl_weight=0.5, base_kl_face=0.0, cached_pairs=1)
    trainer: Any
    trainer, pairs = new_trainer(job, tmp_path)
    switch = trainer.cache.switch(pairs[0].prompt, pairs[0].seed)
    shares = trainer._base_kl(pairs[0].faces, switch, [6, 7], generator_of(0, 1)).shares
    assert shares.shape == (1, 1, 3, 4, 4)
    assert shares.min() < 0.1 < 0.9 < shares.max()
    shake(trainer.adapter)
    assert trainer.backpropagate(pairs[0], generator_of(0, 1))["base_kl"] > 0


# Frames through the causal autoencoder


@pytest.fixture
def long(small: TrainJob) -> HunyuanVideo:
    return HunyuanVideo(decoding(small).model, small.sampler, [])


def decoding(job: TrainJob, num_frames: int = LONG, **changes: Any) -> TrainJob:
    """The job with many small frames."""
    return with_settings(job, "model", **{"num_frames": num_frames, "width": 16, "height": 16, **changes})


def whole_clip(backbone: HunyuanVideo, latents: Tensor) -> Tensor:
    """As diffusers decodes it, all at once."""
    vae = backbone.pipeline.vae
    vae.use_framewise_decoding = True
    whole = vae.decode(latents / vae.config.scaling_factor).sample[0].transpose(0, 1)
    vae.use_framewise_decoding = False
    return (whole.float() / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 5, 13, 17, 21, 25, 29, LONG])
def test_each_frame_alone_is_to_the_bit_that_of_the_whole_clip(small: TrainJob, frames: int) -> None:
    backbone = HunyuanVideo(decoding(small, frames).model, small.sampler, [])
    latents = backbone.initial_latents(7)
    whole = whole_clip(backbone, latents)
    assert len(whole) == frames
    assert all(torch.equal(backbone.decode(latents, [i])[0], whole[i]) for i in range(frames))
    assert torch.equal(backbone.decode(latents, range(frames)), whole)
    some = [frames - 1, 0, frames // 2]
    assert torch.equal(backbone.decode(latents, some), whole[some])


@torch.no_grad()
def test_so_it_is_with_tiles_in_space(small: TrainJob) -> None:
    backbone = HunyuanVideo(decoding(small, height=32, vae_tiling=True).model, small.sampler, [])
    latents, vae = backbone.initial_latents(7), backbone.pipeline.vae
    in_one = backbone.decode(latents, [20])
    vae.tile_sample_min_height, vae.tile_sample_stride_height = 16, 8
    whole = whole_clip(backbone, latents)
    assert all(torch.equal(backbone.decode(latents, [i])[0], whole[i]) for i in (0, 12, 13, 16, 17, 28, 32))
    assert not torch.equal(backbone.decode(latents, [20]), in_one)


def test_a_frame_costs_one_tile_or_two_where_they_are_blended(long: HunyuanVideo) -> None:
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


def test_the_frames_named_as_decoded_together_need_no_more_tiles(long: HunyuanVideo) -> None:
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
def test_the_gradient_of_some_frames_is_that_of_the_whole_clip(
    small: TrainJob, frames: list[int], recompute: bool
) -> None:
    backbone = exact_backbone(decoding(small), recompute)
    latents = backbone.initial_latents(7).double().requires_grad_()
    ours = torch.autograd.grad(backbone.decode(latents, frames).sin().sum(), latents)[0]
    theirs = torch.autograd.grad(whole_clip(backbone, latents)[frames].sin().sum(), latents)[0]
    assert ours.abs().max() > 0
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


# The adapter travels


def terms_of(backbone: HunyuanVideo) -> Terms:
    facts = backbone.facts()
    return Terms(0.75, backbone.num_steps, 6.0, sampler=facts["sampler"], base_model=facts["base"])


@pytest.fixture
def exported(backbone: HunyuanVideo, adapter: IdentityAdapter, tmp_path: Path) -> Path:
    adapter.save(tmp_path / "adapter.safetensors", backbone.lora_layout, terms_of(backbone))
    return tmp_path / "adapter.safetensors"


def test_the_file_has_the_fused_matrices_that_comfyui_reads(exported: Path, adapter: IdentityAdapter) -> None:
    with safe_open(exported, "pt") as file:
        shapes = {key: tuple(file.get_tensor(key).shape) for key in file.keys()}  # noqa: SIM118 - no mapping
    double = {f"transformer.double_blocks.{n}.img_attn_qkv": (3 * 32,) for n in range(2)}
    single = {f"transformer.single_blocks.{n}.linear1": (3 * 32 + 128,) for n in range(2)}
    downs = {f"{name}.lora_A.weight": (6, 32) for name in [*double, *single]}
    ups = {f"{name}.lora_B.weight": (*rows, 6) for name, rows in [*double.items(), *single.items()]}
    assert shapes == {**downs, **ups}


def test_a_fused_matrix_is_the_sum_of_what_it_was_fused_from_and_nothing_for_the_mlp(
    backbone: HunyuanVideo, adapter: IdentityAdapter
) -> None:
    pairs, input = adapter.pairs(), torch.randn(32)
    packed = backbone.lora_layout.pack(pairs)
    for block, fused, more in (
        ("transformer_blocks.1", "transformer.double_blocks.1.img_attn_qkv", 0),
        ("single_transformer_blocks.0", "transformer.single_blocks.0.linear1", 128),
    ):
        whole = packed[f"{fused}.lora_B.weight"] @ (packed[f"{fused}.lora_A.weight"] @ input)
        parts = [pair.up @ (pair.down @ input) for pair in (pairs[f"{block}.attn.to_{each}"] for each in "qkv")]
        assert torch.allclose(whole, torch.cat([*parts, torch.zeros(more)]), atol=1e-6)


def test_unpacking_is_the_inverse_of_packing(backbone: HunyuanVideo, adapter: IdentityAdapter) -> None:
    pairs = adapter.pairs()
    back = backbone.lora_layout.unpack(backbone.lora_layout.pack(pairs), pairs)
    assert back.keys() == pairs.keys()
    assert all(torch.equal(back[name].down, pairs[name].down) for name in pairs)
    assert all(torch.equal(back[name].up, pairs[name].up) for name in pairs)


def test_diffusers_reads_the_file_back_as_the_same_adapter_at_the_paper_s_width() -> None:
    names = [
        f"{kind}.0.attn.to_{each}" for kind in ("transformer_blocks", "single_transformer_blocks") for each in "qkv"
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
def test_a_whole_pipeline_of_the_paper_s_width_loads_the_file_and_predicts_the_same(
    tmp_path: Path, exported: Path, backbone: HunyuanVideo
) -> None:
    """One block of each kind, with a narrow MLP; diffusers takes a width of 3072 for granted."""
    with torch.device("meta"):
        wide: Any = transformer(
            num_attention_heads=24, attention_head_dim=128, num_layers=1, num_single_layers=1, num_refiner_layers=0,
            mlp_ratio=0.01, rope_axes_dim=(16, 56, 56),
        )  # fmt: skip
    wide = wide.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in wide.parameters():
        weight.data.normal_(std=0.02, generator=generator)
    adapter = IdentityAdapter(wide, HunyuanVideo.lora_target, rank=2)
    shake(adapter)
    file = tmp_path / "wide.safetensors"
    adapter.save(file, FusedLayout(wide.single_transformer_blocks[0].proj_mlp.out_features), terms_of(backbone))
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


def test_the_file_loads_into_our_own_renderer_with_the_same_result(
    exported: Path, backbone: HunyuanVideo, adapter: IdentityAdapter, small: TrainJob
) -> None:
    noise, embeds = backbone.initial_latents(7), backbone.prompt_embeds(PROMPT)
    fresh = HunyuanVideo(small.model, small.sampler, [PROMPT])
    loaded = load_adapter(exported, fresh.denoiser, fresh.lora_target, fresh.lora_layout)
    theirs = denoise(fresh, noise, embeds, range(6, 8), loaded)
    assert torch.equal(denoise(backbone, noise, embeds, range(6, 8), adapter), theirs)


def test_an_adapter_of_another_model_is_refused(exported: Path, small: TrainJob) -> None:
    wider: Any = transformer(num_attention_heads=3)
    with pytest.raises(InputRefused, match="does not fit"):
        load_adapter(exported, wider, HunyuanVideo.lora_target, FusedLayout(192))


# Training on it


def ignore(type: str, /, **values: Any) -> None:
    pass


def new_trainer(job: TrainJob, cache: Path) -> tuple[Trainer, list[Pair]]:
    trainer = Trainer(job, cache, ignore)
    prepared = [trainer.prepare(prompt, seed) for prompt, seed in bank_pairs(job)]
    return trainer, [pair for pair in prepared if pair]


def test_a_cached_trajectory_is_to_the_bit_the_computed_one(
    small: TrainJob, backbone: HunyuanVideo, tmp_path: Path
) -> None:
    cache = TrajectoryCache(tmp_path, backbone, 6, ignore)
    final = clip_of(backbone)
    for _ in range(2):
        assert torch.equal(cache.final(PROMPT, 7), final)
    for change in ({"trim_prompt": True}, {"storage": "float8"}, {"dtype": "bfloat16"}):
        job = with_settings(small, "model", **change)
        other = TrajectoryCache(tmp_path, HunyuanVideo(job.model, job.sampler, []), 6, ignore)
        assert other.key(PROMPT, 7) != cache.key(PROMPT, 7)


@pytest.mark.parametrize("gradient", ["full", "replay", "drtune"])
def test_an_iteration_reaches_every_weight_whatever_saves_memory(
    gradient: str, small: TrainJob, tmp_path: Path
) -> None:
    job = with_settings(small, "training", gradient=gradient, cached_pairs=1)
    plain, pairs = new_trainer(job, tmp_path)
    saving = with_settings(with_settings(job, "model", offload=True), "training", recompute=True)
    frugal, _ = new_trainer(saving, tmp_path)
    for trainer in (plain, frugal):
        shake(trainer.adapter)
        trainer.backpropagate(pairs[0], generator_of(0, 1))
    ours, theirs = gradients(frugal.adapter), gradients(plain.adapter)
    assert all(gradient.abs().sum() > 0 for gradient in theirs)
    assert close(ours, theirs, within=1e-4)


def test_a_resumed_run_ends_with_the_same_weights(
    small: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    whole = with_settings(small, "training", cached_pairs=1, sample_every=4)
    half = with_settings(whole, "training", iterations=2)
    run(whole, tmp_path / "whole")
    run(half, tmp_path / "resumed")
    run(whole, tmp_path / "resumed")
    ours, theirs = (
        load_file(tmp_path / name / "checkpoints/step-000004" / ADAPTER_FILE) for name in ("whole", "resumed")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
    assert len(list((tmp_path / "whole").rglob("*.mp4"))) == 2  # the original's and step 4's


def run(job: TrainJob, path: Path) -> None:
    folder = RunFolder(path)
    if not path.exists():
        folder.create()
    with EventWriter(folder.events) as events, Heartbeat(folder) as heartbeat:
        assert train(job, folder, events, heartbeat) == State.FINISHED


@pytest.mark.slow
def test_the_loss_falls_over_200_steps_on_an_easy_reward(
    small: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = with_settings(decoding(small, 5), "sampler", num_inference_steps=4)
    job = with_settings(with_settings(job, "adapter", start=0.5), "training", iterations=200, cached_pairs=1)

    def brightness(trainer: Trainer, pair: Pair, latents: Tensor, *_: Any) -> tuple[Tensor, dict[str, Any]]:
        return trainer.backbone.decode(latents, [0]).mean(), {}

    monkeypatch.setattr(Trainer, "_judge", brightness)
    trainer, pairs = new_trainer(job, tmp_path)
    losses = [trainer.iterate(step, pairs)["loss"] for step in range(1, 201)]
    quarters = [sum(losses[i : i + 50]) / 50 for i in range(0, 200, 50)]
    assert quarters == sorted(quarters, reverse=True)
    assert losses[-1] < losses[0] - 0.04
