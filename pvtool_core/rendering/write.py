"""Write clips from their final latents in background threads, while the next is denoised."""

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pvtool_core.batches.clips import (
    METHOD_PLACES,
    method_facts,
    model_facts,
    write_sidecar,
)
from pvtool_core.media.decode import Pixels
from pvtool_core.media.encode import write_clip
from pvtool_core.rendering.denoise import DenoisedClip
from pvtool_core.rendering.likeness_scorer import LikenessScorer
from pvtool_core.rendering.results import Results
from pvtool_core.settings.jobs import UNMARKED, RenderItem, RenderJob, Setup
from pvtool_core.store.clip_likeness import ClipLikeness
from pvtool_core.store.clip_watermark import ClipWatermark
from pvtool_core.store.consent_checks import CONSENT_KEY, SCOPE_KEY

_WAITING = 3  # clips with latents or frames in memory at the same time


class Writer:
    """Decodes, encodes, scores and describes clips, and reports each as done or failed.

    On a CPU, decoding happens in the caller's thread: a second one would only share the cores.
    """

    def __init__(self, job: RenderJob, results: Results, scorer: LikenessScorer) -> None:
        self._job, self._results, self._scorer = job, results, scorer
        self._decoding = ThreadPoolExecutor(1, "decoding")
        self._encoding = ThreadPoolExecutor(2, "encoding")
        self._room = threading.BoundedSemaphore(_WAITING)
        # Older futures have finished: their number is limited.
        self._begun: deque[Future[None]] = deque(maxlen=8 * _WAITING)

    def put(self, clip: DenoisedClip) -> None:
        """Write a clip in the background; wait while several are being written."""
        self._room.acquire()
        if clip.denoiser.device.type == "cpu":
            self._decode(clip, time.monotonic())
        else:
            self._begun.append(self._decoding.submit(self._decode, clip, time.monotonic()))

    def _decode(self, clip: DenoisedClip, began: float) -> None:
        try:
            pixels = clip.decode()
        except BaseException as error:
            self._end(clip, began, error)
        else:
            self._begun.append(self._encoding.submit(self._encode, clip, pixels, began))

    def _encode(self, clip: DenoisedClip, pixels: Pixels, began: float) -> None:
        try:
            pixels, watermark = mark_if_wanted(self._job, clip, pixels)
            likeness = self._score(clip.item, pixels)
            write(self._job, clip, pixels, likeness, watermark, began)
        except BaseException as error:
            self._end(clip, began, error)
        else:
            self._end(clip, began, likeness=likeness, watermark=watermark)

    def _score(self, item: RenderItem, pixels: Pixels) -> ClipLikeness | None:
        if not self._job.likeness:
            return None
        setup = self._job.setups[item.setup]
        return self._scorer.measure(item, setup, pixels, self._results.warn)

    def _end(
        self,
        clip: DenoisedClip,
        began: float,
        error: BaseException | None = None,
        likeness: ClipLikeness | None = None,
        watermark: ClipWatermark | None = None,
    ) -> None:
        self._room.release()
        seconds = time.monotonic() - began
        if error:
            self._results.failed(clip.item, error, seconds)
        else:
            self._results.done(clip.item, "done", clip.seconds + seconds, likeness, watermark)

    def wait(self) -> None:
        """Wait until every clip is written or has failed."""
        while self._begun:
            self._begun.popleft().result()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._decoding.shutdown()
        self._encoding.shutdown()


def mark_if_wanted(
    job: RenderJob, clip: DenoisedClip, pixels: Pixels
) -> tuple[Pixels, ClipWatermark | None]:
    """Return the frames with the watermark of the job, if any, and its record."""
    method = job.encoding.watermark
    if method == UNMARKED:
        return pixels, None
    from pvtool_core.watermark.watermark_methods import mark  # loads scipy

    return mark(pixels, method, clip.fingerprint)


def write(
    job: RenderJob,
    clip: DenoisedClip,
    pixels: Pixels,
    likeness: ClipLikeness | None,
    watermark: ClipWatermark | None,
    began: float,
) -> None:
    """Write the clip's files, then its sidecar.

    `began` is the start of its rendering, by the monotonic clock.
    """
    item, path = clip.item, Path(clip.item.clip)
    facts = clip_facts(job, item)
    if watermark:
        facts["watermark"] = watermark.facts()
    write_clip(path, pixels, job.setups[item.setup].model.fps, facts, job.encoding)
    places = {
        "adapter": Path(item.adapter).name,
        "adapter_base": Path(item.adapter_base).name,
        "adapter_first_step": clip.first_step if item.adapter else None,
        **_weights(job, item),
    }
    times = {"created": time.time(), "seconds": round(time.monotonic() - began, 3)}
    # Before the sidecar: no process removes the latents of a complete clip.
    clip.kept.unlink(missing_ok=True)
    measured = {"likeness": likeness.record()} if likeness else {}
    if watermark:
        measured["watermark"] = watermark.record()
    write_sidecar(path, clip.fingerprint, job.encoding, {**facts, **places, **times, **measured})


def clip_facts(job: RenderJob, item: RenderItem) -> dict[str, Any]:
    """Return everything needed to render the clip again, without paths of this machine."""
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
        "adapter_start_sigma": (setup.adapter.start_sigma or None) if item.adapter else None,
        "adapter_base_fingerprint": item.adapter_base_fingerprint,
        "strength": item.strength if item.adapter else None,
        **_encoder_facts(item, setup),
        "model": model_facts(setup.model),
        "sampler": asdict(setup.sampler),
        "upscale": {"factor": job.encoding.upscale, "filter": "nearest"},
        "versions": dict(job.versions),
        **({SCOPE_KEY: item.scope} if item.scope else {}),
        **({CONSENT_KEY: item.consent} if item.consent else {}),
    }


def _encoder_facts(item: RenderItem, setup: Setup) -> dict[str, Any]:
    """Return the encoder method and its photos; nothing for clips of adapters and base models."""
    if not item.reference:
        return {}
    return {"method": method_facts(setup.method), "reference": item.reference}


def _weights(job: RenderJob, item: RenderItem) -> dict[str, Any]:
    """Return the names of the files of weights; their paths stay in the data folder.

    They are found there by their hashes: see weight_places.py.
    """
    model, method = job.setups[item.setup].model, job.setups[item.setup].method
    loras = [Path(lora.file).name for lora in model.loras]
    control = {
        "model": Path(model.control.model).name,
        "frames": Path(model.control.frames).name,
    }
    parts = {
        "motion_adapter": Path(model.motion_adapter).name,
        "config": Path(model.config).name,
    }
    places: dict[str, Any] = {**parts, "loras": loras, "control": control}
    if item.reference:
        places["method"] = {name: Path(getattr(method, name)).name for name in METHOD_PLACES}
    return {"base_model": Path(model.base_model).name, "places": places}
