"""Laws of the contract in pvtool_core/backbones/interface.py, for each family.

A backbone equals diffusers' pipeline run step by step, and everything that the engine does with it
(adapter, gradients, cache, training) works with it. The families are in tests/support/families.py;
tests of one family only are in separate files.
"""

import dataclasses
import gc
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pvtool_core.adapter import (
    Adapter,
    AdapterMetadata,
    IdentityAdapter,
    LoraPair,
    load_adapter,
    read_layers,
)
from pvtool_core.backbones import Backbone, load_backbone
from pvtool_core.backbones.interface import Diffused, adapter_target
from pvtool_core.models.locate import resolve_settings
from pvtool_core.objectives.objective import generator_of
from pvtool_core.objectives.personalvideo import Pair, PersonalVideo
from pvtool_core.paths import cache_dir
from pvtool_core.sampling import (
    AdaptedSteps,
    Rollout,
    denoise,
    output_weights,
    rollout_in_memory,
    rollout_replayed,
    rollout_stopped,
)
from pvtool_core.settings import families
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.schema import LoraConfig
from pvtool_core.store.event_log import EventWriter
from pvtool_core.store.events import ignore
from pvtool_core.store.liveness import Heartbeat, State
from pvtool_core.store.runs import RunFolder
from pvtool_core.trainer import Trainer, train
from pvtool_core.trajectories import TrajectoryCache
from tests.support import extended_engine
from tests.support.families import FAMILIES, Family, pipeline_call
from tests.support.small_flipbook import FLIPBOOK
from tests.support.small_models import shake, with_settings
from tests.support.training import prepared_trainer

PROMPT = "a <V> woman waving"
SWITCH, STEPS = 6, 8
LAWFUL = (*FAMILIES, FLIPBOOK)
"""All families, and the example in docs/add-a-backbone.md."""


def only_for(has: Callable[[Family], Any]) -> Any:
    """Limit a test to the families to which it applies."""
    return pytest.mark.parametrize(
        "family", [*filter(has, LAWFUL)], ids=lambda family: family.name, indirect=True
    )


@pytest.fixture(params=LAWFUL, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Family:
    if request.param is FLIPBOOK:
        monkeypatch.setitem(families.FAMILIES, FLIPBOOK.name, families.FAMILIES["animatediff"])
        extended_engine.add_family()  # removed afterwards
    return request.param


@pytest.fixture
def job(family: Family, models: Path) -> TrainJob:
    return family.job(models)


@pytest.fixture
def backbone(job: TrainJob) -> Backbone:
    return load(job)


def load(job: TrainJob, recompute: bool = False) -> Backbone:
    return load_backbone(job.model, job.sampler, [PROMPT], recompute)


def trained_adapter(backbone: Backbone) -> IdentityAdapter:
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2, seed=3)
    shake(adapter)
    return adapter


def final_latents_with_adapter(
    backbone: Backbone, adapter: IdentityAdapter | None = None, start: int = SWITCH
) -> Tensor:
    """Return the final latents of a clip, with the adapter in its steps from `start` on."""
    embeds = backbone.prompt_embeds(PROMPT)
    switch = denoise(backbone, backbone.initial_latents(7), embeds, range(start))
    return denoise(backbone, switch, embeds, range(start, STEPS), adapter)


# Equality with diffusers


def test_class_implements_the_contract(job: TrainJob) -> None:
    model = resolve_settings(job).model
    backbone = load_backbone(model, job.sampler, [])
    assert isinstance(backbone, Backbone)
    assert (backbone.num_steps, backbone.num_frames) == (STEPS, job.model.num_frames)
    assert backbone.facts()["base"] == model.fingerprint


GUIDANCE = [
    pytest.param(family, settings, id=f"{family.name}-{'-'.join(map(str, settings.values()))}")
    for family in LAWFUL
    for settings in family.guidance
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("family", "settings"), GUIDANCE, indirect=["family"])
def test_without_adapter_latents_and_frames_equal_diffusers_exactly(
    dtype: str, settings: dict[str, Any], family: Family, job: TrainJob
) -> None:
    job = with_settings(with_settings(job, "sampler", **settings), "model", dtype=dtype)
    backbone, seen = load(job), dict[int, Tensor]()
    trained_adapter(backbone)

    def keep(_: Any, step: int, __: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
        seen[step + 1] = values["latents"]
        return values

    theirs = pipeline_call(
        family.fresh_pipeline(job), job, PROMPT, output_type="pt", callback_on_step_end=keep
    )[0]
    embeds = backbone.prompt_embeds(PROMPT)
    switch = denoise(backbone, backbone.initial_latents(7), embeds, range(SWITCH))
    final = denoise(backbone, switch, embeds, range(SWITCH, STEPS))
    assert torch.equal(switch, seen[SWITCH])
    assert torch.equal(final, seen[STEPS])
    with torch.no_grad():
        assert torch.equal(
            backbone.decode(final, range(backbone.num_frames)).to(theirs.dtype), theirs
        )


@only_for(lambda family: family.encoders)
def test_text_encoders_are_released_before_the_denoiser_is_loaded(
    family: Family, job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[set[str]] = []
    encoders: list[weakref.ref[Any]] = []
    plain = family.pipeline.from_pretrained

    def watched(*given: Any, **named: Any) -> Any:
        assert all(encoder() is None for encoder in encoders)
        pipeline = plain(*given, **named)
        parts = {
            name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)
        }
        encoders.extend(
            weakref.ref(part) for name, part in parts.items() if name in family.encoders
        )
        loaded.append(set(parts))
        return pipeline

    monkeypatch.setattr(family.pipeline, "from_pretrained", watched)
    gc.disable()  # must be released at once, not by the garbage collector
    try:
        load(job)
    finally:
        gc.enable()
    assert loaded == [set(family.encoders), {"transformer", "vae"}]


@torch.no_grad()
def test_single_decoded_frames_equal_those_of_the_whole_clip(
    family: Family, backbone: Backbone
) -> None:
    latents = final_latents_with_adapter(backbone)
    whole = backbone.decode(latents, range(backbone.num_frames))
    windows = [backbone.decoded_with(frame) for frame in range(backbone.num_frames)]
    assert all(frame in window for frame, window in enumerate(windows))
    for frames in ([3, 1], *([frame] for frame in range(backbone.num_frames)), *windows):
        some = backbone.decode(latents, frames)
        assert torch.allclose(some, whole[list(frames)], rtol=0, atol=family.frame_error)


def test_gradient_of_frames_reaches_the_latents(backbone: Any) -> None:
    def loss(latents: Tensor) -> Tensor:
        return weighted(backbone.decode(latents, [3]).double())

    backbone.pipeline.vae.double()
    latents = final_latents_with_adapter(backbone).double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(latents), latents)
    little = 5e-4 * gradient / gradient.norm()
    with torch.no_grad():
        rise = loss(latents + little) - loss(latents - little)
    assert rise.item() == pytest.approx(1e-3 * gradient.norm().item(), rel=0.01)


def test_step_equals_the_sampler_and_can_start_at_any_step(backbone: Any) -> None:
    scheduler, embeds = backbone.scheduler, backbone.prompt_embeds(PROMPT)
    latents = backbone.initial_latents(7)
    for dtype in (torch.float32, torch.bfloat16):
        outputs: dict[int, Tensor] = {}
        for step in (5, 0, 7, 5):
            with torch.no_grad():
                output = backbone.predict(latents, step, embeds)
            assert torch.equal(outputs.setdefault(step, output), output)
            scheduler._step_index, scheduler._begin_index = None, step
            theirs = scheduler.step(
                output.to(dtype), scheduler.timesteps[step], latents
            ).prev_sample
            assert torch.equal(backbone.advance(latents, step, output.to(dtype)), theirs)


# Training examples


def random_clip(backbone: Backbone, count: int) -> Tensor:
    """Return frames of noise in [0, 1]."""
    shape = backbone.decode(backbone.initial_latents(7), [0]).shape[1:]
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def test_encoding_samples_the_posterior_and_decoding_reverses_its_scale(
    family: Family, backbone: Any
) -> None:
    for frames in (random_clip(backbone, backbone.num_frames), random_clip(backbone, 1)):
        latents = backbone.encode(frames, torch.Generator().manual_seed(5))
        clip = (frames * 2 - 1).transpose(0, 1)[None]
        posterior = family.encoder(backbone.pipeline.vae, clip)
        sampled = posterior.sample(torch.Generator().manual_seed(5))
        raw = sampled if sampled.ndim == 5 else sampled.transpose(0, 1)[None]
        theirs = family.decoder(backbone.pipeline.vae, raw)
        theirs = theirs[0].transpose(0, 1) if theirs.ndim == 5 else theirs
        ours = backbone.decode(latents, range(len(frames)))
        assert torch.allclose(ours, (theirs / 2 + 0.5).clamp(0, 1), atol=1e-5)
        noise = backbone.initial_latents(7)
        assert (latents.dtype, latents.shape[:2]) == (noise.dtype, noise.shape[:2])
    with backbone.as_image_model():
        assert latents.shape == backbone.initial_latents(7).shape


def test_training_example_equals_the_schedulers_of_diffusers(backbone: Any) -> None:
    latents, noise, scheduler = *map(backbone.initial_latents, (7, 8)), backbone.scheduler
    kept = scheduler.timesteps.clone()
    for level in (0.0, 0.3, 0.999):
        if "prediction_type" not in scheduler.config:
            example = backbone.diffuse(latents, noise, level)
            theirs = type(scheduler).from_config(scheduler.config, shift=scheduler.shift)
            theirs.set_timesteps(sigmas=[level])
            noised = theirs.scale_noise(latents, theirs.timesteps, noise)
            assert torch.equal(example.timestep, theirs.timesteps)
            assert torch.equal(example.latents, noised)
            assert torch.equal(example.target, noise - latents)
            continue
        timestep = torch.tensor([int(level * scheduler.config.num_train_timesteps)])
        velocity = scheduler.get_velocity(latents, noise, timestep)
        targets = {"epsilon": noise, "v_prediction": velocity, "sample": latents}
        for kind, target in targets.items():
            scheduler.register_to_config(prediction_type=kind)
            example = backbone.diffuse(latents, noise, level)
            assert torch.equal(example.timestep, timestep)
            assert torch.equal(example.latents, scheduler.add_noise(latents, noise, timestep))
            assert torch.equal(example.target, target)
    assert torch.equal(scheduler.timesteps, kept)


@torch.no_grad()
def test_prediction_of_a_training_example_is_that_of_the_positive_prompt(
    family: Family, job: TrainJob, backbone: Any
) -> None:
    """Without guidance in two passes, it is the prediction of a step at the same timestep."""
    single = backbone
    if "negative_prompt" in family.guidance[0]:
        single = load(with_settings(job, "sampler", guidance_scale=1.0))
    latents = backbone.initial_latents(7)
    for step in (0, 5):
        timestep = backbone.scheduler.timesteps[step].expand(1)
        example = Diffused(latents, timestep, latents)
        ours = backbone.predict_diffused(example, backbone.prompt_embeds(PROMPT))
        assert torch.equal(ours, single.predict(latents, step, single.prompt_embeds(PROMPT)))


def test_image_model_makes_one_frame_and_leaves_the_video_model_unchanged(
    family: Family, job: TrainJob
) -> None:
    backbone: Any = load(job, recompute=True)
    before, facts = final_latents_with_adapter(backbone), backbone.facts()
    alone: Any = load(with_settings(job, "model", num_frames=1))
    with backbone.as_image_model():
        image = final_latents_with_adapter(backbone)
        assert backbone.num_frames == len(backbone.decode(image, [0])) == 1
        assert list(backbone.decoded_with(0)) == [0]
        assert backbone.facts() != facts
        if family.name == "animatediff":  # the motion modules change a single frame, too
            assert not torch.allclose(image, final_latents_with_adapter(alone), atol=1e-3)
            assert backbone.facts() != alone.facts()
        else:
            assert torch.equal(image, final_latents_with_adapter(alone))
    assert backbone.num_frames == job.model.num_frames
    assert backbone.facts() == facts
    assert torch.equal(final_latents_with_adapter(backbone), before)


def test_style_lora_changes_the_clip_through_each_part_of_the_table(
    family: Family, job: TrainJob, backbone: Backbone, tmp_path: Path
) -> None:
    plain, pipeline = final_latents_with_adapter(backbone), family.fresh_pipeline(job)
    for part in families.FAMILIES[family.name].lora_names:
        layers = getattr(pipeline, part).named_modules()
        path, layer = next(each for each in layers if isinstance(each[1], nn.Linear))
        pair = {"A": torch.ones(1, layer.in_features), "B": torch.ones(layer.out_features, 1)}
        tensors = {f"{part}.{path}.lora_{name}.weight": pair[name] for name in "AB"}
        save_file(tensors, tmp_path / f"{part}.safetensors")
        lora = LoraConfig(file=str(tmp_path / f"{part}.safetensors"))
        styled = load(with_settings(job, "model", loras=(lora,)))
        assert not torch.equal(final_latents_with_adapter(styled), plain), part


# The adapter


def test_adapter_has_exactly_its_target_layers(family: Family, backbone: Backbone) -> None:
    wanted = {
        f"{attention}.to_{projection}" for attention in family.adapted for projection in "qkv"
    }
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2)
    assert set(adapter.layers) == wanted
    trained = [
        name for name, weight in backbone.denoiser.named_parameters() if weight.requires_grad
    ]
    assert len(trained) == 2 * len(wanted)
    assert all("lora_" in name for name in trained)


@only_for(lambda family: family.adapted[0].endswith("attn1"))
def test_adapter_of_cross_attention_gives_the_same_clip_in_diffusers_and_pv(
    family: Family, backbone: Backbone, job: TrainJob, tmp_path: Path
) -> None:
    own = {f"{attention}.to_{each}" for attention in family.adapted for each in "qkv"}
    cross = {name.replace("attn1", "attn2") for name in own}
    crossed, both = load(job), adapter_target(backbone, "self+cross")
    target = adapter_target(crossed, "cross")
    assert set(IdentityAdapter(crossed.denoiser, target, rank=2).layers) == cross
    trained, facts = load(job), backbone.facts()
    adapter = IdentityAdapter(trained.denoiser, both, rank=2, seed=3)
    assert set(adapter.layers) == own | cross
    shake(adapter)
    latents = final_latents_with_adapter(trained, adapter, start=0)
    terms = AdapterMetadata(0.0, STEPS, 3.0, facts["sampler"], facts["base"], layers="self+cross")
    file = tmp_path / "adapter.safetensors"
    adapter.save(file, trained.lora_layout, terms)
    assert read_layers(file) == "self+cross"
    pipeline = family.fresh_pipeline(job)
    pipeline.load_lora_weights(file)
    assert torch.allclose(pipeline_call(pipeline, job, PROMPT), latents, atol=1e-5)
    loaded = load_adapter(file, backbone.denoiser, both, backbone.lora_layout)
    assert torch.equal(final_latents_with_adapter(backbone, loaded, start=0), latents)
    styled = load(with_settings(job, "model", loras=(LoraConfig(file=str(file)),)))
    assert torch.allclose(final_latents_with_adapter(styled), latents, atol=1e-3)


def test_new_adapter_has_no_effect_and_a_trained_one_only_while_active(
    backbone: Backbone,
) -> None:
    before = final_latents_with_adapter(backbone)
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2)
    assert torch.equal(final_latents_with_adapter(backbone, adapter, start=0), before)
    shake(adapter)
    assert torch.equal(final_latents_with_adapter(backbone), before)
    assert not torch.equal(final_latents_with_adapter(backbone, adapter), before)
    assert not torch.allclose(
        final_latents_with_adapter(backbone, adapter, start=0), before, atol=0.1
    )


def test_rendering_uses_the_adapter_in_active_steps_only(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = trained_adapter(backbone)
    denoised: list[int] = []
    called: list[int] = []
    now, predict = [0], backbone.predict

    def denoises(*_: Any) -> None:
        denoised.append(now[0])

    def calls(*_: Any) -> None:
        called.append(now[0])

    def watched(latents: Tensor, step: int, embeds: Any) -> Tensor:
        now[0] = step
        return predict(latents, step, embeds)

    monkeypatch.setattr(backbone, "predict", watched)
    backbone.denoiser.register_forward_pre_hook(denoises)
    for layer in adapter.layers.values():
        layer.lora_A["identity"].register_forward_hook(calls)
    final_latents_with_adapter(backbone, adapter)
    assert set(denoised) == set(range(STEPS))
    for step in range(STEPS):
        assert called.count(step) == (
            len(adapter.layers) * denoised.count(step) if step >= SWITCH else 0
        )


def test_conversion_to_the_file_layout_is_lossless(backbone: Backbone) -> None:
    pairs = trained_adapter(backbone).pairs()
    packed = backbone.lora_layout.pack(pairs)
    again = backbone.lora_layout.unpack(packed, pairs)
    assert again.keys() == pairs.keys()
    assert all(
        torch.equal(a, b) for name in pairs for a, b in zip(again[name], pairs[name], strict=True)
    )
    assert all(isinstance(pair, LoraPair) for pair in again.values())


@pytest.fixture
def exported(backbone: Backbone, tmp_path: Path) -> tuple[Path, Tensor]:
    """Return an adapter's file and the final latents with it."""
    adapter, facts = trained_adapter(backbone), backbone.facts()
    terms = AdapterMetadata(0.75, STEPS, 3.0, sampler=facts["sampler"], base_model=facts["base"])
    adapter.save(tmp_path / "adapter.safetensors", backbone.lora_layout, terms)
    return tmp_path / "adapter.safetensors", final_latents_with_adapter(backbone, adapter)


@only_for(lambda family: family.file_at_any_width)
def test_exported_file_gives_the_same_pixels_in_diffusers(
    exported: tuple[Path, Tensor], family: Family, backbone: Backbone, job: TrainJob
) -> None:
    file, latents = exported
    pipeline = family.fresh_pipeline(job)
    pipeline.load_lora_weights(file, adapter_name="identity")
    pipeline.set_adapters(["identity"], [0.0])

    def turn_on(pipe: Any, step: int, _: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == SWITCH - 1:
            pipe.set_adapters(["identity"], [1.0])
        return values

    theirs = pipeline_call(pipeline, job, PROMPT, output_type="pt", callback_on_step_end=turn_on)[0]
    with torch.no_grad():
        assert torch.equal(backbone.decode(latents, range(backbone.num_frames)), theirs)


def test_exported_file_gives_the_same_clip_in_pv(
    exported: tuple[Path, Tensor], job: TrainJob
) -> None:
    file, latents = exported
    fresh = load(job)
    loaded = load_adapter(file, fresh.denoiser, fresh.lora_target, fresh.lora_layout)
    assert torch.equal(final_latents_with_adapter(fresh, loaded), latents)


# The gradient


def exact_route(backbone: Any) -> tuple[AdaptedSteps, Tensor]:
    """Return the adapter's steps in float64, in which two methods agree to many digits."""
    backbone.denoiser.double()
    backbone.pipeline.vae.double()
    adapter = trained_adapter(backbone)
    for weight in adapter.parameters():
        weight.data = weight.data.double()
    embeds = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in backbone.prompt_embeds(PROMPT).items()
    }
    switch = denoise(backbone, backbone.initial_latents(7).double(), embeds, range(SWITCH))
    return AdaptedSteps(backbone, adapter, embeds, range(SWITCH, STEPS)), switch


def weighted(frames: Tensor) -> Tensor:
    return (
        frames.sin() * torch.linspace(0, 1, frames.numel(), dtype=frames.dtype).view_as(frames)
    ).sum()


def loss_of(family: Family, backbone: Any, latents: Tensor) -> Tensor:
    """Return a loss on decoded frames, without the rounding to float32 in `decode`."""
    return weighted(family.decoder(backbone.pipeline.vae, latents))


def gradients(adapter: Adapter) -> list[Tensor]:
    found = [weight.grad for weight in adapter.parameters() if weight.grad is not None]
    assert len(found) == len(adapter.parameters())
    for weight in adapter.parameters():
        weight.grad = None
    return found


def gradient_by(
    tail_of: Callable[[AdaptedSteps, Tensor], Rollout],
    route: AdaptedSteps,
    switch: Tensor,
    family: Family,
) -> list[Tensor]:
    tail = tail_of(route, switch)
    latents = tail.latents.requires_grad_()
    tail.backward(torch.autograd.grad(loss_of(family, route.backbone, latents), latents)[0])
    return gradients(route.adapter)


def close(ours: list[Tensor], theirs: list[Tensor], within: float) -> bool:
    """Compare up to a fraction of the gradient's norm."""
    return all(torch.dist(a, b) <= within * b.norm() for a, b in zip(ours, theirs, strict=True))


def test_exact_gradient_modes_equal_back_propagation_through_all_steps(
    family: Family, backbone: Backbone
) -> None:
    route, switch = exact_route(backbone)
    latents = backbone.initial_latents(7).double().requires_grad_()
    for step in range(STEPS):
        with route.adapter.acting(step >= SWITCH):
            latents = backbone.advance(latents, step, backbone.predict(latents, step, route.embeds))
    loss_of(family, backbone, latents).backward()
    whole = gradients(route.adapter)
    assert all(gradient.abs().max() > 1e-6 for gradient in whole)
    for tail_of in (rollout_in_memory, rollout_replayed):
        assert close(gradient_by(tail_of, route, switch, family), whole, family.exact)


def test_stopped_gradient_equals_autograd_and_sampled_steps_are_unbiased(
    family: Family, backbone: Backbone
) -> None:
    """DRTune as in its paper: the model's input is detached, the sampler's is not."""
    route, switch = exact_route(backbone)
    every = gradient_by(rollout_stopped, route, switch, family)
    latents = switch
    with route.adapter.acting():
        for step in route.steps:
            output = backbone.predict(latents.detach(), step, route.embeds)
            latents = backbone.advance(latents, step, output)
        loss_of(family, backbone, latents).backward()
    assert close(every, gradients(route.adapter), family.exact)
    first, second = (
        gradient_by(partial(rollout_stopped, drawn=[step]), route, switch, family)
        for step in route.steps
    )
    assert close([(a + b) / 2 for a, b in zip(first, second, strict=True)], every, family.exact)
    assert not close(first, every, family.exact)
    assert set(output_weights(backbone, route.steps)) == {6, 7}


def test_recomputation_gives_the_same_gradient_and_stores_fewer_activations(job: TrainJob) -> None:
    found: list[list[Tensor]] = []
    kept: list[tuple[int, int]] = []
    for recompute in (False, True):
        backbone = load(job, recompute)
        adapter = trained_adapter(backbone)
        route = AdaptedSteps(
            backbone, adapter, backbone.prompt_embeds(PROMPT), range(SWITCH, STEPS)
        )
        switch = denoise(backbone, backbone.initial_latents(7), route.embeds, range(SWITCH))
        tail, of_steps = kept_bytes(
            lambda route=route, switch=switch: rollout_in_memory(route, switch)
        )
        latents = tail.latents.requires_grad_()
        frame, of_frame = kept_bytes(
            lambda backbone=backbone, latents=latents: backbone.decode(latents, [3])
        )
        (gradient,) = torch.autograd.grad(frame.square().mean(), latents)
        tail.backward(gradient)
        found.append([gradient, *gradients(adapter)])
        kept.append((of_steps, of_frame))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert kept[1][0] < kept[0][0] / 2
    assert kept[1][1] < kept[0][1]


def kept_bytes(compute: Callable[[], Any]) -> tuple[Any, int]:
    """Return the result of `compute`, and the bytes that it stores for the backward pass."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return compute(), sum(sizes.values())


# Cache and training


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose trajectory cache all these tests share."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def home(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PV_HOME", str(shared))


def test_cached_latents_equal_computed_ones_exactly(
    job: TrainJob, backbone: Backbone, tmp_path: Path
) -> None:
    final = final_latents_with_adapter(backbone)
    for _ in ("computed", "read"):
        cache = TrajectoryCache(tmp_path / "trajectories", backbone, SWITCH, ignore)
        assert torch.equal(cache.final(PROMPT, 7), final)
    other = load(with_settings(job, "sampler", num_inference_steps=STEPS + 1))
    assert TrajectoryCache(None, other, SWITCH, ignore).key(PROMPT, 7) != cache.key(PROMPT, 7)


def new_trainer(job: TrainJob) -> tuple[Trainer, PersonalVideo]:
    return prepared_trainer(job, cache_dir() / "trajectories")


def test_every_weight_gets_a_gradient_with_all_memory_options(
    family: Family, job: TrainJob
) -> None:
    job = with_settings(job, "training", cached_pairs=1)
    saving = with_settings(with_settings(job, "model", **family.saving), "training", recompute=True)
    (plain, rewards), (frugal, frugal_rewards) = new_trainer(job), new_trainer(saving)
    for trainer in (plain, frugal):
        shake(trainer.adapter)
    for gradient in ("full", "replay", "drtune"):
        for objective in (rewards, frugal_rewards):
            objective.config = dataclasses.replace(objective.config, gradient=gradient)
            objective.backpropagate_pair(rewards.pairs[0], generator_of(0, 1))
        ours, theirs = gradients(frugal.adapter), gradients(plain.adapter)
        assert all(gradient.abs().sum() > 0 for gradient in theirs)
        assert close(ours, theirs, within=1e-4)
    before = [weight.detach().clone() for weight in frugal.adapter.parameters()]
    assert frugal.iterate(1)["grad_norm"] > 0
    assert not any(
        torch.equal(a, b) for a, b in zip(before, frugal.adapter.parameters(), strict=True)
    )


def run(job: TrainJob, path: Path) -> dict[str, Tensor]:
    """Train until the job's last iteration and return the adapter's weights."""
    folder = RunFolder(path)
    if not path.exists():
        folder.create()
    with EventWriter(folder.events) as events, Heartbeat(folder.status) as heartbeat:
        assert train(job, folder, events, heartbeat).state == State.FINISHED
    checkpoint = folder.latest_checkpoint()
    assert checkpoint is not None
    return load_file(checkpoint / "adapter.safetensors")


def test_resumed_run_equals_uninterrupted_one(job: TrainJob, tmp_path: Path) -> None:
    job = with_settings(job, "training", cached_pairs=2, sample_every=4)
    whole = run(job, tmp_path / "whole")
    run(with_settings(job, "training", iterations=2), tmp_path / "halves")
    halves = run(job, tmp_path / "halves")
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    assert len(list((tmp_path / "whole").rglob("*.mp4"))) == 2  # of the base model and of step 4


@pytest.mark.slow
def test_simple_reward_is_learnt_in_200_steps(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disturbed adapter learns to reproduce the base model's first frame."""
    job = with_settings(job, "model", width=16, height=16, num_frames=5)
    job = with_settings(job, "sampler", num_inference_steps=4, guidance_scale=1.0)
    job = with_settings(job, "adapter", start=0.5)
    job = with_settings(
        job, "training", iterations=200, cached_pairs=1, gradient="full", decay_from=0.5
    )
    trainer, objective = new_trainer(job)
    shake(trainer.adapter)
    ((prompt, seed),) = objective.samples
    with torch.no_grad():
        wanted = trainer.backbone.decode(trainer.model.cache.final(prompt, seed), [0])

    def distance(_: Pair, latents: Tensor, *__: Any) -> tuple[Tensor, dict[str, Any]]:
        return torch.dist(trainer.backbone.decode(latents, [0]), wanted), {}

    monkeypatch.setattr(objective, "_judge", distance)
    losses = [trainer.iterate(step)["loss"] for step in range(1, 201)]
    quarters = [sum(losses[i : i + 50]) / 50 for i in range(0, 200, 50)]
    assert quarters == sorted(quarters, reverse=True)
    assert losses[-1] < losses[0] / 10
