"""`pv eval`: evaluate a run with its evaluation prompts and seeds, or a folder of clips."""

from pathlib import Path
from typing import Annotated

import typer

from pvtool.cli.options import Json, run_names
from pvtool.cli.progress import JobProgress
from pvtool.cli.scores import evaluate_run, metrics_table
from pvtool.jobs.settings import chosen_settings
from pvtool.output import Output
from pvtool.text import shown
from pvtool_core.api.evaluate import REPORT, SHEET, Report, score
from pvtool_core.batches.clips import read_clip_record
from pvtool_core.errors import Missing
from pvtool_core.models.locate import resolve_settings
from pvtool_core.paths import check_utf8, exists, runs_dir
from pvtool_core.store.identities import Library
from pvtool_core.store.runs import find_run
from pvtool_core.store.summary import job_of

app = typer.Typer(rich_markup_mode=None, add_completion=False)


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
        paths = {"report": str(out / REPORT), "sheet": str(out / SHEET)}
        text = (
            f"{metrics_table(report)}\n\n"
            f"Report: {shown(out / REPORT)}\nContact sheet: {shown(out / SHEET)}"
        )
        output.stream({"target": target, **paths, **report}, text)


def evaluate_folder(out: Path) -> Report:
    """Score every clip under `out` with the settings of the first run among their sidecars."""
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
    with JobProgress() as progress:
        identities = [person.ref for person in people]
        return score(settings, identities, sidecars, out, progress.on_event)
