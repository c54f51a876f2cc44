"""From final latents to files, in threads of its own: while a clip is encoded the next one is denoised."""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from pvtool_core.batches.clips import model_facts, sidecar_path, write_sidecar
from pvtool_core.errors import OutOfMemory, from_foreign
from pvtool_core.files import replace_file
from pvtool_core.media.decode import Pixels
from pvtool_core.media.encode import write_clip
from pvtool_core.rendering.denoise import ClipDenoiser, DenoisedClip, free_memory
from pvtool_core.settings.jobs import RenderItem, RenderJob
from pvtool_core.settings.schema import ModelConfig

Done = Callable[[BaseException | None], None]

_WAITING = 3  # clips whose frames or latents are kept in memory at once


class Writer:
    """Decodes, encodes and describes clips. On a CPU decoding is done at once: two threads would only share it."""

    def __init__(self, job: RenderJob) -> None:
        self._job = job
        self._decoding = ThreadPoolExecutor(1, "decoding")
        self._encoding = ThreadPoolExecutor(2, "encoding")
        self._room = threading.BoundedSemaphore(_WAITING)
        self._begun: deque[Future[Any]] = deque(
            maxlen=8 * _WAITING
        )  # the older ones have ended, or there was no room
        self.device_in_use = threading.Lock()
        """Held by whoever denoises; a decoding that found the memory full waits for it and tries again."""

    def submit(self, maker: ClipDenoiser, made: DenoisedClip, fingerprint: str, done: Done) -> None:
        """Finish a clip, and then call `done` with what went wrong, from whatever thread. Waits if many are waiting."""
        self._room.acquire()
        work = _Work(self._job, maker, made, fingerprint)
        if maker.backbone.device.type == "cpu":
            self._decode(work, done)
        else:
            self._begun.append(self._decoding.submit(self._decode, work, done))

    def _decode(self, work: "_Work", done: Done) -> None:
        try:
            work.keep()
            work.decode(self.device_in_use)
        except BaseException as error:
            self._over(done, error)
        else:
            self._begun.append(self._encoding.submit(self._encode, work, done))

    def _encode(self, work: "_Work", done: Done) -> None:
        try:
            work.encode()
        except BaseException as error:
            self._over(done, error)
        else:
            self._over(done, None)

    def _over(self, done: Done, error: BaseException | None) -> None:
        self._room.release()
        done(error)

    def wait(self) -> None:
        """Until everything submitted is finished. Raises what `done` raised."""
        while self._begun:
            self._begun.popleft().result()

    def busy(self) -> bool:
        """Whether something submitted is not finished."""
        return any(not future.done() for future in list(self._begun))

    def close(self) -> None:
        """Finish what was submitted, and no more."""
        self._decoding.shutdown()
        self._encoding.shutdown()


class _Work:
    """One clip on its way."""

    def __init__(
        self, job: RenderJob, maker: ClipDenoiser, made: DenoisedClip, fingerprint: str
    ) -> None:
        self._job, self._maker, self._made, self._fingerprint = job, maker, made, fingerprint
        self._clip, self._began = Path(made.item.clip), time.time()
        self._frames: Pixels | None = None

    def keep(self) -> None:
        """Keep the latents until the clip is whole, so that a failed decode costs no denoising."""
        self._clip.parent.mkdir(parents=True, exist_ok=True)
        _sweep(self._clip)
        widths = json.dumps(self._made.widths)
        tensors = {"latents": self._made.latents.cpu().contiguous()}
        facts = {"fingerprint": self._fingerprint, "widths": widths}
        replace_file(latents_path(self._clip), save(tensors, metadata=facts))

    def decode(self, device_in_use: threading.Lock) -> None:
        latents = self._made.latents.to(self._maker.backbone.device)
        try:
            self._frames = self._maker.decode(latents)
        except Exception as error:
            if (
                not isinstance(from_foreign(error), OutOfMemory)
                or self._maker.backbone.device.type == "cpu"
            ):
                raise
        if self._frames is None:
            with device_in_use:
                free_memory()
                self._frames = self._maker.decode(latents)

    def encode(self) -> None:
        assert self._frames is not None, "decoded before"
        job, item = self._job, self._made.item
        facts = clip_facts(job, item, self._made.widths)
        write_clip(self._clip, self._frames, _model_of(job, item).fps, facts, job.encoding)
        places = {"adapter": item.adapter, **_places(job, item)}
        times = {"created": time.time(), "seconds": round(time.time() - self._began, 3)}
        latents_path(self._clip).unlink(
            missing_ok=True
        )  # first: nobody looks for it beside a clip that is whole
        write_sidecar(self._clip, self._fingerprint, job.encoding, {**facts, **places, **times})


def clip_facts(job: RenderJob, item: RenderItem, widths: tuple[int, int]) -> dict[str, Any]:
    """All that is needed to make a clip again, and nothing about the machine: it travels inside the file."""
    setup = job.setups[item.setup]
    return {
        "schema": "pv clip 2",
        "generated_by_ai": True,
        "identity": item.identity,
        "prompt": item.prompt,
        "seed": item.seed,
        "run": item.run,
        "step": item.step,
        "adapter_sha256": item.adapter_sha256,
        "adapter_start": setup.adapter.start if item.adapter else None,
        "model": model_facts(setup.model),
        "sampler": asdict(setup.sampler),
        "widths": list(widths),
        "upscale": {"factor": job.encoding.upscale, "filter": "nearest"},
        "versions": dict(job.versions),
    }


def _model_of(job: RenderJob, item: RenderItem) -> ModelConfig:
    return job.setups[item.setup].model


def _places(job: RenderJob, item: RenderItem) -> dict[str, Any]:
    """Where the weights lay, for whoever makes the clip again on this machine."""
    model = _model_of(job, item)
    loras = [lora.file for lora in model.loras]
    control = {"model": model.control.model, "frames": model.control.frames}
    parts = {"motion_adapter": model.motion_adapter, "config": model.config}
    return {"base_model": model.base_model, "places": {**parts, "loras": loras, "control": control}}


def latents_path(clip: Path) -> Path:
    return clip.with_name(f".{clip.name}.latents")


def _sweep(clip: Path) -> None:
    """Remove what a process that was killed had begun to write beside a clip; the clip is ours now."""
    begun = (f".{sidecar_path(clip).name}.", f".{latents_path(clip).name}.")
    for found in os.scandir(clip.parent):
        if found.name.startswith(begun) and found.name.endswith(".writing"):
            Path(found).unlink(missing_ok=True)


def kept_latents(item: RenderItem, fingerprint: str) -> DenoisedClip | None:
    """What an interrupted or failed attempt at the same clip left, if it is there and whole."""
    path = latents_path(Path(item.clip))
    try:
        with safe_open(path, "pt") as file:
            facts: dict[str, str] = file.metadata() or {}
        if facts.get("fingerprint") != fingerprint:
            return None
        switch, tail = json.loads(facts["widths"])
        latents = load_file(path)["latents"]
        return DenoisedClip(item, latents, (switch, tail)) if latents.isfinite().all() else None
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
