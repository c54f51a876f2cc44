"""Renders a batch of clips: what is there is left alone, what fails does not stop the others.

Clips that share base model, prompt and seed share the adapter-free part of their denoising through the trajectory
cache. A clip's final latents are kept beside it until its files are whole, so that a failed decode costs no denoising.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from pvtool_core.adapter import IdentityAdapter, load_adapter, switch_step
from pvtool_core.backbones import Backbone, Latents, load_backbone
from pvtool_core.clips import BASE, is_whole, model_facts, sidecar_path, write_sidecar
from pvtool_core.config import RenderItem, RenderJob
from pvtool_core.errors import Interrupted, OutOfResources, PvError, SomeFailed, WeightsMissing, from_foreign
from pvtool_core.media import Frames, enlarge, to_pixels, write_clip
from pvtool_core.paths import cache_dir, replace_file
from pvtool_core.runs import sha256_of
from pvtool_core.sampling import denoise
from pvtool_core.trajectories import TrajectoryCache

Report = Callable[..., None]


def render(job: RenderJob, report: Report) -> None:
    """Make every clip of the job, telling of each.

    Raises SomeFailed if some could not be made, the error itself if none could, and at once what would end the others
    too: a full disk or memory, or a request to stop.
    """
    report("stage", stage="loading")
    renderer = Renderer(job, report)
    errors: list[PvError] = []
    for number, item in enumerate(sorted(job.items, key=lambda item: item.adapter)):
        report("stage", stage="rendering", done=number, total=len(job.items))
        with telling(item, report, errors) as facts:
            facts["status"] = "done" if renderer.make(item) else "skipped"
    report("stage", stage="rendering", done=len(job.items), total=len(job.items))
    if errors:
        raise errors[0] if len(errors) == len(job.items) else SomeFailed(len(errors), len(job.items))


@contextmanager
def telling(item: RenderItem, report: Report, errors: list[PvError]) -> Generator[dict[str, Any]]:
    """Time what happens to an item, report it, and take an error that concerns this item alone into `errors`."""
    began = time.monotonic()
    name = item.identity if item.adapter else BASE
    facts = {"path": item.clip, "identity": name, "prompt": item.prompt, "seed": item.seed}
    try:
        yield facts
    except Exception as error:
        known = from_foreign(error)
        if isinstance(known, OutOfResources | Interrupted):
            raise
        traceback.print_exc(file=sys.stderr)
        errors.append(known)
        facts |= {"status": "failed", "reason": known.message}
    report("clip", **facts, seconds=round(time.monotonic() - began, 3))


class Renderer:
    """The loaded model with at most one adapter in it."""

    def __init__(self, job: RenderJob, report: Report) -> None:
        self.job = job
        prompts = tuple(dict.fromkeys(item.prompt for item in job.items))
        self.backbone = load_backbone(job.model, job.sampler, prompts)
        self.first_step = switch_step(job.adapter.start, job.sampler.num_inference_steps)
        self.cache = TrajectoryCache(cache_dir() / "trajectories", self.backbone, self.first_step, report)
        self._adapter: IdentityAdapter | None = None
        self._adapter_file = ""

    def make(self, item: RenderItem) -> bool:
        """Make a clip, unless it is there, whole, and made in the same way; say whether it was made."""
        clip, facts = Path(item.clip), pixel_facts(self.job, item)
        if not self.job.overwrite and is_whole(clip, self.job.formats) and recorded(clip, facts):
            return False
        clip.parent.mkdir(parents=True, exist_ok=True)
        began = time.time()
        kept = clip.with_name(f".{clip.name}.latents")
        latents = read_latents(kept, facts)
        if latents is None:
            latents = self.latents(item)
            replace_file(kept, save({"latents": latents.cpu().contiguous()}, metadata={"facts": as_text(facts)}))
        frames = enlarge(decode(self.backbone, latents.to(self.backbone.device)), self.job.upscale)
        for suffix in self.job.formats:
            write_clip(clip.with_name(f"{clip.name}.{suffix}"), frames, self.job.model.fps, facts)
        places = {"adapter": item.adapter, "base_model": self.job.model.base_model}
        times = {"created": began, "seconds": round(time.time() - began, 3)}
        write_sidecar(clip, self.job.formats, {**facts, **places, **times})
        kept.unlink()
        return True

    def latents(self, item: RenderItem) -> Latents:
        """A clip's final latents."""
        if not item.adapter:
            return self.cache.final(item.prompt, item.seed)
        adapter = self._loaded(item.adapter)
        steps = range(self.first_step, self.backbone.num_steps)
        embeds = self.backbone.prompt_embeds(item.prompt)
        return denoise(self.backbone, self.cache.switch(item.prompt, item.seed), embeds, steps, adapter)

    def _loaded(self, file: str) -> IdentityAdapter:
        if self._adapter is None or self._adapter_file != file:
            if self._adapter:
                self._adapter.remove()
                self._adapter = None
            backbone = self.backbone
            self._adapter = load_adapter(Path(file), backbone.denoiser, backbone.lora_target, backbone.lora_layout)
            self._adapter_file = file
        return self._adapter


@torch.no_grad()
def decode(backbone: Backbone, latents: Latents) -> Frames:
    """Every frame of a clip, as pixels."""
    return to_pixels(backbone.decode(latents, range(backbone.num_frames)))


def pixel_facts(job: RenderJob, item: RenderItem) -> dict[str, Any]:
    """All that is needed to make a clip again, and nothing about the machine: it travels inside the file.

    Raises WeightsMissing if the adapter is gone.
    """
    if item.adapter and not Path(item.adapter).is_file():
        raise WeightsMissing(item.adapter, "Its run was removed or has dropped that checkpoint; render a newer one.")
    return {
        "schema": "pv clip 1",
        "generated_by_ai": True,
        "identity": item.identity,
        "prompt": item.prompt,
        "seed": item.seed,
        "run": item.run,
        "step": item.step,
        "adapter_sha256": sha256_of(Path(item.adapter)) if item.adapter else "",
        "adapter_start": job.adapter.start if item.adapter else None,
        "model": model_facts(job.model),
        "sampler": asdict(job.sampler),
        "upscale": {"factor": job.upscale, "filter": "nearest"},
        "versions": dict(job.versions),
    }


def recorded(clip: Path, facts: dict[str, Any]) -> bool:
    """Whether the sidecar of a whole clip tells of the same clip; under other versions it still is."""
    record = json.loads(sidecar_path(clip).read_bytes())
    told = {"model", "sampler", "prompt", "seed", "adapter_sha256", "adapter_start", "upscale"}
    return all(record.get(key) == facts[key] for key in told)


def as_text(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True)


def read_latents(path: Path, facts: dict[str, Any]) -> Latents | None:
    """What an interrupted or failed attempt at the same clip left, if it is there and whole."""
    try:
        with safe_open(path, "pt") as file:
            same = (file.metadata() or {}).get("facts") == as_text(facts)
        return load_file(path)["latents"] if same else None
    except (FileNotFoundError, SafetensorError):
        return None
