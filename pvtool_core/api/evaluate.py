"""Evaluate: render the evaluation prompts of a run, and score clips of pv and of other programs."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pvtool_core.api.batch import render_job, render_missing
from pvtool_core.api.machine import check_devices
from pvtool_core.api.training import TrainingRun
from pvtool_core.batches.clip_methods import methods_of
from pvtool_core.batches.clips import read_clip_record, shows_identity
from pvtool_core.batches.plan import BatchPlan, Defaults, plan
from pvtool_core.batches.rates import scoring_seconds
from pvtool_core.batches.rows import Row
from pvtool_core.errors import Missing, UsageError
from pvtool_core.models.locate import locate_rewards
from pvtool_core.paths import exists, runs_dir
from pvtool_core.settings.formats import FORMATS
from pvtool_core.settings.jobs import (
    ADAPTER_METHOD,
    BASE_METHOD,
    REPORT,
    STEP_METHOD,
    ClipFile,
    EvaluateJob,
    IdentityRef,
)
from pvtool_core.settings.schema import Settings
from pvtool_core.store.clip_likeness import likeness_in
from pvtool_core.store.evaluation_report import EVALUATION
from pvtool_core.store.events import ignore
from pvtool_core.store.identities import Library
from pvtool_core.store.prompts import Banks
from pvtool_core.store.runs import RunFolder, checkpoint_step, find_run
from pvtool_core.store.summary import job_of
from pvtool_core.supervisor import OnEvent, run_short_job, shared_engines

Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Options of an evaluation.

    Attributes:
        metrics: Names of metrics; empty computes all whose weights are installed.
        fvd_reference: Clips that FVD and KVD compare with; empty uses those of the base model.
        page: Also write a web page with the tables and the clips.
        shard: Number of this shard, starting at 1.
        shards: With more than one, only this shard's clips are scored, and no report is written;
            an evaluation without shards then uses the scores.
        on: `ray` scores on a Ray cluster, at `address` or started on this machine.
        scores: Folder for the scores of clips that several evaluations share. [default: `out`]
    """

    metrics: tuple[str, ...] = ()
    fvd_reference: tuple[ClipFile, ...] = ()
    page: bool = False
    shard: int = 1
    shards: int = 1
    on: str = ""
    address: str = ""
    scores: str = ""


@shared_engines()
def evaluate(
    run: TrainingRun | str,
    out: str | Path | None = None,
    *,
    prompts: int = 0,
    seeds: int = 0,
    metrics: Sequence[str] = (),
    page: bool = False,
    on_event: OnEvent = ignore,
) -> Report:
    """Render a run's evaluation prompts and seeds, before and after training, and score the clips.

    Existing clips and scores are reused.

    Args:
        run: A training run or its name.
        out: Output folder of clips, report and contact sheet. [default: `evaluation` in the run
            folder]
        prompts: Use the first prompts only; 0 uses all.
        seeds: Use the first seeds only; 0 uses all.
        metrics: Names of metrics; empty computes all whose weights are installed.
        page: Also write report.html, a page with the tables and the clips.
        on_event: Called with each event of the engine processes.

    Returns:
        The contents of report.json: means, intervals and differences by method and metric.

    Raises:
        Missing: The run, its identity or its prompt bank does not exist.
        WeightsMissing: Weights of the base model or of a reward are not installed.
        InputRefused: A model that judges has the weights of a reward.
        SomeFailed: A clip could not be rendered.
    """
    folder = find_run(runs_dir(), run) if isinstance(run, str) else run.folder
    target = Path(out or folder.path / EVALUATION).absolute()
    planned = evaluation_plan(folder, target, prompts, seeds)
    job, choices = job_of(folder), Choices(metrics=tuple(metrics), page=page)
    if choices.metrics:
        check_choices(job, target, choices)
    render_missing(planned, render_job(target), on_event).raise_for_status()
    return score(job, [job.identity], planned_clips(planned), target, choices, on_event)


def evaluation_plan(
    folder: RunFolder, out: Path, prompts: int = 0, seeds: int = 0, checkpoints: bool = False
) -> BatchPlan:
    """Plan the evaluation clips of a run, with and without its adapter.

    `prompts` and `seeds` limit the number of each; 0 uses all. `checkpoints` plans a clip for each
    checkpoint of the run instead of the newest only.
    """
    job = job_of(folder)
    texts = Banks().get(job.evaluation.prompts).prompts[: prompts or None]
    defaults = Defaults(
        people=(job.identity.name,),
        seeds=job.evaluation.seeds[: seeds or None],
        runs=(folder.name,),
        base=True,
    )
    steps = [checkpoint_step(each) for each in folder.checkpoint_folders()] if checkpoints else []
    runs = [f"{folder.name}@{step}" for step in steps] or [""]
    return plan([Row(prompt=text, run=run) for run in runs for text in texts], defaults, out)


def planned_clips(planned: BatchPlan, checkpoints: bool = False) -> tuple[ClipFile, ...]:
    """Return the clips of a plan, to score them after rendering.

    With `checkpoints`, each step is a method.
    """
    return tuple(
        ClipFile(
            file=_file_of(Path(item.clip)),
            identity=item.identity,
            prompt=item.prompt,
            seed=item.seed,
            method=BASE_METHOD
            if not item.shows_identity
            else f"{STEP_METHOD}{item.step}"
            if checkpoints
            else planned.setups[item.setup].method.name or ADAPTER_METHOD,
            fps=float(planned.setups[item.setup].model.fps),
        )
        for item in planned.items
    )


def folder_clips(out: Path) -> tuple[tuple[ClipFile, ...], str]:
    """Return the clips of a folder written by `pv render`, and the name of one of their runs.

    Settings that vary in the folder distinguish methods: see clip_methods.py. Further seeds that
    were rendered for `--min-likeness` are left out: means would prefer prompts that need more of
    them. Raises Missing without clips, InputRefused for an invalid sidecar.
    """
    sidecars = sorted(out.glob("*/*/seed-*.json"))
    if not sidecars:
        raise Missing(
            "clip in the folder", str(out), "Use a run, or a folder written by `pv render`."
        )
    records = {path: read_clip_record(path) for path in sidecars}
    further = {each for path, record in records.items() for each in _further_tries(path, record)}
    methods = methods_of({path: each for path, each in records.items() if path not in further})
    clips = {
        path: ClipFile(
            file=_file_of(path.with_suffix("")),
            identity=records[path]["identity"],
            prompt=records[path]["prompt"],
            seed=records[path]["seed"],
            method=method,
            fps=_rate_of(records[path]),
        )
        for path, method in methods.items()
    }
    adapted = [clip for path, clip in clips.items() if shows_identity(records[path])]
    base = [clip for path, clip in clips.items() if not shows_identity(records[path])]
    run = next((each.get("run", "") for each in records.values() if each["adapter"]), "")
    return (*_for_each_identity(base, adapted), *adapted), run


def _for_each_identity(base: Sequence[ClipFile], adapted: Sequence[ClipFile]) -> list[ClipFile]:
    """Return the base model's clips, repeated for each identity with the same prompt and seed.

    Identities of the same class share them; the sidecar names the one they were rendered for.
    """
    shown: dict[tuple[str, int], list[str]] = {}
    for clip in adapted:
        shown.setdefault((clip.prompt, clip.seed), []).append(clip.identity)
    return [
        replace(clip, identity=identity)
        for clip in base
        for identity in dict.fromkeys(shown.get((clip.prompt, clip.seed), [clip.identity]))
    ]


def _further_tries(sidecar: Path, record: Mapping[str, Any]) -> list[Path]:
    """Return the sidecars of the other seeds that were rendered for a clip."""
    likeness = likeness_in(record)
    tries = likeness.tries[1:] if likeness else ()
    return [sidecar.with_name(f"{one.clip}.json") for one in tries]


_OLD_RATE = 8.0
"""Frames per second of clips whose sidecars do not record it."""


def _rate_of(record: dict[str, Any]) -> float:
    model: Any = record.get("model")
    fps: Any = model.get("fps") if isinstance(model, dict) else None
    return float(fps) if type(fps) is int and 1 <= fps <= 120 else _OLD_RATE


def _file_of(clip: Path) -> str:
    """Return the clip in the first format in which it exists, or would be rendered."""
    forms = [form.path(clip) for form in FORMATS.values()]
    return str(next((path for path in forms if exists(path)), forms[0]))


VIDEO_SUFFIXES = frozenset(".mp4 .mov .mkv .webm .avi .m4v .gif .webp .apng".split())  # noqa: SIM905


def reference_clips(folder: Path) -> tuple[ClipFile, ...]:
    """Return all videos under a folder, as a reference of FVD and KVD. Raises Missing."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise Missing("video in the folder", str(folder), "Use a folder of videos.")
    return tuple(
        ClipFile(file=str(path.absolute()), identity="", prompt="", seed=0, method="reference")
        for path in files
    )


def of_known_identities(clips: Sequence[ClipFile]) -> tuple[list[ClipFile], list[IdentityRef]]:
    """Return the clips whose identity is in the library, and these identities.

    Raises Missing if there are none.
    """
    library = Library()
    names = {clip.identity for clip in clips}
    known = sorted(names & set(library.names()))
    if not known:
        library.get(sorted(names)[0])
    return [clip for clip in clips if clip.identity in known], [
        library.get(name).ref for name in known
    ]


def check_distinct(clips: Iterable[ClipFile]) -> None:
    """Raise UsageError for two clips of the same identity, prompt, seed and method."""
    known: dict[tuple[str, str, int, str], str] = {}
    for clip in clips:
        shown = (clip.identity, clip.prompt, clip.seed, clip.method)
        if (other := known.setdefault(shown, clip.file)) != clip.file:
            raise UsageError(
                f"Two clips of {clip.identity} by {clip.method} have the seed {clip.seed} and the "
                f"same prompt: {other} and {clip.file}.",
                "Evaluate clips of different settings in folders of their own.",
            )


def expected_seconds(settings: Settings, clips: Sequence[ClipFile]) -> float | None:
    """Return how long scoring is expected to take, from earlier ones; None if unknown."""
    rate = scoring_seconds(settings)
    return None if rate is None else rate * len(clips)


def check_choices(settings: Settings, out: Path, choices: Choices) -> None:
    """Raise what scoring would raise before its first clip, such as for an unknown metric."""
    job = EvaluateJob(
        **locate_rewards(settings).sections(),
        identities=(),
        clips=(),
        out=str(out),
        metrics=choices.metrics,
        shards=2,  # without a report
    )
    run_short_job("evaluate", job, ignore)


def score(
    settings: Settings,
    identities: Sequence[IdentityRef],
    clips: Sequence[ClipFile],
    out: Path,
    choices: Choices,
    on_event: OnEvent,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Score clips; the report and the contact sheet are written to `out`.

    Returns the report, or an empty one for a shard. Raises Interrupted once `stop` is true.
    """
    check_devices([settings.model.device])
    check_distinct(clips)
    job = EvaluateJob(
        **locate_rewards(settings).sections(),
        identities=tuple(identities),
        clips=tuple(clips),
        out=str(out),
        metrics=choices.metrics,
        fvd_reference=choices.fvd_reference,
        page=choices.page,
        shard=choices.shard,
        shards=choices.shards,
        on=choices.on,
        address=choices.address,
        scores=choices.scores,
    )
    run_short_job("evaluate", job, on_event, stop)
    return {} if choices.shards > 1 else json.loads((out / REPORT).read_bytes())
