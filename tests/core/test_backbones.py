"""The laws of the contract in pvtool_core/backbones/interface.py, for every family of tests/families.py.

They say that a backbone is diffusers' own pipeline taken step by step, and that all that the engine does with one
(adapter, gradients, cache, training) holds for it. What is special about one family is tested beside it.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pvtool_core.adapter import IdentityAdapter, LoraPair, Terms, load_adapter
from pvtool_core.backbones import Backbone, load_backbone
from pvtool_core.config import TrainJob
from pvtool_core.runs import EventWriter, Heartbeat, RunFolder, State
from pvtool_core.sampling import Route, Tail, denoise, output_weights, tail_in_memory, tail_replayed, tail_stopped
from pvtool_core.trainer import Trainer, bank_pairs, train
from pvtool_core.trajectories import TrajectoryCache
from tests.conftest import with_settings
from tests.families import FAMILIES, Family, pipeline_call

PROMPT = "a <V> woman waving"
SWITCH, STEPS = 6, 8


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
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
    """One whose up projections are not zero."""
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2, seed=3)
    generator = torch.Generator().manual_seed(1)
    for weight in adapter.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    return adapter


def steps_of(backbone: Backbone, adapter: IdentityAdapter | None = None) -> Tensor:
    """The final latents of a clip, with the adapter in its steps."""
    embeds = backbone.prompt_embeds(PROMPT)
    switch = denoise(backbone, backbone.initial_latents(7), embeds, range(SWITCH))
    return denoise(backbone, switch, embeds, range(SWITCH, STEPS), adapter)


# A clip is diffusers' own


def test_the_class_fulfils_the_contract(backbone: Backbone, job: TrainJob) -> None:
    assert isinstance(backbone, Backbone)
    assert (backbone.num_steps, backbone.num_frames) == (STEPS, job.model.num_frames)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("negative", ["", "ugly"])
def test_with_the_adapter_off_a_clip_is_diffusers_own_to_the_bit(
    guidance: float, negative: str, family: Family, job: TrainJob
) -> None:
    job = with_settings(job, "sampler", guidance_scale=guidance, negative_prompt=negative)
    backbone = load(job)
    trained_adapter(backbone)
    noise = backbone.initial_latents(7)
    assert torch.equal(steps_of(backbone), pipeline_call(family.fresh_pipeline(job), job, PROMPT, noise))


def test_a_clip_begins_with_the_noise_that_diffusers_draws_for_the_seed(
    family: Family, job: TrainJob, backbone: Backbone
) -> None:
    drawn = torch.Generator().manual_seed(7)
    theirs = pipeline_call(family.fresh_pipeline(job), job, PROMPT, None, generator=drawn)
    assert torch.equal(steps_of(backbone), theirs)


def test_decoded_frames_are_those_of_diffusers(family: Family, job: TrainJob, backbone: Backbone) -> None:
    noise = backbone.initial_latents(7)
    theirs = pipeline_call(family.fresh_pipeline(job), job, PROMPT, noise, output_type="pt")[0]
    with torch.no_grad():
        assert torch.equal(backbone.decode(steps_of(backbone), range(backbone.num_frames)), theirs)


def test_a_few_frames_are_those_of_the_whole_clip(backbone: Backbone) -> None:
    latents = steps_of(backbone)
    with torch.no_grad():
        whole = backbone.decode(latents, range(backbone.num_frames))
        for frame in range(backbone.num_frames):
            window = backbone.decoded_with(frame)
            assert frame in window
            assert torch.allclose(backbone.decode(latents, [frame]), whole[[frame]], atol=1e-6)
            assert torch.allclose(backbone.decode(latents, window), whole[list(window)], atol=1e-6)
    assert torch.allclose(backbone.decode(latents, [3, 1]), whole[[3, 1]], atol=1e-6)


def test_frames_lead_the_gradient_to_the_latents(backbone: Backbone) -> None:
    def loss(latents: Tensor) -> Tensor:
        return loss_of(backbone.decode(latents, [3]))

    latents = steps_of(backbone).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(latents), latents)
    little = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        rise = loss(latents + little) - loss(latents - little)
    assert rise.item() == pytest.approx(2e-3 * gradient.norm().item(), rel=0.02)


def test_a_step_is_a_function_of_its_number(backbone: Backbone) -> None:
    latents, embeds = backbone.initial_latents(7), backbone.prompt_embeds(PROMPT)
    with torch.no_grad():
        once = [backbone.advance(latents, step, backbone.predict(latents, step, embeds)) for step in (5, 2, 5)]
    assert torch.equal(once[0], once[2])
    assert not torch.equal(once[0], once[1])


# The adapter


def test_the_adapter_sits_on_its_layers_and_nowhere_else(family: Family, backbone: Backbone) -> None:
    wanted = family.layers(backbone.denoiser)
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2)
    assert set(adapter.layers) == wanted
    trained = [name for name, weight in backbone.denoiser.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * len(wanted)


def test_a_new_adapter_changes_nothing_and_a_trained_one_does(backbone: Backbone) -> None:
    before = steps_of(backbone)
    new = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2)
    assert torch.equal(steps_of(backbone, new), before)
    new.remove()
    assert not torch.equal(steps_of(backbone, trained_adapter(backbone)), before)


def test_the_layout_of_its_file_loses_nothing(backbone: Backbone) -> None:
    pairs = trained_adapter(backbone).pairs()
    packed = backbone.lora_layout.pack(pairs)
    again = backbone.lora_layout.unpack(packed, pairs)
    assert again.keys() == pairs.keys()
    assert all(torch.equal(a, b) for name in pairs for a, b in zip(again[name], pairs[name], strict=True))
    assert all(isinstance(pair, LoraPair) for pair in again.values())


@pytest.fixture
def exported(backbone: Backbone, tmp_path: Path) -> tuple[Path, Tensor]:
    """An adapter's file, and the final latents that it makes."""
    adapter, facts = trained_adapter(backbone), backbone.facts()
    terms = Terms(0.75, STEPS, 3.0, sampler=facts["sampler"], base_model=facts["base"])
    adapter.save(tmp_path / "adapter.safetensors", backbone.lora_layout, terms)
    return tmp_path / "adapter.safetensors", steps_of(backbone, adapter)


def test_the_file_gives_the_same_pixels_in_a_fresh_diffusers_pipeline(
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

    noise = backbone.initial_latents(7)
    theirs = pipeline_call(pipeline, job, PROMPT, noise, output_type="pt", callback_on_step_end=turn_on)[0]
    with torch.no_grad():
        assert torch.equal(backbone.decode(latents, range(backbone.num_frames)), theirs)


def test_the_file_loads_into_our_own_renderer_with_the_same_result(
    exported: tuple[Path, Tensor], job: TrainJob
) -> None:
    file, latents = exported
    fresh = load(job)
    loaded = load_adapter(file, fresh.denoiser, fresh.lora_target, fresh.lora_layout)
    assert torch.equal(steps_of(fresh, loaded), latents)


# The gradient


def exact_route(backbone: Backbone) -> tuple[Route, Tensor]:
    """The adapter's steps in float64, where two ways of one computation agree to many digits."""
    backbone.denoiser.double()
    adapter = trained_adapter(backbone)
    for weight in adapter.parameters():
        weight.data = weight.data.double()
    embeds = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in backbone.prompt_embeds(PROMPT).items()
    }
    switch = denoise(backbone, backbone.initial_latents(7).double(), embeds, range(SWITCH))
    return Route(backbone, adapter, embeds, range(SWITCH, STEPS)), switch


def loss_of(latents: Tensor) -> Tensor:
    return (latents.sin() * torch.linspace(0, 1, latents.numel(), dtype=latents.dtype).view_as(latents)).sum()


def gradients(adapter: IdentityAdapter) -> list[Tensor]:
    found = [weight.grad for weight in adapter.parameters() if weight.grad is not None]
    assert len(found) == len(adapter.parameters())
    for weight in adapter.parameters():
        weight.grad = None
    return found


def gradient_by(tail_of: Callable[[Route, Tensor], Tail], route: Route, switch: Tensor) -> list[Tensor]:
    tail = tail_of(route, switch)
    latents = tail.latents.requires_grad_()
    tail.backward(torch.autograd.grad(loss_of(latents), latents)[0])
    return gradients(route.adapter)


def close(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Equal but for rounding; some models round to float32 within, whatever their type."""
    return all((a - b).norm() <= 1e-5 * b.norm() for a, b in zip(ours, theirs, strict=True))


def test_both_exact_gradients_equal_back_propagation_through_the_whole_chain(backbone: Backbone) -> None:
    route, switch = exact_route(backbone)
    latents = backbone.initial_latents(7).double().requires_grad_()
    for step in range(STEPS):
        with route.adapter.acting(step >= SWITCH):
            latents = backbone.advance(latents, step, backbone.predict(latents, step, route.embeds))
    loss_of(latents).backward()
    whole = gradients(route.adapter)
    assert all(gradient.abs().max() > 1e-9 for gradient in whole)
    assert close(gradient_by(tail_in_memory, route, switch), whole)
    assert close(gradient_by(tail_replayed, route, switch), whole)


def test_the_stopped_gradient_in_closed_form_is_that_of_autograd(backbone: Backbone) -> None:
    route, switch = exact_route(backbone)
    closed = gradient_by(tail_stopped, route, switch)
    latents = switch
    with route.adapter.acting():
        for step in route.steps:
            output = backbone.predict(latents.detach(), step, route.embeds)
            latents = backbone.advance(latents, step, output)
        loss_of(latents).backward()
    assert close(closed, gradients(route.adapter))
    assert set(output_weights(backbone, route.steps)) == {6, 7}


def test_recomputed_activations_give_the_same_gradient_and_are_fewer(job: TrainJob) -> None:
    found: list[list[Tensor]] = []
    kept: list[tuple[int, int]] = []
    for recompute in (False, True):
        backbone = load(job, recompute)
        adapter = trained_adapter(backbone)
        route = Route(backbone, adapter, backbone.prompt_embeds(PROMPT), range(SWITCH, STEPS))
        switch = denoise(backbone, backbone.initial_latents(7), route.embeds, range(SWITCH))
        tail, of_steps = kept_bytes(lambda route=route, switch=switch: tail_in_memory(route, switch))
        latents = tail.latents.requires_grad_()
        frame, of_frame = kept_bytes(lambda backbone=backbone, latents=latents: backbone.decode(latents, [3]))
        tail.backward(torch.autograd.grad(frame.square().mean(), latents)[0])
        found.append(gradients(adapter))
        kept.append((of_steps, of_frame))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert kept[1][0] < kept[0][0] / 2
    assert kept[1][1] < kept[0][1]


def kept_bytes(compute: Callable[[], Any]) -> tuple[Any, int]:
    """What `compute` gives, and how much it keeps for the way back."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return compute(), sum(sizes.values())


# Cache and training


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))


def ignore(type: str, /, **values: Any) -> None:
    pass


def test_what_is_read_from_the_cache_is_to_the_bit_what_is_computed(
    job: TrainJob, backbone: Backbone, tmp_path: Path
) -> None:
    final = steps_of(backbone)
    for _ in ("computed", "read"):
        cache = TrajectoryCache(tmp_path / "trajectories", backbone, SWITCH, ignore)
        assert torch.equal(cache.final(PROMPT, 7), final)
    other = load(with_settings(job, "sampler", num_inference_steps=STEPS + 1))
    assert TrajectoryCache(None, other, SWITCH, ignore).key(PROMPT, 7) != cache.key(PROMPT, 7)


@pytest.mark.parametrize("gradient", ["full", "replay", "drtune"])
def test_a_trainer_iterates(gradient: str, job: TrainJob) -> None:
    trainer = Trainer(with_settings(job, "training", gradient=gradient, recompute=True), None, ignore)
    before = [weight.detach().clone() for weight in trainer.adapter.parameters()]
    pairs = [pair for prompt, seed in bank_pairs(job)[:2] if (pair := trainer.prepare(prompt, seed))]
    assert trainer.iterate(1, pairs)["grad_norm"] > 0
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.adapter.parameters(), strict=True))


def run(job: TrainJob, path: Path) -> dict[str, Tensor]:
    """Train until the job's last iteration; the adapter that is left."""
    folder = RunFolder(path)
    if not path.exists():
        folder.create()
    with EventWriter(folder.events) as events, Heartbeat(folder) as heartbeat:
        assert train(job, folder, events, heartbeat) is State.FINISHED
    checkpoint = folder.latest_checkpoint()
    assert checkpoint is not None
    return load_file(checkpoint / "adapter.safetensors")


def test_a_resumed_run_takes_the_same_steps(job: TrainJob, tmp_path: Path) -> None:
    job = with_settings(job, "training", cached_pairs=2)
    whole = run(job, tmp_path / "whole")
    half = dataclasses.replace(job, training=dataclasses.replace(job.training, iterations=2))
    run(half, tmp_path / "halves")
    halves = run(job, tmp_path / "halves")
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[key], halves[key]) for key in whole)


@pytest.mark.slow
def test_an_easy_reward_is_learnt(job: TrainJob) -> None:
    """200 iterations towards a brighter first frame."""
    backbone = load(with_settings(job, "sampler", guidance_scale=1.0))
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    embeds = backbone.prompt_embeds(PROMPT)
    switch = denoise(backbone, backbone.initial_latents(7), embeds, range(SWITCH))
    route = Route(backbone, adapter, embeds, range(SWITCH, STEPS))
    losses: list[float] = []
    for _ in range(200):
        tail = tail_in_memory(route, switch)
        latents = tail.latents.requires_grad_()
        loss = -backbone.decode(latents, [0]).mean()
        tail.backward(torch.autograd.grad(loss, latents)[0])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    quarters = [sum(losses[i : i + 50]) for i in range(0, 200, 50)]
    assert quarters == sorted(quarters, reverse=True)
