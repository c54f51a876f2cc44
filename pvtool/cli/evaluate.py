"""`pv eval`: evaluate a run with its evaluation prompts and seeds, or a folder of clips."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pvtool.cli.options import Json, run_names
from pvtool.cli.progress import JobProgress
from pvtool.cli.render import render_clips
from pvtool.cli.render_report import warn_of_cuts
from pvtool.jobs.devices import check_devices
from pvtool.jobs.settings import chosen_settings, versions
from pvtool.output import Output, table
from pvtool.text import shown
from pvtool_core.batches.clips import read_clip_record, sidecar_path
from pvtool_core.batches.plan import Defaults, plan
from pvtool_core.batches.rows import Row
from pvtool_core.errors import Missing
from pvtool_core.models.locate import resolve_settings
from pvtool_core.paths import check_utf8, exists, runs_dir
from pvtool_core.settings.jobs import EvaluateJob, IdentityRef, RenderJob
from pvtool_core.settings.schema import Settings
from pvtool_core.store.identities import Library
from pvtool_core.store.prompts import Banks
from pvtool_core.store.runs import RunFolder, find_run
from pvtool_core.store.summary import job_of
from pvtool_core.supervisor import run_short_job

app = typer.Typer(rich_markup_mode=None, add_completion=False)

REPORT, SHEET = "report.json", "contact-sheet.png"


@app.command()
def evaluate(
    targets: Annotated[
        list[str], typer.Argument(metavar="RUN_OR_DIR...", autocompletion=run_names)
    ],
    as_json: Json = False,
) -> None:
    """Evaluate identity similarity, motion and prompt following, with and without the adapter.

    A run is first rendered with its evaluation prompts and seeds; existing clips are reused.
    """
    output = Output(as_json)
    for target in targets:
        out = Path(target).absolute()
        if exists(out) and out.is_dir():
            check_utf8(out)
            report = evaluate_folder(out)
        elif "/" in target:
            raise Missing("folder", target, "Use a run, or a folder written by `pv render`.")
        else:
            folder = find_run(runs_dir(), target)
            out = folder.path / "evaluation"
            report = evaluate_run(folder, out)
        print_report(output, target, out, report)


def evaluate_run(folder: RunFolder, out: Path, prompts: int = 0, seeds: int = 0) -> dict[str, Any]:
    """Render a run's evaluation prompts and seeds into `out`, score them and return the report.

    They are rendered with and without the adapter. `prompts` and `seeds` limit the number of each;
    0 uses all.
    """
    job = job_of(folder)
    texts = Banks().get(job.evaluation.prompts).prompts[: prompts or None]
    wanted = Defaults(
        people=(job.identity.name,),
        seeds=job.evaluation.seeds[: seeds or None],
        run=folder.name,
        base=True,
    )
    planned = plan([Row(prompt=text) for text in texts], wanted, out)
    warn_of_cuts(Output(), planned.all_cuts)
    ended = render_clips(
        planned, RenderJob(items="", setups=(), out=str(out.absolute()), versions=versions())
    )
    if ended.error:
        raise ended.error
    return score(job, [job.identity], [sidecar_path(item.clip) for item in planned.items], out)


def evaluate_folder(out: Path) -> dict[str, Any]:
    """Score every clip under `out`, with the settings of the first clip's run."""
    sidecars = sorted(out.glob("*/*/seed-*.json"))
    if not sidecars:
        raise Missing(
            "clip in the folder", str(out), "Use a run, or a folder written by `pv render`."
        )
    records = [read_clip_record(path) for path in sidecars]
    library = Library()
    people = [library.get(name) for name in sorted({record["identity"] for record in records})]
    run = next((record["run"] for record in records if record.get("run")), None)
    settings = job_of(find_run(runs_dir(), run)) if run else resolve_settings(chosen_settings()[1])
    return score(settings, [person.ref for person in people], sidecars, out)


def score(
    settings: Settings, people: Sequence[IdentityRef], sidecars: Sequence[Path], out: Path
) -> dict[str, Any]:
    """Run an engine that scores clips and writes report and contact sheet to `out`."""
    check_devices([settings.model.device])
    job = EvaluateJob(
        **settings.sections(),
        identities=tuple(people),
        sidecars=tuple(map(str, sidecars)),
        report=str(out / REPORT),
        sheet=str(out / SHEET),
    )
    with JobProgress() as progress:
        run_short_job("evaluate", job, progress.on_event)
    return json.loads((out / REPORT).read_bytes())


def print_report(output: Output, target: str, out: Path, report: Mapping[str, Any]) -> None:
    """Print the report: as JSON, or as a table of each identity's metrics before and after."""
    value = {"target": target, "report": str(out / REPORT), "sheet": str(out / SHEET), **report}
    output.stream(
        value,
        f"{metrics_table(report)}\n\n"
        f"Report: {shown(out / REPORT)}\nContact sheet: {shown(out / SHEET)}",
    )


def metrics_table(report: Mapping[str, Any]) -> str:
    """Return a row for each identity and metric: value before, after, and change."""
    people: dict[str, dict[str, dict[str, float]]] = report["identities"]
    rows: list[list[str]] = []
    for name, stages in people.items():
        before, after = (stages.get(stage) or {} for stage in ("before", "after"))
        for metric in before | after:
            was, now = before.get(metric), after.get(metric)
            shown = ["" if number is None else f"{number:.3f}" for number in (was, now)]
            rows.append(
                [name, metric, *shown, "" if was is None or now is None else f"{now - was:+.3f}"]
            )
    return table(["identity", "metric", "before", "after", "change"], rows)
