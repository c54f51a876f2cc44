"""Evaluate a run with progress, and show its metrics as a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pvtool.cli.batch import render_clips
from pvtool.cli.cut_prompts import warn_of_cuts
from pvtool.cli.progress import JobProgress
from pvtool.output import Output
from pvtool.tables import Table
from pvtool.text import duration
from pvtool_core.api.batch import missing_clips, render_job
from pvtool_core.api.evaluate import (
    Choices,
    Report,
    check_choices,
    evaluation_plan,
    expected_seconds,
    planned_clips,
    score,
)
from pvtool_core.batches.plan import BatchPlan, estimates, states
from pvtool_core.settings.jobs import ClipFile, IdentityRef, RenderJob
from pvtool_core.settings.schema import Settings
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import job_of


def evaluate_run(
    folder: RunFolder,
    out: Path,
    prompts: int = 0,
    seeds: int = 0,
    checkpoints: bool = False,
    choices: Choices | None = None,
) -> Report:
    """Render a run's evaluation clips into `out` and score them, as `pvtool_core.evaluate` does."""
    job, choices = job_of(folder), choices or Choices()
    if choices.metrics:  # an unknown one is refused before hours of rendering
        check_choices(job, out, choices)
    clips = render_evaluation(folder, out, prompts, seeds, checkpoints)
    return score_clips(job, [job.identity], clips, out, choices)


def render_evaluation(
    folder: RunFolder, out: Path, prompts: int = 0, seeds: int = 0, checkpoints: bool = False
) -> tuple[ClipFile, ...]:
    """Render the missing evaluation clips of a run, and return all of them."""
    planned = evaluation_plan(folder, out, prompts, seeds, checkpoints)
    output, job = Output(), render_job(out.absolute())
    warn_of_cuts(output, planned.all_cuts)
    output.say(announcement(planned, job))
    render_clips(planned, job).raise_for_status()
    return planned_clips(planned, checkpoints)


def announcement(planned: BatchPlan, job: RenderJob) -> str:
    """Return how many clips an evaluation renders, and how long that takes."""
    missing, total = len(missing_clips(planned, job)), len(planned.items)
    if not missing:
        return f"Evaluating {total} clips, which are all rendered."
    times = estimates(planned, states(planned, job.encoding))
    known = [seconds for seconds in times if seconds]
    when = f"about {duration(sum(known))}" if known else "unknown time: none was rendered yet"
    return f"Evaluating {total} clips, of which {missing} are to be rendered ({when})."


def score_clips(
    settings: Settings,
    identities: Sequence[IdentityRef],
    clips: Sequence[ClipFile],
    out: Path,
    choices: Choices,
) -> Report:
    """Score clips with progress, after saying how many and how long it takes."""
    seconds = expected_seconds(settings, clips[choices.shard - 1 :: choices.shards])
    when = f", about {duration(seconds)} if none is scored yet" if seconds else ""
    own = f"shard {choices.shard} of {choices.shards} of " if choices.shards > 1 else ""
    Output().say(f"Scoring {own}{len(clips)} clips{when}.")
    with JobProgress() as progress:
        return score(settings, identities, clips, out, choices, progress.on_event)


def metrics_tables(report: Mapping[str, Any]) -> list[str | Table]:
    """Return a line for each metric: means with 95 % intervals by method, and differences."""
    methods: dict[str, dict[str, Any]] = report["methods"]
    others = [name for name in methods if name != report["reference"]]
    header = ["metric", *methods]
    if report["reference"]:
        header += [f"{name} − {report['reference']}" for name in others]
    rows: list[list[str]] = []
    for rewarded in (False, True):
        for key, metric in report["metrics"].items():
            if metric["reward"] != rewarded:
                continue
            row = [f"{metric['label']}{' (reward)' if rewarded else ''}"]
            row += [_cell(methods[name], key) for name in methods]
            if report["reference"]:
                changes = [methods[name].get("differences", {}) for name in others]
                row += [_difference(each.get(key)) for each in changes]
            rows.append(row)
    reasons: dict[str, list[str]] = {}
    for key, each in report["skipped"].items():
        reasons.setdefault(f"{each['reason']} {each['command']}".rstrip(), []).append(key)
    notes = [f"Skipped {', '.join(keys)}: {reason}" for reason, keys in reasons.items()]
    notes += [f"Not scored: {each['file']}: {each['reason']}" for each in report["failed"]]
    notes += [f"Alarm: {alarm}" for alarm in report["alarms"]]
    if len(report["identities"]) > 1:
        for name, each in report["identities"].items():
            notes += [f"Alarm of {name}: {alarm}" for alarm in each["alarms"]]
    text = ["\n".join(notes)] if notes else []
    return [Table(header, rows), *_of_identities(report), *text]


def _cell(method: Mapping[str, Any], key: str) -> str:
    if key in method["sets"]:
        return f"{method['sets'][key]:.3f}"
    return _with_interval(method["means"].get(key), "")


def _difference(change: Mapping[str, Any] | None) -> str:
    """Return a difference; one whose interval contains 0 is marked `n.s.`, not significant."""
    text = _with_interval(change, "+")
    return text if not change or change["significant"] else f"{text} n.s."


def _with_interval(number: Mapping[str, Any] | None, sign: str) -> str:
    if number is None:
        return ""
    mean = f"{number['mean']:{sign}.3f}"
    if number["low"] is None:
        return mean
    return f"{mean} [{number['low']:{sign}.3f}, {number['high']:{sign}.3f}]"


def _of_identities(report: Mapping[str, Any]) -> list[Table]:
    """Return a table of the likeness of each identity, if there are several or a ceiling."""
    people: dict[str, dict[str, Any]] = report["identities"]
    methods = list(report["methods"])
    ceilings = {name: each["photos"]["ceiling"] for name, each in people.items()}
    if len(people) < 2 and not any(ceilings.values()):
        return []
    rows = [
        [
            name,
            *(_number(each["methods"].get(method, {}).get("likeness")) for method in methods),
            _number(ceilings[name]),
        ]
        for name, each in people.items()
    ]
    return [Table(["likeness of", *methods, "own photos"], rows)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
