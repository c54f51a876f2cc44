"""Render batches of clips on engines, and collect the result of each clip."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pvtool_core.api.machine import check_devices, versions
from pvtool_core.api.outcome import ClipResults, OnClip, outcome_of
from pvtool_core.api.training import TrainingRun
from pvtool_core.api.watermarks import AUTO, watermark_of
from pvtool_core.batches.clips import file_names
from pvtool_core.batches.columns import parse_methods
from pvtool_core.batches.folder import BatchFolder, list_batches, new_batch, write_items
from pvtool_core.batches.plan import BatchPlan, Defaults, choices_of, plan, states
from pvtool_core.batches.rows import Row
from pvtool_core.batches.seed_tries import seed_step
from pvtool_core.errors import InputRefused
from pvtool_core.media.ffmpeg import require_formats
from pvtool_core.models.locate import locate_package
from pvtool_core.paths import batches_dir, check_utf8, runs_dir
from pvtool_core.rendering.results import Outcome
from pvtool_core.settings.jobs import (
    UNMARKED,
    EncodingConfig,
    RenderItem,
    RenderJob,
    Setup,
    TriesConfig,
    write_job,
)
from pvtool_core.settings.toml import Table, from_table
from pvtool_core.store.consent_checks import require_consent_to_render
from pvtool_core.store.events import ClipEvent, Event, ignore
from pvtool_core.store.identities import Identity
from pvtool_core.store.liveness import LIVE
from pvtool_core.store.prompts import check_prompt
from pvtool_core.store.runs import find_run
from pvtool_core.store.summary import job_of
from pvtool_core.store.weight_places import remember_places
from pvtool_core.supervisor import Engines, OnEvent, run_together

KEPT_BATCHES = 50
_BEGUN_SECONDS = 3600.0


def make_batch(
    items: Sequence[RenderItem], job: RenderJob, devices: Sequence[str] = ()
) -> BatchFolder:
    """Create the folder of a batch, with one worker per device, and delete old batches.

    Raises ConsentRefused, or FfmpegMissing or CodecMissing if this machine cannot write such clips.
    """
    for item in {(item.identity, item.folder, item.adapter): item for item in items}.values():
        require_consent_to_render(item)
    require_formats(job.encoding)
    if job.tries.min_likeness:
        check_face_models(job.setups)
    if not job.on:  # Ray's workers may be on machines with other devices
        check_devices(devices or [setup.model.device for setup in job.setups])
    drop_old_batches()
    remember_places(job.setups, items)
    batch = new_batch(batches_dir())
    write_items(batch.items, items)
    for number, device in enumerate(devices or [""]):
        folder = batch.worker(number)
        folder.path.mkdir(mode=0o700)
        own: dict[str, Any] = {
            "setups": _on(device, job.setups),
            "sheet": "" if number else job.sheet,
        }
        write_job(folder.config, dataclasses.replace(job, items=str(batch.items), **own))
    return batch


def check_face_models(setups: Sequence[Setup]) -> None:
    """Raise WeightsMissing, or InputRefused, if the likeness of clips cannot be measured."""
    for judge in {setup.likeness for setup in setups}:
        if not judge.package:
            raise InputRefused(
                "The likeness of these clips cannot be measured: their run was deleted.",
                "Add --run, or omit --min-likeness.",
            )
        locate_package(judge.package, (judge.detector, judge.recognizer))


def _on(device: str, setups: Sequence[Setup]) -> tuple[Setup, ...]:
    if not device:
        return tuple(setups)
    return tuple(
        dataclasses.replace(setup, model=dataclasses.replace(setup.model, device=device))
        for setup in setups
    )


def drop_old_batches() -> None:
    """Delete the records of all but the newest batches; clips are elsewhere."""
    for batch in list_batches(batches_dir())[: -KEPT_BATCHES + 1]:
        if not _is_begun_or_live(batch):
            # The tasks of a job array all delete the same ones.
            shutil.rmtree(batch.path, ignore_errors=True)


def _is_begun_or_live(batch: BatchFolder) -> bool:
    """Return whether a batch is in use: its engines live, or have not started yet."""
    with suppress(OSError):  # another process has just deleted it, or permission is denied
        if abs(time.time() - batch.items.lstat().st_mtime) < _BEGUN_SECONDS:
            return True
        return any(worker.state() in LIVE for worker in batch.workers())
    return False


class Rendering:
    """Clips that engine processes render; they continue if this process ends.

    Attributes:
        files: The files of all clips, in the order of prompts and seeds.
        batch: The folder of the batch; None if all clips exist.
    """

    def __init__(self, planned: BatchPlan, job: RenderJob, devices: Sequence[str] = ()) -> None:
        self.files = [
            Path(item.clip).with_name(name)
            for item in planned.items
            for name in file_names(item.clip, job.encoding)
        ]
        self._missing, self._planned = missing_clips(planned, job), len(planned.items)
        self.batch = (
            make_batch(self._missing, with_setups(job, planned), devices) if self._missing else None
        )
        self._engines = Engines(self.batch.workers() if self.batch else ()).start()

    def events(self) -> Iterator[Event]:
        """Yield the events of the engines as they come, until all have ended."""
        return self._engines.events()

    def wait(self) -> list[Path]:
        """Wait until the engines have ended; return `files`, which then all exist.

        Raises:
            SomeFailed: Some clips could not be rendered; the error of the clips if none could.
            Interrupted: The batch was stopped.
        """
        results = ClipResults(ignore)
        for event in self.events():
            if isinstance(event, ClipEvent):
                results.add(event)
        errors = self._engines.errors()
        outcome_of(
            self._engines.folders, errors, results, self._missing, self._planned
        ).raise_for_status()
        return self.files

    def stop(self) -> None:
        """Ask the engines to finish their current clips; `wait` then raises Interrupted."""
        self._engines.stop()


def render(
    run: TrainingRun | str,
    prompts: str | Iterable[str],
    out: str | Path,
    *,
    seeds: Iterable[int] = (0,),
    base: bool = False,
    base_model: str = "",
    strength: float = 1.0,
    start: float | None = None,
    start_sigma: float | None = None,
    overrides: Table | None = None,
    formats: Sequence[str] = ("mp4",),
    devices: Sequence[str] = (),
    overwrite: bool = False,
    likeness: bool = True,
    min_likeness: float = 0.0,
    max_tries: int = 4,
    watermark: str = AUTO,
) -> Rendering:
    """Start rendering a clip for each prompt and seed with the adapter of a run.

    Existing complete clips are skipped.

    Args:
        run: A training run or its name, `RUN@STEP` for the checkpoint of a step, or `RUN@best`.
        prompts: A prompt with the keyword `<V>`, or several; `{noun}` becomes the class noun.
        out: Output folder.
        seeds: Random seeds.
        base: Also render the base model, for comparison.
        base_model: Another base model of the same architecture: a folder, file or name.
        strength: Factor of the adapter; 0 is the base model, 1 the adapter as trained.
        start: Fraction of the denoising steps after which the adapter is active. [default: the
            run's]
        start_sigma: Noise level from which the adapter is active, instead of `start`.
        overrides: Settings of model and sampler that differ from the run's, as tables by section,
            for example `{"sampler": {"steps": 30}}`.
        formats: Output formats, by file suffix without the dot.
        devices: Devices such as `cuda:0`, with an engine on each. [default: the device of the run]
        overwrite: Render existing clips again.
        likeness: Measure the similarity of each clip's faces to the identity, for its sidecar.
        min_likeness: Render further seeds of each clip with the adapter until its mean likeness is
            reached; 0 renders none. All of them are kept, and `likeness` of the clip's event and
            sidecar names the best.
        max_tries: Largest number of seeds of a clip, with its own.
        watermark: Method of the invisible watermark: auto, spread or off.

    Raises:
        Missing: The run does not exist or has no checkpoint.
        ConsentRefused: The consent of the identity was revoked or has expired.
        BadPrompt, SettingsError: A prompt or a setting is invalid.
        BatchRefused: There are several such mistakes; the message lists them.
        WeightsMissing: Model weights are not installed.
    """
    name = run if isinstance(run, str) else run.name
    identity = job_of(find_run(runs_dir(), name.partition("@")[0])).identity
    choices = choices_of(
        {
            "base_model": base_model or None,
            "start": start,
            "start_sigma": start_sigma,
            "strength": strength,
        }
    )
    pairs = _pairs(overrides)
    defaults = Defaults(
        people=(identity.name,),
        seeds=tuple(seeds),
        runs=(name,),
        base=base,
        strengths=choices.strengths or (1.0,),
        settings=tuple(tuple(sorted((*pairs, *own))) for own in choices.settings),
    )
    target = Path(out).absolute()
    tries = from_table(
        TriesConfig, {"min_likeness": float(min_likeness), "max_tries": max_tries}, "render"
    )
    job = render_job(target, tuple(formats), overwrite, likeness or bool(min_likeness), watermark)
    job = dataclasses.replace(job, tries=tries)
    return Rendering(plan(_rows(prompts), defaults, target, job.encoding), job, devices)


def render_by_method(
    method: str,
    identity: Identity | str,
    prompts: str | Iterable[str],
    out: str | Path,
    *,
    seeds: Iterable[int] = (0,),
    base: bool = False,
    overrides: Table | None = None,
    formats: Sequence[str] = ("mp4",),
    devices: Sequence[str] = (),
    overwrite: bool = False,
    likeness: bool = True,
    watermark: str = AUTO,
) -> Rendering:
    """Start rendering a clip for each prompt and seed by an encoder method, without training.

    Existing complete clips are skipped.

    Args:
        method: `consisid` or `id-animator`.
        identity: An identity of the library, or its name.
        prompts: A prompt with the keyword `<V>`, or several; `{noun}` becomes the class noun.
        out: Output folder.
        seeds: Random seeds.
        base: Also render the base model of the method, for comparison.
        overrides: Settings of model and sampler that differ from the method's preset, as tables by
            section.
        formats: Output formats, by file suffix without the dot.
        devices: Devices such as `cuda:0`, with an engine on each. [default: that of the preset]
        overwrite: Render existing clips again.
        likeness: Measure the similarity of each clip's faces to the identity, for its sidecar.
        watermark: Method of the invisible watermark: auto, spread or off.

    Raises:
        Missing: The identity does not exist.
        UsageError: The method is unknown, or has no base model.
        NotReady: Packages that the method needs are not installed.
        BadPrompt, SettingsError: A prompt or a setting is invalid.
        WeightsMissing: Model weights are not installed.
    """
    defaults = Defaults(
        people=(identity if isinstance(identity, str) else identity.name,),
        seeds=tuple(seeds),
        methods=tuple(parse_methods(method)),
        base=base,
        settings=(tuple(sorted(_pairs(overrides))),),
    )
    target = Path(out).absolute()
    job = render_job(target, tuple(formats), overwrite, likeness, watermark)
    return Rendering(plan(_rows(prompts), defaults, target, job.encoding), job, devices)


def _pairs(overrides: Table | None) -> tuple[tuple[str, Any], ...]:
    """Return tables of settings by section as `section.key` and value."""
    return tuple(
        (f"{section}.{key}", value)
        for section, table in (overrides or {}).items()
        for key, value in table.items()
    )


def _rows(prompts: str | Iterable[str]) -> list[Row]:
    texts = [prompts] if isinstance(prompts, str) else prompts
    return [Row(prompt=check_prompt(text)) for text in texts]


def render_job(
    out: Path,
    formats: tuple[str, ...] = ("mp4",),
    overwrite: bool = False,
    likeness: bool = True,
    watermark: str = UNMARKED,
) -> RenderJob:
    """Return a job without clips and setups.

    Raises SettingsError for unknown formats, UsageError for an unknown watermark.
    """
    table: Table = {"formats": list(formats), "watermark": watermark_of(watermark)}
    encoding = from_table(EncodingConfig, table, "render")
    return RenderJob(
        items="",
        setups=(),
        out=str(check_utf8(out)),
        encoding=encoding,
        overwrite=overwrite,
        likeness=likeness,
        versions=versions(),
    )


def with_setups(job: RenderJob, planned: BatchPlan) -> RenderJob:
    """Return the job with the setups of the plan, and seeds for tries that it does not contain.

    Raises UsageError for seeds that are too large for them.
    """
    tries = job.tries
    if tries.min_likeness:
        step = seed_step(planned.largest_seed, tries.max_tries)
        tries = dataclasses.replace(tries, seed_step=step)
    return dataclasses.replace(job, setups=tuple(planned.setups), tries=tries)


def missing_clips(planned: BatchPlan, job: RenderJob) -> list[RenderItem]:
    """Return the clips to render; a contact sheet needs an engine for all of them."""
    return [
        item
        for item, state in zip(planned.items, states(planned, job.encoding, job.tries), strict=True)
        if job.overwrite or job.sheet or state != "there"
    ]


def render_missing(
    planned: BatchPlan,
    job: RenderJob,
    on_event: OnEvent,
    *,
    devices: Sequence[str] = (),
    on_clip: OnClip = ignore,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Render the missing clips of a plan to the end, on an engine for each of `devices`."""
    missing = missing_clips(planned, job)
    if not missing:
        return Outcome(total=len(planned.items))
    batch = make_batch(missing, with_setups(job, planned), devices)
    return run_batch(batch, missing, on_event, on_clip, len(planned.items), stop)


def run_batch(
    batch: BatchFolder,
    items: Sequence[RenderItem],
    on_event: OnEvent,
    on_clip: OnClip,
    planned: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Render the clips of a batch to the end, forwarding signals as `run_to_end` does.

    `items` are the missing ones of `planned` clips (0: of these). Raises Interrupted once `stop`
    is true.
    """
    results = ClipResults(on_clip)

    def on_any(event: Event) -> None:
        if isinstance(event, ClipEvent):
            results.add(event)
        else:
            on_event(event)

    engines = batch.workers()
    errors = run_together(engines, on_any, stop)
    return outcome_of(engines, errors, results, items, planned)
