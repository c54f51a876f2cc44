"""Trajectory cache: cached values equal computed ones exactly, and keys are complete."""

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


def test_cached_latents_equal_computed_ones_exactly(
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


def test_nothing_is_cached_without_a_folder(cache: TrajectoryCache, backbone: AnimateDiff) -> None:
    anew = TrajectoryCache(None, backbone, 6, Events())
    assert torch.equal(anew.switch(PROMPT, SEED), cache.switch(PROMPT, SEED))
    assert torch.equal(anew.final(PROMPT, SEED), cache.final(PROMPT, SEED))


def test_measurements_are_cached_by_their_name(cache: TrajectoryCache) -> None:
    def mean(latents: Tensor) -> dict[str, Tensor]:
        return {"mean": latents.mean()}

    first = cache.measured(PROMPT, SEED, "scores", "one", mean)
    assert torch.equal(cache.measured(PROMPT, SEED, "scores", "one", refuse)["mean"], first["mean"])
    with pytest.raises(AssertionError, match="computed again"):
        cache.measured(PROMPT, SEED, "scores", "another", refuse)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_measurements_that_are_not_finite_are_neither_stored_nor_loaded(
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
def test_key_depends_on_all_settings_of_a_trajectory(
    section: str, change: dict[str, Any], job: TrainJob, cache: TrajectoryCache, tmp_path: Path
) -> None:
    other = with_settings(job, section, **change)
    others = TrajectoryCache(
        tmp_path, AnimateDiff(other.model, other.sampler, [PROMPT]), 6, Events()
    )
    assert others.key(PROMPT, SEED) != cache.key(PROMPT, SEED)


def test_other_weights_than_those_of_the_job_are_refused(
    job: TrainJob,
) -> None:
    whole = with_settings(job, "model", fingerprint=fingerprint(Path(job.model.base_model)))
    assert load_backbone(whole.model, whole.sampler, []).facts()["base"] == whole.model.fingerprint
    other = with_settings(job, "model", fingerprint="0123456789abcdef")
    with pytest.raises(
        InputRefused, match=r"The base model in .* is not the one that this job was created for"
    ):
        load_backbone(other.model, other.sampler, [])


def test_key_depends_on_prompt_seed_sampler_and_start(
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


def test_key_does_not_depend_on_identity_or_training(job: TrainJob, cache: TrajectoryCache) -> None:
    other = with_settings(with_settings(job, "training", seed=9), "adapter", rank=4, alpha=4)
    others = TrajectoryCache(None, AnimateDiff(other.model, other.sampler, [PROMPT]), 6, Events())
    assert others.key(PROMPT, SEED) == cache.key(PROMPT, SEED)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_corrupt_entry_is_recomputed_with_a_warning(
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


def test_full_disk_disables_the_cache_without_partial_files(
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
    message = f"Trajectories are not cached in {tmp_path / 'full'}: the disk is full."
    assert events == [WarningEvent(message=message)]
    assert not [path for path in (tmp_path / "full").rglob("*") if path.is_file()]


def test_least_recently_used_entries_are_deleted_first(
    backbone: AnimateDiff, tmp_path: Path
) -> None:
    one = TrajectoryCache(tmp_path, backbone, 6, Events())
    one.switch(PROMPT, 0)
    (entry,) = entries(tmp_path)
    small = TrajectoryCache(tmp_path, backbone, 6, Events(), gigabytes=3.5 * entry.bytes / 1e9)
    for seed in (1, 2):
        small.switch(PROMPT, seed)
    for age, seed in enumerate((0, 2, 1)):  # 0 was read last
        os.utime(tmp_path / small.key(PROMPT, seed) / "switch.safetensors", (1e9 - age, 1e9 - age))
    small.switch(PROMPT, 0)
    small.switch(PROMPT, 3)
    assert {found.path.name for found in entries(tmp_path)} == {
        small.key(PROMPT, seed) for seed in (0, 2, 3)
    }
