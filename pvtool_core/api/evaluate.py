"""Evaluate: render the evaluation prompts of a run, and score the clips."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pvtool_core.api.batch import render_job, render_missing
from pvtool_core.api.machine import check_devices
from pvtool_core.api.training import TrainingRun
from pvtool_core.batches.clips import sidecar_path
from pvtool_core.batches.plan import BatchPlan, Defaults, plan
from pvtool_core.batches.rows import Row
from pvtool_core.paths import runs_dir
from pvtool_core.settings.jobs import EvaluateJob, IdentityRef
from pvtool_core.settings.schema import Settings
from pvtool_core.store.events import ignore
from pvtool_core.store.prompts import Banks
from pvtool_core.store.runs import RunFolder, find_run
from pvtool_core.store.summary import job_of
from pvtool_core.supervisor import OnEvent, run_short_job

REPORT, SHEET = "report.json", "contact-sheet.png"
Report = dict[str, Any]


def evaluate(
    run: TrainingRun | str,
    out: str | Path | None = None,
    *,
    prompts: int = 0,
    seeds: int = 0,
    on_event: OnEvent = ignore,
) -> Report:
    """Render a run's evaluation prompts and seeds, before and after training, and score the clips.

    Existing clips are reused.

    Args:
        run: A training run or its name.
        out: Output folder of clips, report and contact sheet. [default: `evaluation` in the run
            folder]
        prompts: Use the first prompts only; 0 uses all.
        seeds: Use the first seeds only; 0 uses all.
        on_event: Called with each event of the engine processes.

    Returns:
        The contents of report.json: the mean of each metric, by identity and stage.

    Raises:
        Missing: The run, its identity or its prompt bank does not exist.
        WeightsMissing: Weights of a metric are not installed.
        SomeFailed: A clip could not be rendered.
    """
    folder = find_run(runs_dir(), run) if isinstance(run, str) else run.folder
    target = Path(out or folder.path / "evaluation").absolute()
    planned = evaluation_plan(folder, target, prompts, seeds)
    render_missing(planned, render_job(target), on_event).raise_for_status()
    return score_plan(folder, planned, target, on_event)


def evaluation_plan(folder: RunFolder, out: Path, prompts: int = 0, seeds: int = 0) -> BatchPlan:
    """Plan the evaluation clips of a run, with and without its adapter.

    `prompts` and `seeds` limit the number of each; 0 uses all.
    """
    job = job_of(folder)
    texts = Banks().get(job.evaluation.prompts).prompts[: prompts or None]
    defaults = Defaults(
        people=(job.identity.name,),
        seeds=job.evaluation.seeds[: seeds or None],
        run=folder.name,
        base=True,
    )
    return plan([Row(prompt=text) for text in texts], defaults, out)


def score_plan(folder: RunFolder, planned: BatchPlan, out: Path, on_event: OnEvent) -> Report:
    """Score the clips of `evaluation_plan`, and write report and contact sheet to `out`."""
    job = job_of(folder)
    sidecars = [sidecar_path(item.clip) for item in planned.items]
    return score(job, [job.identity], sidecars, out, on_event)


def score(
    settings: Settings,
    identities: Sequence[IdentityRef],
    sidecars: Sequence[Path],
    out: Path,
    on_event: OnEvent,
) -> Report:
    """Score clips by their sidecars; the report and the contact sheet are written to `out`."""
    check_devices([settings.model.device])
    job = EvaluateJob(
        **settings.sections(),
        identities=tuple(identities),
        sidecars=tuple(map(str, sidecars)),
        report=str(out / REPORT),
        sheet=str(out / SHEET),
    )
    run_short_job("evaluate", job, on_event)
    return json.loads((out / REPORT).read_bytes())
