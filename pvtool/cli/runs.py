"""`pv runs`: training runs in the data folder."""

import json
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvtool.cli import run_logs
from pvtool.cli.attempts import Attempts
from pvtool.cli.confirm import confirm
from pvtool.cli.end_notice import announce_run
from pvtool.cli.options import DataFolders, Images, Json, RunName, RunNames, Yes, run_names
from pvtool.cli.training import go, watch_run
from pvtool.jobs.other_machines import runs_folders, runs_in, runs_on
from pvtool.jobs.run_comparison import compare_runs
from pvtool.jobs.run_filter import matches
from pvtool.jobs.run_removal import check_removable, delete_run
from pvtool.output import Output
from pvtool.tables import Table
from pvtool.text import (
    describe,
    describe_effect,
    describe_scores,
    duration,
    figures,
    moment,
    shown,
)
from pvtool_core.adapter_files.vector_files import read_vector_file
from pvtool_core.comfyui.workflow import workflow_of
from pvtool_core.errors import Busy, UsageError
from pvtool_core.files import copy_private, write_private
from pvtool_core.paths import check_new_file, runs_dir
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.objectives import DEFAULT_OBJECTIVE, loss_label
from pvtool_core.settings.toml import to_table
from pvtool_core.store.event_log import events_end, iter_records
from pvtool_core.store.events import Record, ScoresEvent, parse_event
from pvtool_core.store.liveness import State
from pvtool_core.store.run_index import RunIndex
from pvtool_core.store.runs import (
    ADAPTER_FILE,
    Request,
    RunFolder,
    RunNotes,
    averaged_checkpoints,
    checkpoint_step,
    find_run,
)
from pvtool_core.store.summary import (
    RunSummary,
    adapter_of,
    job_of,
    summarize_run,
    summary_table,
)
from pvtool_core.supervisor import ANSWER_SECONDS, ask, follow, raise_outcome, wait_for

if TYPE_CHECKING:
    from pvtool_core.adapter_files.effect import Effect

RunsToCompare = Annotated[
    list[str], typer.Argument(metavar="RUN...", autocompletion=run_names, show_default=False)
]
app = typer.Typer(
    help="Training runs.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


@app.command("list")
def list_(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILTER]...",
            help="Words in name, identity, preset or state, such as ann or state:failed.",
            show_default=False,
        ),
    ] = None,
    data: DataFolders = None,
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="USER@HOST[:PV]",
            help="Also list the runs of another machine by ssh; can be repeated.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List runs, oldest first.

    The likeness is the held-out one of the best checkpoint; losses are means of the last 20 steps.
    """
    output, every = Output(as_json), [("", run) for run in RunIndex().facts()]
    for machine, folder in runs_folders(data or []).items():
        every += [(machine, run) for run in runs_in(folder)]
    attempts = Attempts(hosts or [], output)
    for host in attempts.names:
        with attempts.on(host):
            every += [(host.partition(":")[0], run) for run in runs_on(host)]
    listed = [(machine, run) for machine, run in every if matches(run, words or [])]
    rows = [
        {**({"machine": machine} if data or hosts else {}), **run.table()}
        for machine, run in listed
    ]
    empty = "No matching runs." if every else "No runs. Start one with `pv train NAME`."
    output.rows("runs", rows, _table_of(listed), empty)
    if words:
        output.say(f"{len(listed)} of {len(every)} runs.")
    for _, run in listed:
        if run.problem:
            output.say(f"Warning: {run.run}: {run.problem}")
    attempts.finish()


def _table_of(runs: list[tuple[str, RunSummary]]) -> Table:
    losses = {name: loss_label(name) for _, run in runs for name in run.losses}
    rows = [{"machine": machine, **_cells(run, losses)} for machine, run in runs]
    columns = ["machine"] if any(machine for machine, _ in runs) else []
    columns += ["run", "identity", "preset", "state", "step", "left", "likeness", *losses.values()]
    optional = ["left", "started", "preset", "s/step", *list(losses.values())[::-1], "likeness"]
    return Table.of([*columns, "s/step", "started"], rows, optional)


def _cells(run: RunSummary, losses: dict[str, str]) -> dict[str, str | None]:
    trends = {label: run.losses.get(name) for name, label in losses.items()}
    return {
        **{name: getattr(run, name) for name in ("run", "identity", "preset", "state")},
        "step": f"{run.step}/{run.iterations}" if run.iterations else None,
        "left": duration(run.eta) if run.eta else None,
        "likeness": None if run.likeness is None else f"{run.likeness:.2f}",
        **{label: trend and f"{trend.mean:.3f} {trend.arrow:1}" for label, trend in trends.items()},
        "s/step": figures(run.seconds_per_step) if run.seconds_per_step else None,
        "started": moment(run.started),
    }


@app.command()
def show(run: RunName, as_json: Json = False) -> None:
    """Show state, losses, scores of samples, checkpoints, effect and settings of a run.

    The effect of the newest adapter is the rms of what it adds to the weights of a layer (B·A).
    """
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
    folders = folder.checkpoint_folders()
    checkpoints = [checkpoint_step(path) for path in folders]
    summary = summarize_run(folder)
    value: dict[str, Any] = {
        **summary.table(),
        "path": str(folder.path),
        "checkpoints": checkpoints,
    }
    value["iterations_without_face"] = without_face
    value["reason"] = ended.reason if ended else ""
    if ended and ended.hint:
        value["hint"] = ended.hint
    job = job_of(folder)
    settings = to_table(job)
    pairs = _about(summary, value) + _differences(job)
    pairs += [["newest", f"step {newest['step']}: {newest.get('prompt', '')}"]] if newest else []
    if scores:
        text = describe_scores(scores.scores, scores.base)
        pairs += [["samples", f"step {scores.step}: {text}"]]
    if best := folder.read_best():
        pairs += [["best", f"{run}@best, step {best.step}: likeness {best.likeness:.3f}"]]
    value |= {"newest": newest, "scores": scores and scores.record(), "best": best and asdict(best)}
    effect = _effect_of(folders[-1] / ADAPTER_FILE) if folders else None
    value["effect"] = effect and {"step": checkpoints[-1], **effect.record()}
    vectors = read_vector_file(folders[-1] / ADAPTER_FILE) if folders else None
    if vectors:
        value["vectors"] = asdict(vectors)
        pairs += [["vectors", vectors.text]]
    value["averaged"] = averaged_checkpoints(folders[-1]) if folders else []
    if value["averaged"]:
        pairs += [["mean of", ", ".join(value["averaged"])]]
    if effect:
        pairs += [["effect", f"step {checkpoints[-1]}: {describe_effect(effect.rms)}"]]
    pairs += [["settings", str(folder.config)]]
    output = Output(as_json)
    output.result({**value, "settings": settings}, Table.about(pairs))
    _warn_if_negligible(output, effect, f"{run}@{checkpoints[-1]}" if checkpoints else run)


def _about(run: RunSummary, value: dict[str, Any]) -> list[list[str]]:
    """Return names and values of a run, without those that are empty."""
    losses = [
        f"{loss_label(name)} {trend.mean:.3f} {trend.arrow}"
        for name, trend in run.losses.items()
        if trend
    ]
    missed = value["iterations_without_face"]
    about = {
        **{name: value[name] for name in ("run", "identity", "preset", "state")},
        "step": f"{run.step} of {run.iterations}",
        "started": moment(run.started),
        "left": duration(run.eta) if run.eta else "",
        "s/step": figures(run.seconds_per_step) if run.seconds_per_step else "",
        "losses": "  ".join(losses),
        "duration": duration(run.duration) if run.duration else "",
        "device": run.device,
        "tags": " ".join(run.tags),
        "note": run.note,
        "path": value["path"],
        "checkpoints": ", ".join(map(str, value["checkpoints"])),
        "without face": f"{missed} iterations" if missed else "",
        **{name: value.get(name, "") for name in ("reason", "hint", "problem")},
    }
    return [[name, str(item)] for name, item in about.items() if item]


def _differences(job: TrainJob) -> list[list[str]]:
    """Return what a run trains if it is not the paper's method: objective, model and layers."""
    training = job.training
    return [
        *([["objective", training.objective]] if training.objective != DEFAULT_OBJECTIVE else []),
        *([["trained on", "the image model"]] if job.trains_images() else []),
        *([["layers", job.adapter.layers]] if job.adapter.layers != "self" else []),
    ]


def _effect_of(adapter: Path) -> "Effect | None":
    from pvtool_core.adapter_files.effect import read_effect  # imported here for a fast start

    return read_effect(adapter)


def _warn_if_negligible(output: Output, effect: "Effect | None", adapter: str) -> None:
    if effect and effect.negligible:
        output.say(
            f"Warning: the adapter {adapter} changes almost nothing, so its clips look like those "
            "of the base model: train longer, or raise training.learning_rate."
        )


@app.command()
def compare(runs: RunsToCompare, as_json: Json = False) -> None:
    """Compare runs: results, settings that differ, and metrics of `pv eval` with 95 % intervals."""
    compared = compare_runs([find_run(runs_dir(), run) for run in runs])
    names = [run.run for run in compared.runs]
    sections = [compared.results(), compared.settings, compared.evaluated()]
    blank = [""] * (len(names) + 1)
    tables = [
        Table(blank, [["", *names], *([name, *values] for name, values in rows.items())])
        for rows in sections
        if rows
    ]
    notes = [f"Alarm: {alarm}" for alarm in compared.alarms]
    if not compared.metrics:
        notes = [f"Not evaluated. Run `pv eval {' '.join(names)}` for metrics with intervals."]
    Output(as_json).result(compared.table(), *tables, *(["\n".join(notes)] if notes else []))


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
        announce_run(folder, output, started_here=False)


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
def stop(runs: RunNames, wait: Wait = ANSWER_SECONDS, as_json: Json = False) -> None:
    """Save a checkpoint and end the engine, of each run in turn."""
    attempts = Attempts(runs, Output(as_json))
    for run in attempts.names:
        with attempts.on(run):
            _ask(run, Request.STOP, {State.STOPPED, State.FINISHED}, wait, as_json)
    attempts.finish()


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
    """Write the adapter as a file for diffusers and ComfyUI, readable by its owner only.

    A LoRA must be active in the last denoising steps only: see docs/using-the-adapter.md. The
    vectors of textual inversion stand for `<V>` in prompts: see docs/textual-inversion.md.
    """
    folder = find_run(runs_dir(), run)
    source = adapter_of(folder)
    target = (file or Path(f"{run}.safetensors")).absolute()
    step, effect, output = checkpoint_step(source.parent), _effect_of(source), Output(as_json)
    value: dict[str, Any] = {
        "run": run,
        "path": str(target),
        "step": step,
        "effect": effect and effect.record(),
    }
    written = [target]
    if comfyui:
        workflow = workflow_of(source, job_of(folder), check_new_file(target).name)
        written.append(check_new_file(comfyui.absolute()))
        if target.name == comfyui.name and target.parent.samefile(written[-1].parent):
            raise UsageError("Adapter and workflow have the same path.", "Give two files.")
        value["comfyui"] = str(written[-1])
        write_private(written[-1], BytesIO(json.dumps(workflow, indent=1).encode()))
    copy_private(source, target)
    output.result(value, "\n".join(f"Wrote {shown(path)}" for path in written))
    if vectors := read_vector_file(source):
        output.say(f"Keyword vectors: {vectors.text}.")
    if effect:
        output.say(f"Effect at step {step}: {describe_effect(effect.rms)}")
    _warn_if_negligible(output, effect, f"{run}@{step}")


app.command()(run_logs.tensorboard)
app.command()(run_logs.wandb)


@app.command()
def average(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN@STEP...",
            help="Two or more: RUN@STEP, RUN@best, or RUN for its newest checkpoint.",
            autocompletion=run_names,
            show_default=False,
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="NAME", help="Name of the new run. [default: IDENTITY-avg-1]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the mean of checkpoints of an identity as a new run.

    It is the mean of B·A, at the rank of the checkpoints, with the settings of the first one's run.
    """
    from pvtool_core.adapter_files.average import average as average_checkpoints

    made, output = average_checkpoints(checkpoints, to), Output(as_json)
    for each in made.checkpoints:
        for damaged in each.damaged:
            output.say(f"Warning: the checkpoint {damaged} is corrupt and not used.")
    output.result(
        made.record(),
        f"Wrote {made.folder.name}, the mean of {len(made.checkpoints)} checkpoints; "
        f"{made.relative_error:.1%} of it is lost at their rank. "
        f"Render it with `pv render {made.identity} --run {made.folder.name}`.",
    )


@app.command()
def remove(runs: RunNames, yes: Yes = False, as_json: Json = False) -> None:
    """Delete runs that are not running, after one confirmation.

    The exit status is 6 if some could not be deleted.
    """
    output, folders = Output(as_json), list[RunFolder]()
    attempts = Attempts(runs, output)
    for run in attempts.names:
        with attempts.on(run):
            folders.append(check_removable(find_run(runs_dir(), run)))
    names = [folder.name for folder in folders]
    if len(names) == 1:
        confirm(f"Delete {names[0]} and its checkpoints?", yes)
    elif names:
        confirm(f"Delete {len(names)} runs ({', '.join(names)}) and their checkpoints?", yes)
    for folder in folders:
        with attempts.on(folder.name):
            delete_run(folder)
            value = {"removed": folder.name, "path": str(folder.path)}
            output.stream(value, f"Removed {folder.name}.")
    attempts.finish()
