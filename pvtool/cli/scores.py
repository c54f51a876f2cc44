"""Evaluate a run with progress, and show its metrics as a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pvtool.cli.batch import render_clips
from pvtool.cli.progress import JobProgress
from pvtool.cli.render_report import warn_of_cuts
from pvtool.output import Output, table
from pvtool_core.api.batch import render_job
from pvtool_core.api.evaluate import Report, evaluation_plan, score_plan
from pvtool_core.store.runs import RunFolder


def evaluate_run(folder: RunFolder, out: Path, prompts: int = 0, seeds: int = 0) -> Report:
    """Render a run's evaluation clips into `out` and score them, as `pvtool_core.evaluate` does."""
    planned = evaluation_plan(folder, out, prompts, seeds)
    warn_of_cuts(Output(), planned.all_cuts)
    render_clips(planned, render_job(out.absolute())).raise_for_status()
    with JobProgress() as progress:
        return score_plan(folder, planned, out, progress.on_event)


def metrics_table(report: Mapping[str, Any]) -> str:
    """A line for each identity and metric: before, after, and what training changed."""
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
