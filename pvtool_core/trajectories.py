"""The trajectory cache: results that do not depend on the adapter, shared by all jobs.

    <root>/KEY/switch.safetensors      latents at the adapter's first active step
               final.safetensors       final latents of the base model
               scores-ID.safetensors   semantic scores of the base model's frames, by one model
               faces-ID.safetensors    landmarks of the base model's faces, by one detector


KEY is a hash of everything that the trajectory depends on: base model and style LoRAs, sampler and
its settings, prompt, negative prompt, seed, size, number format, first active step, libraries and
kind of device. Cached values equal computed ones bit by bit: a run with the cache takes the same
steps as one without, and identities, runs and renders share it. Entries can be deleted at any time;
the least recently used are deleted when the cache exceeds its size limit.
"""

import copy
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pvtool_core.backbones import Backbone, Latents
from pvtool_core.errors import NO_ROOM, NotFinite
from pvtool_core.files import replace_file
from pvtool_core.sampling import denoise
from pvtool_core.store.events import Report, WarningEvent
from pvtool_core.store.trajectory_cache import Limit

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class FaceTrack:
    """The largest face of each frame: found or not, and landmarks in pixels (zeros if not)."""

    found: Bool[Tensor, " frames"]
    landmarks: Float[Tensor, "frames 5 2"]

    @property
    def frames(self) -> list[int]:
        """Indices of frames with a face."""
        return self.found.nonzero()[:, 0].tolist()


class TrajectoryCache:
    """Cache of adapter-free results; `first_step` is the first active step.

    Without a `root` nothing is stored.

    A `root` that cannot be written gives one warning: only time is lost.
    """

    def __init__(
        self,
        root: Path | None,
        backbone: Backbone,
        first_step: int,
        report: Report,
        gigabytes: float = 20.0,
    ) -> None:
        self._root, self._backbone, self._first_step, self._report = (
            root,
            backbone,
            first_step,
            report,
        )
        self._limit = Limit(root, round(gigabytes * 1e9)) if root else None
        self.computed = 0
        """Number of prefixes that were denoised and not read from the cache."""
        self._facts = {**backbone.facts(), "first_step": first_step}
        self._computing: Callable[[], AbstractContextManager[None]] = nullcontext

    def of_image_model(self) -> "TrajectoryCache":
        """Return the cache of the same model as an image model, with keys of its own."""
        images, backbone = copy.copy(self), self._backbone
        images.computed, images._computing = 0, backbone.as_image_model
        with backbone.as_image_model():
            images._facts = {**backbone.facts(), "first_step": self._first_step}
        return images

    def key(self, prompt: str, seed: int) -> str:
        facts = {**self._facts, "prompt": prompt, "seed": seed}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def switch(self, prompt: str, seed: int) -> Latents:
        """Return the latents at the first active step of the adapter."""

        def compute() -> Tensors:
            backbone, steps = self._backbone, range(self._first_step)
            embeds = backbone.prompt_embeds(prompt)
            self.computed += 1
            return {"latents": denoise(backbone, backbone.initial_latents(seed), embeds, steps)}

        return self._remember(prompt, seed, "switch", compute)["latents"].to(self._backbone.device)

    def final(self, prompt: str, seed: int) -> Latents:
        """Return the final latents of the base model."""

        def compute() -> Tensors:
            backbone, steps = self._backbone, range(self._first_step, self._backbone.num_steps)
            embeds = backbone.prompt_embeds(prompt)
            return {"latents": denoise(backbone, self.switch(prompt, seed), embeds, steps)}

        return self._remember(prompt, seed, "final", compute)["latents"].to(self._backbone.device)

    def measured(
        self, prompt: str, seed: int, what: str, by: str, measure: Callable[[Latents], Tensors]
    ) -> Tensors:
        """Return the result of `measure` for the base model's final latents.

        `by` identifies the parameters of `measure`.
        """
        name = f"{what}-{hashlib.sha256(by.encode()).hexdigest()[:16]}"
        return self._remember(prompt, seed, name, lambda: measure(self.final(prompt, seed)))

    def _remember(
        self, prompt: str, seed: int, name: str, compute: Callable[[], Tensors]
    ) -> Tensors:
        """Store tensors. Raises NotFinite, and stores nothing in that case."""
        kept = self._read_kept(prompt, seed, name)
        if kept is not None:
            return kept
        with self._computing():
            tensors = _on_disk(compute())
        if bad := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise NotFinite(f"{bad[0]} of the base model's clip of {prompt!r}, seed {seed},")
        self._keep(prompt, seed, name, tensors)
        return tensors

    def _read_kept(self, prompt: str, seed: int, name: str) -> Tensors | None:
        if self._root is None:
            return None
        path = self._root / self.key(prompt, seed) / f"{name}.safetensors"
        try:
            kept = _read(path)
        except FileNotFoundError:
            return None
        if kept is None:
            message = f"A cached trajectory is corrupt and is computed again: {path.name}."
            self._report(WarningEvent(message=message))
        with suppress(OSError):  # deleted meanwhile, or owned by another user
            os.utime(path)
        return kept

    def _keep(self, prompt: str, seed: int, name: str, tensors: Tensors) -> None:
        if self._root is None or self._limit is None:
            return
        path = self._root / self.key(prompt, seed) / f"{name}.safetensors"
        content = save({**tensors, "sha256": _digest(tensors)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)
            self._limit.added(len(content))
        except FileNotFoundError:  # another process is clearing the cache
            return
        except OSError as error:
            self._limit = None
            why = "the disk is full" if error.errno in NO_ROOM else error.strerror
            message = f"Trajectories are not cached in {self._root}: {why}."
            self._report(WarningEvent(message=message))


def _on_disk(tensors: Tensors) -> Tensors:
    return {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}


def _read(path: Path) -> Tensors | None:
    """Return the stored tensors, or None if the file is damaged or not finite."""
    try:
        tensors = {
            name: tensor.clone() for name, tensor in load_file(path).items()
        }  # out of the file, aligned
    except SafetensorError:
        return None
    digest = tensors.pop("sha256", None)
    if digest is None or not torch.equal(digest, _digest(tensors)):
        return None
    return tensors if all(tensor.isfinite().all() for tensor in tensors.values()) else None


def _digest(tensors: Tensors) -> Tensor:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        content = tensors[name].contiguous().flatten().view(torch.uint8)
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)} ".encode())
        digest.update(content.numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
