"""A loaded model that denoises clips, one at a time.

Clips of one prompt and seed share the prefix, the steps before the adapter is active, through the
trajectory cache, for all identities.
"""

import gc
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from pvtool_core import sampling
from pvtool_core.adapter import Adapter, IdentityAdapter, load_adapter, read_layers, read_rank
from pvtool_core.adapter_files.vector_files import vector_count
from pvtool_core.backbones import Backbone, Frames, Latents, load_backbone
from pvtool_core.backbones.interface import adapter_target, to_pixels
from pvtool_core.batches.folder import Group
from pvtool_core.batches.rates import Rate, note
from pvtool_core.errors import (
    InputRefused,
    OutOfMemory,
    WeightsMissing,
    from_foreign,
)
from pvtool_core.files import WRITING, replace_file
from pvtool_core.hashes import cached_sha256
from pvtool_core.keyword_vectors import load_vectors
from pvtool_core.media.decode import Pixels
from pvtool_core.models.locate import locate_model
from pvtool_core.models.prompt_limits import report_cuts
from pvtool_core.paths import trajectories_dir
from pvtool_core.rendering.results import Results
from pvtool_core.settings.jobs import RenderItem, Setup
from pvtool_core.store.events import Report
from pvtool_core.trajectories import TrajectoryCache

T = TypeVar("T")


@dataclass(frozen=True)
class DenoisedClip:
    """Final latents of a clip, and the model that decodes them.

    `key` names the clip's lease, and `fingerprint` covers everything that changes pixels.
    `first_step` is the first active step of its adapter. `seconds` is the time of the steps of this
    clip only. The file `kept` stores the latents until the clip is
    written, so that a failure does not repeat the denoising.
    """

    item: RenderItem
    key: str
    fingerprint: str
    latents: Latents
    kept: Path
    denoiser: "Denoiser"
    first_step: int
    seconds: float = 0.0

    def decode(self) -> Pixels:
        """Store the latents and return every frame."""
        keep_latents(self.kept, self.fingerprint, self.latents)
        return self.denoiser.decode(self.latents)


class Denoiser(ABC):
    """The model of one setup, loaded for `prompts`.

    One thread may denoise while another one decodes. If the memory is too small for both, they
    alternate. `first_step` is the first active step of adapters.
    """

    def __init__(self, setup: Setup, prompts: Sequence[str], device: torch.device) -> None:
        self.setup, self.prompts, self.device = setup, frozenset(prompts), device
        self.first_step = 0
        self._prefix_seconds, self._rest_seconds, self._clips = 0.0, 0.0, 0
        self._denoising, self._decoding = threading.Lock(), threading.Lock()

    @abstractmethod
    def renders(self, group: Group) -> bool:
        """Return whether this model can render a group after `restart`."""

    @abstractmethod
    def restart(self, setup: Setup) -> None:
        """Use another setup for the next clips. Raises InputRefused."""

    @abstractmethod
    def prefix(self, prompt: str, seed: int) -> Latents | None:
        """Return what all clips of a prompt and a seed share, or None."""

    @abstractmethod
    def final(self, item: RenderItem, prefix: Latents | None) -> Latents:
        """Return the final latents of a clip."""

    @abstractmethod
    def frames(self, latents: Latents) -> Frames:
        """Return every frame of a clip in [0, 1]."""

    @abstractmethod
    def prefix_rate(self) -> float | None:
        """Return the measured seconds of a prefix, or None."""

    @abstractmethod
    def release(self) -> None:
        """Release the model, even if this object is still referenced."""

    def denoise(self, group: Group, results: Results) -> Iterator[DenoisedClip]:
        """Yield the latents of each clip, first those stored by an earlier attempt.

        Clips that fail are reported.
        """
        missing: list[RenderItem] = []
        for item in group.items:
            latents = kept_latents(latents_path(item), group.fingerprints[item.clip])
            if latents is None:
                missing.append(item)
            else:
                yield self._clip(group, item, latents)
        if not missing:
            return
        try:
            prefix = self.prefix(missing[0].prompt, missing[0].seed)
        except Exception as error:
            for item in missing:
                results.failed(item, error)
            return
        for number, item in enumerate(sorted(missing, key=lambda item: item.adapter)):
            if number:
                results.progress()
            began = time.monotonic()
            try:
                latents = self._finish(item, prefix)
            except Exception as error:
                results.failed(item, error)
            else:
                yield self._clip(group, item, latents, time.monotonic() - began)

    def _clip(
        self, group: Group, item: RenderItem, latents: Latents, seconds: float = 0.0
    ) -> DenoisedClip:
        return DenoisedClip(
            item=item,
            key=group.key,
            fingerprint=group.fingerprints[item.clip],
            latents=latents,
            kept=latents_path(item),
            denoiser=self,
            first_step=self.first_step,
            seconds=seconds,
        )

    def _finish(self, item: RenderItem, prefix: Latents | None) -> Latents:
        began = time.monotonic()
        latents = self._with_room(self._denoising, lambda: self.final(item, prefix))
        self._rest_seconds += self._seconds_since(began)
        self._clips += 1
        return latents

    @torch.no_grad()
    def decode(self, latents: Latents) -> Pixels:
        """Return every frame of a clip."""
        return self._with_room(
            self._decoding, lambda: to_pixels(self.frames(latents.to(self.device)))
        )

    def close(self) -> None:
        """Save the measured rate and release the model."""
        self.note_rate()
        self.release()

    def note_rate(self) -> None:
        """Save the measured rate of this setup, for estimates."""
        rest = self._rest_seconds / self._clips if self._clips else None
        with suppress(OSError):
            note(self.setup, Rate(self.prefix_rate(), rest))

    def _with_room(self, stage: threading.Lock, work: Callable[[], T]) -> T:
        """Run `work`; if memory runs out, repeat it while the other thread waits."""
        try:
            with stage:
                return work()
        except Exception as error:
            if not isinstance(from_foreign(error), OutOfMemory):
                raise
        with self._denoising, self._decoding:
            free_memory()
            return work()

    def _seconds_since(self, began: float) -> float:
        """Return the elapsed time after synchronising the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic() - began


class ClipDenoiser(Denoiser):
    """A backbone that renders identities with at most one adapter at a time.

    The text encoder is released unless keyword vectors of the group need it.
    """

    def __init__(self, group: Group, report: Report, gigabytes: float) -> None:
        setup, vectors = group.setup, _most_vectors(group)
        model = locate_model(setup.model)
        negative = setup.sampler.negative_prompt
        report_cuts(model, group.prompts, negative, report, vectors=vectors)
        self.encodes = vectors > 0
        self.backbone: Backbone = load_backbone(
            model, setup.sampler, group.prompts, report=report, keep_text_encoder=self.encodes
        )
        super().__init__(setup, group.prompts, self.backbone.device)
        self._report, self._gigabytes = report, gigabytes
        self._start_at(setup)
        self._adapter: Adapter | None = None
        self._adapter_file = ""
        self._reported = set[str]()

    def renders(self, group: Group) -> bool:
        setup = group.setup
        same = (self.setup.model, self.setup.sampler) == (setup.model, setup.sampler)
        prepared = not setup.method.name and self.prompts.issuperset(group.prompts)
        return same and prepared and (self.encodes or not _most_vectors(group))

    def restart(self, setup: Setup) -> None:
        """Use another first active step. Raises InputRefused if no step has its noise level."""
        self.note_rate()
        self._start_at(setup)

    def _start_at(self, setup: Setup) -> None:
        self.first_step = sampling.first_active_step(self.backbone, setup.adapter)
        self.setup = setup
        self._cache = TrajectoryCache(
            trajectories_dir(), self.backbone, self.first_step, self._report, self._gigabytes
        )
        self._prefix_seconds, self._rest_seconds, self._clips = 0.0, 0.0, 0

    def prefix(self, prompt: str, seed: int) -> Latents:
        """Return the latents at the first active step, from the cache or computed."""
        began = time.monotonic()
        latents = self._with_room(self._denoising, lambda: self._cache.switch(prompt, seed))
        self._prefix_seconds += self._seconds_since(began)
        return latents

    def prefix_rate(self) -> float | None:
        prefixes = self._cache.computed
        return self._prefix_seconds / prefixes if prefixes else None

    def final(self, item: RenderItem, prefix: Latents | None) -> Latents:
        """Run the active steps with the clip's adapter. Raises InputRefused for a wrong one."""
        if not (item.adapter and item.strength):  # training may have cached this clip
            return self._cache.final(item.prompt, item.seed)
        assert prefix is not None, "each clip of a backbone has one"
        steps = range(self.first_step, self.backbone.num_steps)
        adapter = self._adapter_of(item)
        adapter.set_strength(item.strength)
        with torch.no_grad(), adapter.acting():
            embeds = self.backbone.prompt_embeds(item.prompt)
        return sampling.denoise(self.backbone, prefix, embeds, steps, adapter)

    def frames(self, latents: Latents) -> Frames:
        return self.backbone.decode(latents, range(self.backbone.num_frames))

    def release(self) -> None:
        del self.backbone, self._cache, self._adapter

    def _adapter_of(self, item: RenderItem) -> Adapter:
        if self._adapter is None or self._adapter_file != item.adapter:
            self._adapter_file = ""
            self._adapter = self._load(Path(item.adapter), item.adapter_sha256)
            self._adapter_file = item.adapter
            self._report_once(self._adapter, item)
        return self._adapter

    def _report_once(self, adapter: Adapter, item: RenderItem) -> None:
        """Report an adapter when it is loaded first: groups of clips load it again."""
        if item.adapter not in self._reported:
            self._reported.add(item.adapter)
            name = f"{item.run}@{item.step}" if item.run else Path(item.adapter).name
            self._report(adapter.loaded_event(name))

    def _load(self, file: Path, sha256: str) -> Adapter:
        backbone, before = self.backbone, self._adapter
        _check_adapter(file, sha256)
        vectors = vector_count(file) > 0
        shape = None if vectors else (read_rank(file), adapter_target(backbone, read_layers(file)))
        if isinstance(before, IdentityAdapter) and (before.rank, before.target) == shape:
            before.load(file, backbone.lora_layout)
            return before
        if before:
            before.remove()
            self._adapter = None
        if shape:
            return load_adapter(file, backbone.denoiser, shape[1], backbone.lora_layout)
        return load_vectors(file, backbone.prompt_encoder, backbone.lora_layout)


def _most_vectors(group: Group) -> int:
    """Return the largest number of keyword vectors in an adapter of the group; 0 for LoRAs."""
    adapters = {item.adapter for item in group.items if item.adapter}
    return max((vector_count(Path(adapter)) for adapter in adapters), default=0)


def free_memory() -> None:
    """Release torch's cached memory of the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _check_adapter(file: Path, sha256: str) -> None:
    if not file.is_file():
        raise WeightsMissing(str(file), "Its run or this checkpoint was deleted; use a newer one.")
    if cached_sha256(file) != sha256:
        raise InputRefused(
            f"The adapter {file} has changed since the batch was planned.",
            "Run the same command again.",
        )


def latents_path(item: RenderItem) -> Path:
    """Return the file that stores a clip's final latents while its files are written."""
    clip = Path(item.clip)
    return clip.with_name(f".{clip.name}.latents")


def keep_latents(path: Path, fingerprint: str, latents: Latents) -> None:
    """Write the latents to the file that `kept_latents` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    tensors = {"latents": latents.cpu().contiguous()}
    replace_file(path, save(tensors, metadata={"fingerprint": fingerprint}))


def kept_latents(path: Path, fingerprint: str) -> Latents | None:
    """Return the latents that an earlier attempt at the same clip stored, if they are valid."""
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        if metadata.get("fingerprint") != fingerprint:
            return None
        latents = load_file(path)["latents"]
    except (OSError, SafetensorError, KeyError):
        return None
    return latents if latents.isfinite().all() else None


def _sweep(latents: Path) -> None:
    """Remove partial files of a clip left by a killed process; this process holds the lease."""
    clip = latents.name.removeprefix(".").removesuffix(".latents")
    begun = (f".{clip}.json.", f".{latents.name}.")
    for found in os.scandir(latents.parent):
        if found.name.startswith(begun) and found.name.endswith(WRITING):
            Path(found).unlink(missing_ok=True)
