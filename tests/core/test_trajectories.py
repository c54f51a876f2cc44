"""The trajectory cache: equal to the bit to what would be computed, and never used for anything else."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pvtool_core.backbones import load_backbone
from pvtool_core.backbones.animatediff import AnimateDiff
from pvtool_core.errors import InputRefused, NotFinite
from pvtool_core.models.fingerprints import fingerprint
from pvtool_core.sampling import denoise
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.store.events import Event, WarningEvent
from pvtool_core.store.trajectory_cache import entries
from pvtool_core.trajectories import TrajectoryCache
from tests.support.small_models import with_settings

PROMPT, SEED = "a <V> woman waving", 3


class Events(list[Event]):
    def __call__(self, event: Event) -> None:
        self.append(event)


@pytest.fixture
def backbone(job: TrainJob) -> AnimateDiff:
    return AnimateDiff(job.model, job.sampler, [PROMPT])


@pytest.fixture
def cache(tmp_path: Path, backbone: AnimateDiff) -> TrajectoryCache:
    return TrajectoryCache(tmp_path / "trajectories", backbone, 6, Events())


def refuse(*_: Any) -> dict[str, Tensor]:
    raise AssertionError("it was computed again")


def test_what_is_read_is_to_the_bit_what_is_computed(
    cache: TrajectoryCache, backbone: AnimateDiff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeds = backbone.prompt_embeds(PROMPT)
    switch = denoise(backbone, backbone.initial_latents(SEED), embeds, range(6))
    final = denoise(backbone, backbone.initial_latents(SEED), embeds, range(8))
    assert torch.equal(cache.final(PROMPT, SEED), final)
    monkeypatch.setattr("pvtool_core.trajectories.denoise", refuse)
    again = TrajectoryCache(tmp_path / "trajectories", backbone, 6, Events())
    assert torch.equal(again.switch(PROMPT, SEED), switch)
    assert torch.equal(again.final(PROMPT, SEED), final)


def test_without_a_folder_everything_is_computed_anew(
    cache: TrajectoryCache, backbone: AnimateDiff
) -> None:
    anew = TrajectoryCache(None, backbone, 6, Events())
    assert torch.equal(anew.switch(PROMPT, SEED), cache.switch(PROMPT, SEED))
    assert torch.equal(anew.final(PROMPT, SEED), cache.final(PROMPT, SEED))


def test_measurements_are_kept_for_each_that_measures(cache: TrajectoryCache) -> None:
    def mean(latents: Tensor) -> dict[str, Tensor]:
        return {"mean": latents.mean()}

    first = cache.measured(PROMPT, SEED, "scores", "one", mean)
    assert torch.equal(cache.measured(PROMPT, SEED, "scores", "one", refuse)["mean"], first["mean"])
    with pytest.raises(AssertionError, match="computed again"):
        cache.measured(PROMPT, SEED, "scores", "another", refuse)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_measured_and_not_finite_is_neither_kept_nor_used(
    cache: TrajectoryCache, tmp_path: Path, value: float
) -> None:
    def broken(latents: Tensor) -> dict[str, Tensor]:
        return {"scores": torch.tensor([0.2, value])}

    with pytest.raises(
        NotFinite, match=f"scores of the base model's clip of '{PROMPT}', seed {SEED}"
    ):
        cache.measured(PROMPT, SEED, "scores", "one", broken)
    assert list((tmp_path / "trajectories").rglob("scores*")) == []
    assert cache.measured(PROMPT, SEED, "scores", "one", lambda latents: {"scores": latents.mean()})


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("model", {"fingerprint": "other weights"}),
    ("model", {"width": 40}),
    ("model", {"num_frames": 3}),
    ("model", {"dtype": "bfloat16"}),
    ("sampler", {"num_inference_steps": 9}),
    ("sampler", {"guidance_scale": 2.0}),
    ("sampler", {"negative_prompt": "ugly"}),
]


@pytest.mark.parametrize(("section", "change"), CHANGES)
def test_all_that_a_trajectory_depends_on_is_in_its_key(
    section: str, change: dict[str, Any], job: TrainJob, cache: TrajectoryCache, tmp_path: Path
) -> None:
    other = with_settings(job, section, **change)
    others = TrajectoryCache(
        tmp_path, AnimateDiff(other.model, other.sampler, [PROMPT]), 6, Events()
    )
    assert others.key(PROMPT, SEED) != cache.key(PROMPT, SEED)


def test_weights_that_are_not_the_jobs_are_refused_before_they_reach_the_cache(
    job: TrainJob,
) -> None:
    whole = with_settings(job, "model", fingerprint=fingerprint(Path(job.model.base_model)))
    assert load_backbone(whole.model, whole.sampler, []).facts()["base"] == whole.model.fingerprint
    other = with_settings(job, "model", fingerprint="0123456789abcdef")
    with pytest.raises(
        InputRefused, match=r"The base model in .* is not the one that this job was made for"
    ):
        load_backbone(other.model, other.sampler, [])


def test_prompt_seed_sampler_and_switch_are_in_the_key(
    cache: TrajectoryCache, backbone: AnimateDiff
) -> None:
    keys = {
        cache.key(PROMPT, SEED),
        cache.key(PROMPT, SEED + 1),
        cache.key("a <V> woman walking", SEED),
    }
    keys.add(TrajectoryCache(None, backbone, 5, Events()).key(PROMPT, SEED))
    backbone.scheduler.register_to_config(beta_end=0.02)
    keys.add(TrajectoryCache(None, backbone, 6, Events()).key(PROMPT, SEED))
    assert len(keys) == 5


def test_who_is_trained_and_how_is_not_in_the_key(job: TrainJob, cache: TrajectoryCache) -> None:
    other = with_settings(with_settings(job, "training", seed=9), "adapter", rank=4, alpha=4)
    others = TrajectoryCache(None, AnimateDiff(other.model, other.sampler, [PROMPT]), 6, Events())
    assert others.key(PROMPT, SEED) == cache.key(PROMPT, SEED)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_entry_is_computed_again_and_said(
    damage: str, backbone: AnimateDiff, tmp_path: Path
) -> None:
    events = Events()
    cache = TrajectoryCache(tmp_path, backbone, 6, events)
    whole = cache.switch(PROMPT, SEED)
    (path,) = tmp_path.rglob("switch.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes({"cut": content[:-40], "flipped": content, "empty": b""}[damage])
    assert torch.equal(cache.switch(PROMPT, SEED), whole)
    assert [event.type for event in events] == ["warning"]
    assert torch.equal(cache.switch(PROMPT, SEED), whole)
    assert len(events) == 1


def test_a_full_disk_costs_time_and_leaves_nothing_half_written(
    cache: TrajectoryCache, backbone: AnimateDiff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = cache.switch(PROMPT, SEED)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    events = Events()
    full_cache = TrajectoryCache(tmp_path / "full", backbone, 6, events)
    assert torch.equal(full_cache.switch(PROMPT, SEED), computed)
    full_cache.final(PROMPT, SEED)
    message = f"Trajectories are not kept in {tmp_path / 'full'}: the disk is full."
    assert events == [WarningEvent(message=message)]
    assert not [path for path in (tmp_path / "full").rglob("*") if path.is_file()]


def test_the_least_recently_used_go_when_there_is_too_much(
    backbone: AnimateDiff, tmp_path: Path
) -> None:
    one = TrajectoryCache(tmp_path, backbone, 6, Events())
    one.switch(PROMPT, 0)
    (entry,) = entries(tmp_path)
    small = TrajectoryCache(tmp_path, backbone, 6, Events(), gigabytes=3.5 * entry.bytes / 1e9)
    for seed in (1, 2):
        small.switch(PROMPT, seed)
    for age, seed in enumerate((0, 2, 1)):  # 0 is the one that was read last
        os.utime(tmp_path / small.key(PROMPT, seed) / "switch.safetensors", (1e9 - age, 1e9 - age))
    small.switch(PROMPT, 0)
    small.switch(PROMPT, 3)
    assert {found.path.name for found in entries(tmp_path)} == {
        small.key(PROMPT, seed) for seed in (0, 2, 3)
    }
