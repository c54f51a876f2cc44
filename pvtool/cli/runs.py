"""`pv runs`: training runs in the data folder."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import typer

from pvtool.cli.confirm import confirm
from pvtool.cli.options import Images, Json, RunName, Yes, run_names
from pvtool.cli.training import go, watch_run
from pvtool.jobs.run_comparison import compare_runs
from pvtool.output import Output, table
from pvtool.text import describe, describe_scores, shown
from pvtool_core.comfyui_workflow import workflow_of
from pvtool_core.errors import Busy, UsageError
from pvtool_core.files import copy_private, write_private
from pvtool_core.paths import check_new_file, runs_dir
from pvtool_core.settings.toml import to_table
from pvtool_core.store.event_log import events_end, iter_records
from pvtool_core.store.events import Record, ScoresEvent, parse_event
from pvtool_core.store.liveness import State
from pvtool_core.store.run_index import RunIndex
from pvtool_core.store.runs import Request, RunNotes, checkpoint_step, find_run
from pvtool_core.store.summary import adapter_of, job_of, summarize_run, summary_table
from pvtool_core.supervisor import ANSWER_SECONDS, ask, follow, raise_outcome, wait_for
from pvtool_core.untrusted import exists, is_file

RunsToCompare = Annotated[
    list[str], typer.Argument(metavar="RUN...", autocompletion=run_names, show_default=False)
]
app = typer.Typer(
    help="Training runs.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List runs, oldest first."""
    rows = [run.table() for run in RunIndex().facts()]
    columns = ["run", "identity", "preset", "state", "step", "iterations", "started"]
    output = Output(as_json)
    output.rows("runs", rows, columns, "No runs. Start one with `pv train NAME`.")
    for row in rows:
        if row["problem"]:
            output.say(f"{row['run']}: {row['problem']}")


@app.command()
def show(run: RunName, as_json: Json = False) -> None:
    """Show state, losses, scores of samples, checkpoints, outcome and settings of a run."""
    folder = find_run(runs_dir(), run)
    newest: Record | None = None
    scores: ScoresEvent | None = None
    without_face = 0
    for record in iter_records(folder.events):
        if record["type"] == "step":
            newest = record
            without_face += record.get("face_found") is False
        elif record["type"] == ScoresEvent.type:
            event = parse_event(record)
            scores = event if isinstance(event, ScoresEvent) else scores
    ended = folder.read_exit()
    checkpoints = [checkpoint_step(path) for path in folder.checkpoint_folders()]
    value: dict[str, Any] = {
        **summary_table(folder),
        "path": str(folder.path),
        "checkpoints": checkpoints,
    }
    value["iterations_without_face"] = without_face
    value["reason"] = ended.reason if ended else ""
    if ended and ended.hint:
        value["hint"] = ended.hint
    settings = to_table(job_of(folder))
    pairs = [[key, str(item)] for key, item in value.items() if item not in (None, "", [], ())]
    pairs += [["newest", describe(newest)]] if newest else []
    if scores:
        text = describe_scores(scores.scores, scores.base)
        pairs += [["samples", f"step {scores.step}: {text}"]]
    if best := folder.read_best():
        pairs += [["best", f"{run}@best, step {best.step}: likeness {best.likeness:.3f}"]]
    value |= {"newest": newest, "scores": scores and scores.record(), "best": best and asdict(best)}
    pairs += [["settings", str(folder.config)]]
    Output(as_json).result({**value, "settings": settings}, table(["", ""], pairs).lstrip("\n"))


@app.command()
def compare(runs: RunsToCompare, as_json: Json = False) -> None:
    """Compare runs: results, settings that differ, and metrics of `pv eval` with 95 % intervals."""
    compared = compare_runs([find_run(runs_dir(), run) for run in runs])
    names = [run.run for run in compared.runs]
    sections = [compared.results(), compared.settings, compared.evaluated()]
    blank = [""] * (len(names) + 1)
    tables = [
        table(blank, [["", *names], *([name, *values] for name, values in rows.items())])
        for rows in sections
        if rows
    ]
    notes = [f"Alarm: {alarm}" for alarm in compared.alarms]
    if not compared.metrics:
        notes = [f"Not evaluated. Run `pv eval {' '.join(names)}` for metrics with intervals."]
    Output(as_json).result(compared.table(), "\n".join([*tables, "", *notes]).strip("\n"))


@app.command()
def note(
    run: RunName,
    text: Annotated[str | None, typer.Argument(help="Note. [default: the present one]")] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", help="Tag to add; can be repeated.")
    ] = None,
    untags: Annotated[
        list[str] | None, typer.Option("--untag", help="Tag to remove; can be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a note on a run, add or remove tags, or show them."""
    folder = find_run(runs_dir(), run)
    before = folder.read_notes()
    kept = [tag for tag in (*before.tags, *(tags or [])) if tag not in (untags or [])]
    now = RunNotes(note=before.note if text is None else text, tags=tuple(dict.fromkeys(kept)))
    if now != before:
        folder.write_notes(now)
    shown_tags = " ".join(f"#{tag}" for tag in now.tags)
    none = f"{run} has no note. Use `pv runs note {run} TEXT`."
    line = f"{shown_tags} {now.note}".strip() or none
    Output(as_json).result({"run": run, **asdict(now)}, line)


@app.command()
def logs(
    run: RunName,
    follow_on: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow new events until the run ends.")
    ] = False,
    engine: Annotated[
        bool, typer.Option("--engine", help="Show the output of the engine, with tracebacks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the events of a run."""
    output = Output(as_json)
    folder = find_run(runs_dir(), run)
    if engine:
        text = folder.read_log()
        output.result({"run": run, "log": text}, text)
        return

    def print_record(record: Record) -> None:
        if as_json or record["type"] != "gpu":  # written every few seconds, not useful as text
            output.stream(record, describe(record))

    end = events_end(folder.events)
    for record in iter_records(folder.events, end):
        print_record(record)
    if follow_on:
        follow(folder, lambda event: print_record(event.record()), end)


@app.command()
def watch(run: RunName, images: Images = None, as_json: Json = False) -> None:
    """Show a run in the dashboard; without a terminal, print lines until it ends."""
    watch_run(find_run(runs_dir(), run), Output(as_json), images)


Wait = Annotated[float, typer.Option("--wait", min=0.0, help="Timeout in seconds.")]


@app.command()
def pause(run: RunName, wait: Wait = ANSWER_SECONDS, as_json: Json = False) -> None:
    """Pause a running engine; it keeps its memory."""
    _ask(run, Request.PAUSE, {State.PAUSED}, wait, as_json)


@app.command()
def stop(run: RunName, wait: Wait = ANSWER_SECONDS, as_json: Json = False) -> None:
    """Save a checkpoint and end the engine."""
    _ask(run, Request.STOP, {State.STOPPED, State.FINISHED}, wait, as_json)


@app.command()
def checkpoint(run: RunName, as_json: Json = False) -> None:
    """Request a checkpoint from a running engine, without waiting for it."""
    _request(run, Request.CHECKPOINT, as_json)


@app.command()
def sample(run: RunName, as_json: Json = False) -> None:
    """Request sample clips from a running engine, without waiting for them."""
    _request(run, Request.SAMPLE, as_json)


def _request(run: str, request: Request, as_json: bool) -> None:
    folder = find_run(runs_dir(), run)
    ask(folder, request)
    Output(as_json).result(
        summary_table(folder),
        f"Requested a {request} from {run}; it is written after the current step.",
    )


def _ask(run: str, request: Request, wanted: set[State], wait: float, as_json: bool) -> None:
    """Send a request to a live engine and wait for its answer."""
    output = Output(as_json)
    folder = find_run(runs_dir(), run)
    state = folder.state()
    if state not in wanted:
        ask(folder, request)
        output.say(f"Requested {run} to {request}; waiting for the current step.")
        state = wait_for(folder, frozenset(wanted), wait)
    if state not in wanted:
        raise_outcome(folder)
    output.result(summary_table(folder), f"{run} is {state} at step {summarize_run(folder).step}.")


@app.command()
def resume(
    run: RunName,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return immediately and leave it running.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Resume a run that was paused, stopped or killed.

    Without a live engine it continues from the last checkpoint, with the same weights as an
    uninterrupted run.
    """
    output = Output(as_json)
    folder = find_run(runs_dir(), run)
    state = folder.state()
    if state == State.PAUSED:
        folder.request(Request.RESUME)
        now = wait_for(folder, frozenset({State.RUNNING, State.FINISHED}))
        output.result(summary_table(folder), f"{run} is {now} again.")
    elif state in {State.RUNNING, State.STARTING}:
        raise Busy(run)
    elif state == State.FINISHED:
        output.result(summary_table(folder), f"{run} is already finished.")
    else:
        go(folder, detach, output)


@app.command()
def export(
    run: RunName,
    file: Annotated[
        Path | None,
        typer.Argument(help="Output file. [default: RUN.safetensors]", show_default=False),
    ] = None,
    comfyui: Annotated[
        Path | None,
        typer.Option(
            "--comfyui",
            metavar="WORKFLOW.json",
            help="Also write a ComfyUI workflow that applies the adapter in its active steps.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the adapter as a LoRA file for diffusers and ComfyUI, readable by its owner only.

    It must be active in the last denoising steps only: see docs/using-the-adapter.md.
    """
    folder = find_run(runs_dir(), run)
    source = adapter_of(folder)
    target = (file or Path(f"{run}.safetensors")).absolute()
    value = {"run": run, "path": str(target), "step": checkpoint_step(source.parent)}
    written = [target]
    if comfyui:
        workflow = workflow_of(source, job_of(folder), check_new_file(target).name)
        written.append(comfyui.absolute())
        value["comfyui"] = str(written[-1])
        write_private(written[-1], BytesIO(json.dumps(workflow, indent=1).encode()))
    copy_private(source, target)
    Output(as_json).result(value, "\n".join(f"Wrote {shown(path)}" for path in written))


@app.command()
def remove(run: RunName, yes: Yes = False, as_json: Json = False) -> None:
    """Delete a run that is not running."""
    folder = find_run(runs_dir(), run)
    if folder.path.is_symlink():
        place = folder.path.readlink()
        raise UsageError(
            f"{run} is a link to {place}, which pv does not delete.",
            f"Remove {folder.path} yourself.",
        )
    confirm(f"Delete {run} and its checkpoints?", yes)
    # A live engine holds the lock.
    with (
        folder.lock()
        if is_file(folder.lock_file) or not exists(folder.lock_file)
        else nullcontext()
    ):
        shutil.rmtree(folder.path)
    Output(as_json).result({"removed": run, "path": str(folder.path)}, f"Removed {run}.")
