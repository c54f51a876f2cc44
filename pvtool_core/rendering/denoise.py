"""A loaded model that denoises clips, one at a time.

Clips of one prompt and seed share the prefix, the steps before the adapter is active, through the
trajectory cache, for all identities.
"""

import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from pvtool_core import sampling
from pvtool_core.adapter import IdentityAdapter, load_adapter, read_layers, read_rank
from pvtool_core.backbones import Backbone, Latents, load_backbone
from pvtool_core.backbones.interface import adapter_target, to_pixels
from pvtool_core.batches.folder import Group
from pvtool_core.batches.rates import Rate, note
from pvtool_core.errors import (
    InputRefused,
    Interrupted,
    OutOfMemory,
    PvError,
    WeightsMissing,
    from_foreign,
)
from pvtool_core.files import WRITING, replace_file
from pvtool_core.hashes import cached_sha256
from pvtool_core.media.decode import Pixels
from pvtool_core.models.locate import locate_model
from pvtool_core.models.prompt_limits import report_cuts
from pvtool_core.paths import trajectories_dir
from pvtool_core.rendering.likeness_scorer import LikenessScorer
from pvtool_core.rendering.results import Results
from pvtool_core.settings.jobs import RenderItem, Setup
from pvtool_core.store.consent_checks import require_consent_to_render
from pvtool_core.store.events import Report, StageEvent
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
    denoiser: "ClipDenoiser"
    first_step: int
    seconds: float = 0.0

    def decode(self) -> Pixels:
        """Store the latents and return every frame."""
        keep_latents(self.kept, self.fingerprint, self.latents)
        return self.denoiser.decode(self.latents)


def denoise(
    groups: Iterable[Group], models: "Models", results: Results, wait: Callable[[], None]
) -> Iterator[DenoisedClip]:
    """Yield the final latents of each clip, and report clips that fail.

    If a model cannot be loaded, all clips of its setup fail. `wait` waits until yielded clips are
    decoded.
    """
    errors: dict[Setup, PvError] = {}
    for group in groups:
        denoiser = models.get(group.setup, group.prompts)
        if denoiser is None and group.setup not in errors:
            wait()  # clips being decoded need the model that is released
            try:
                denoiser = models.load(group.setup, group.prompts)
            except Interrupted:
                raise
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                errors[group.setup] = from_foreign(error).with_traceback(None)  # frees tensors
            results.progress()
        if denoiser:
            yield from denoiser.denoise(group, results)
        else:
            for item in group.items:
                results.failed(item, errors[group.setup])


class ClipDenoiser:
    """The model of one setup, loaded for `prompts`, with at most one adapter.

    One thread may denoise while another one decodes. If the memory is too small for both, they
    alternate.
    """

    def __init__(
        self, setup: Setup, prompts: Sequence[str], report: Report, gigabytes: float
    ) -> None:
        model = locate_model(setup.model)
        report_cuts(model, prompts, setup.sampler.negative_prompt, report)
        self.prompts = frozenset(prompts)
        self.backbone: Backbone = load_backbone(model, setup.sampler, prompts, report=report)
        self._report, self._gigabytes = report, gigabytes
        self.start_at(setup)
        self._adapter: IdentityAdapter | None = None
        self._adapter_file = ""
        self._report, self._reported = report, set[str]()
        self._denoising, self._decoding = threading.Lock(), threading.Lock()

    def differs_in_start(self, setup: Setup, prompts: Sequence[str]) -> bool:
        """Return whether this model can render a setup after `start_at`."""
        same = (self.setup.model, self.setup.sampler) == (setup.model, setup.sampler)
        return same and self.prompts.issuperset(prompts)

    def start_at(self, setup: Setup) -> None:
        """Use the first active step of a setup with the same model and sampler.

        Raises InputRefused if no step has its noise level.
        """
        self.first_step = sampling.first_active_step(self.backbone, setup.adapter)
        self.setup = setup
        self._cache = TrajectoryCache(
            trajectories_dir(), self.backbone, self.first_step, self._report, self._gigabytes
        )
        self._prefix_seconds, self._rest_seconds, self._clips = 0.0, 0.0, 0

    def denoise(self, group: Group, results: Results) -> Iterator[DenoisedClip]:
        """Yield the latents of each clip, first those stored by an earlier attempt.

        Clips that fail are reported, and so are those of identities without valid consent.
        """
        missing: list[RenderItem] = []
        for item in group.items:
            try:
                require_consent_to_render(item)
            except PvError as error:
                results.failed(item, error)
                continue
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
                latents = self.finish(item, prefix)
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

    def prefix(self, prompt: str, seed: int) -> Latents:
        """Return the latents at the first active step, from the cache or computed."""
        began = time.monotonic()
        latents = self._with_room(self._denoising, lambda: self._cache.switch(prompt, seed))
        self._prefix_seconds += self._seconds_since(began)
        return latents

    def finish(self, item: RenderItem, prefix: Latents) -> Latents:
        """Run the active steps with the clip's adapter. Raises InputRefused for a wrong one."""
        began = time.monotonic()
        latents = self._with_room(self._denoising, lambda: self._final(item, prefix))
        self._rest_seconds += self._seconds_since(began)
        self._clips += 1
        return latents

    def _final(self, item: RenderItem, prefix: Latents) -> Latents:
        if not (item.adapter and item.strength):  # training may have cached this clip
            return self._cache.final(item.prompt, item.seed)
        steps = range(self.first_step, self.backbone.num_steps)
        embeds = self.backbone.prompt_embeds(item.prompt)
        adapter = self._adapter_of(item)
        adapter.set_strength(item.strength)
        return sampling.denoise(self.backbone, prefix, embeds, steps, adapter)

    @torch.no_grad()
    def decode(self, latents: Latents) -> Pixels:
        """Return every frame of a clip."""
        frames = range(self.backbone.num_frames)
        return self._with_room(
            self._decoding,
            lambda: to_pixels(self.backbone.decode(latents.to(self.backbone.device), frames)),
        )

    def close(self) -> None:
        """Save the measured rate and release the model, even if this object is still referenced."""
        self.note_rate()
        del self.backbone, self._cache, self._adapter

    def note_rate(self) -> None:
        """Save the measured rate of this setup, for estimates."""
        prefixes = self._cache.computed
        prefix = self._prefix_seconds / prefixes if prefixes else None
        rest = self._rest_seconds / self._clips if self._clips else None
        with suppress(OSError):
            note(self.setup, Rate(prefix, rest))

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
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize(self.backbone.device)
        return time.monotonic() - began

    def _adapter_of(self, item: RenderItem) -> IdentityAdapter:
        if self._adapter is None or self._adapter_file != item.adapter:
            self._adapter_file = ""
            self._adapter = self._load(Path(item.adapter), item.adapter_sha256)
            self._adapter_file = item.adapter
            self._report_once(self._adapter, item)
        return self._adapter

    def _report_once(self, adapter: IdentityAdapter, item: RenderItem) -> None:
        """Report an adapter when it is loaded first: groups of clips load it again."""
        if item.adapter not in self._reported:
            self._reported.add(item.adapter)
            name = f"{item.run}@{item.step}" if item.run else Path(item.adapter).name
            self._report(adapter.loaded_event(name))

    def _load(self, file: Path, sha256: str) -> IdentityAdapter:
        backbone = self.backbone
        _check_adapter(file, sha256)
        shape = (read_rank(file), adapter_target(backbone, read_layers(file)))
        if self._adapter and (self._adapter.rank, self._adapter.target) == shape:
            self._adapter.load(file, backbone.lora_layout)
            return self._adapter
        if self._adapter:
            self._adapter.remove()
            self._adapter = None
        return load_adapter(file, backbone.denoiser, shape[1], backbone.lora_layout)


class Models:
    """Keeps one model loaded until clips of another setup or of other prompts follow.

    `scorer` keeps the face models of all setups.
    """

    def __init__(self, report: Report, cache_gigabytes: float) -> None:
        self.scorer = LikenessScorer()
        self._report, self._gigabytes = report, cache_gigabytes
        self._loaded: ClipDenoiser | None = None

    def get(self, setup: Setup, prompts: Sequence[str]) -> ClipDenoiser | None:
        """Return the model if it is loaded for this setup and these prompts."""
        loaded = self._loaded
        if loaded and loaded.setup == setup and loaded.prompts.issuperset(prompts):
            return loaded
        return None

    def load(self, setup: Setup, prompts: Sequence[str]) -> ClipDenoiser:
        """Load the model for these prompts in place of the previous one.

        It stays loaded if only the first active step differs. Raises WeightsMissing, InputRefused.
        """
        loaded = self._loaded
        if loaded and loaded.differs_in_start(setup, prompts):
            loaded.note_rate()
            loaded.start_at(setup)
            return loaded
        self.close()  # the memory may be too small for both
        free_memory()
        self._report(StageEvent(stage="loading"))
        self._loaded = ClipDenoiser(setup, prompts, self._report, self._gigabytes)
        return self._loaded

    def close(self) -> None:
        """Release the model."""
        if self._loaded:
            self._loaded.close()
        self._loaded = None

    def __enter__(self) -> "Models":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
