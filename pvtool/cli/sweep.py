"""`pv sweep`: train, render and evaluate a grid of settings, identities and seeds."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from pvtool.cli.completion import beginning, setting_words
from pvtool.cli.options import Json, identity_names, preset_names
from pvtool.cli.plan_report import gib
from pvtool.cli.progress import ClipProgress, JobProgress
from pvtool.cli.render_options import Address, On, Part, check_place, parse_devices, parse_shard
from pvtool.jobs.settings import user_settings
from pvtool.jobs.sweep_plan import SweepPlan, plan_sweep
from pvtool.output import Output
from pvtool.tables import Table
from pvtool.text import duration, shown
from pvtool_core.api.sweep import (
    RENDERING,
    TRAINING,
    SweepOptions,
    SweepOutcome,
    SweepWatcher,
    run_cells,
    score_sets,
)
from pvtool_core.errors import PvError, UsageError
from pvtool_core.models.locate import missing_weights
from pvtool_core.paths import check_utf8, exists, sweeps_dir
from pvtool_core.settings.objectives import OBJECTIVES
from pvtool_core.settings.overrides import parse_overrides
from pvtool_core.store.events import ClipEvent, Event, WarningEvent
from pvtool_core.sweeps.cells import Cell, cells_of
from pvtool_core.sweeps.sweep_file import Sweep, Sweeps, with_changes

app = typer.Typer(rich_markup_mode=None, add_completion=False)

LIST = "list"


def sweep_names(incomplete: str) -> list[str]:
    """Complete names of sweeps."""
    return beginning([LIST, *Sweeps().names()], incomplete)


@app.command()
def sweep(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP",
            autocompletion=sweep_names,
            help="TOML file, name of a shipped sweep, or `list` to list these.",
            show_default=False,
        ),
    ],
    identities: Annotated[
        list[str] | None,
        typer.Option(
            "--identity",
            metavar="NAME",
            autocompletion=identity_names,
            help="Identity instead of those of the file; repeatable.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(autocompletion=preset_names, help="Preset instead of that of the file."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            autocompletion=setting_words,
            help="Override a setting of all cells.",
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Estimate runs, clips, time and disk; start nothing.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Print the table of the complete cells; start nothing.")
    ] = False,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="0,1",
            help="GPUs to use, with a cell on each at a time. [default: that of the settings]",
        ),
    ] = None,
    shard: Part = None,
    on: On = "",
    address: Address = "",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of results. [default: sweeps/NAME in the data]"),
    ] = None,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going/--stop-early", help="After a failed cell, go on with the others, or stop."
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Train and evaluate a grid of settings, identities and seeds, and tabulate it.

    Run again to resume: finished runs, clips and scores are reused. Several processes and machines
    with the same data folder divide the cells.
    """
    output = Output(as_json)
    if name == LIST and not exists(Path(LIST)):
        _list(output)
        return
    if plan and table:
        raise UsageError("--plan and --table cannot be combined.", "Use one of them.")
    chosen = with_changes(
        Sweeps().get(name), parse_overrides(sets or []), tuple(identities or ()), preset or ""
    )
    part, place = parse_shard(shard), check_place(on, address, devices)
    cells = cells_of(chosen, user_settings(), only_planned=plan)
    target = check_utf8(out.absolute() if out else sweeps_dir() / chosen.name)
    if plan:
        own = cells[part.number - 1 :: part.count] if part else cells
        _show_plan(output, plan_sweep(own, target), own)
        return
    outcome = SweepOutcome()
    if not table:
        own = cells[part.number - 1 :: part.count] if part else cells
        options = SweepOptions(
            out=target, devices=tuple(parse_devices(devices)), keep_going=keep_going
        )
        outcome = _run(output, own, options, place, address)
        with JobProgress() as progress:
            score_sets(cells, options, progress.on_event)
    _show_results(output, chosen, cells, target, outcome)
    if outcome.error:
        raise outcome.error


def _list(output: Output) -> None:
    sweeps = [(each, Sweeps().get(each)) for each in Sweeps().names()]
    rows: list[Mapping[str, Any]] = [
        {
            "name": each,
            "preset": found.about.preset,
            "variants": len(found.variants),
            "description": found.about.description,
        }
        for each, found in sweeps
    ]
    columns = ["name", "preset", "variants", "description"]
    output.rows("sweeps", rows, Table.of(columns, rows), "No sweeps.")


def _run(
    output: Output, cells: Sequence[Cell], options: SweepOptions, on: str, address: str
) -> SweepOutcome:
    """Work on the cells here, or on a Ray cluster."""
    with _Progress(output, cells, bars=len(options.devices) < 2) as progress:
        if on:
            from pvtool_core.api.sweep_on_ray import run_cells_on_ray

            return run_cells_on_ray(cells, options, address, progress)
        return run_cells(cells, options, progress)


class _Progress(SweepWatcher):
    """Prints a line for each cell and, with `bars`, the progress of its engines."""

    def __init__(self, output: Output, cells: Sequence[Cell], bars: bool) -> None:
        self._output, self._bars, self._waited = output, bars, False
        self._places = {cell.key: f"{n}/{len(cells)}" for n, cell in enumerate(cells, 1)}
        self._stack, self._shown = ExitStack(), JobProgress()

    def on_start(self, cell: Cell) -> None:
        self._output.say(f"[{self._places[cell.key]}] {cell.label}")

    def on_stage(self, cell: Cell, stage: str, total: int) -> None:
        self._stack.close()
        count = f"{total} iterations" if stage == TRAINING else f"{total} clips"
        self._output.say(f"[{self._places[cell.key]}] {cell.label}: {stage} {count}")
        if not self._bars:
            return
        training, device = cell.settings.training, cell.settings.model.device
        losses = OBJECTIVES[training.objective].losses
        self._shown = (
            ClipProgress(total)
            if stage == RENDERING
            else JobProgress(total if stage == TRAINING else 0, losses, device)
        )
        self._stack.enter_context(self._shown)

    def on_event(self, cell: Cell, event: Event) -> None:
        if not self._bars:
            if isinstance(event, WarningEvent):
                self._output.say(f"Warning: {cell.label}: {event.message}")
        elif isinstance(event, ClipEvent):
            if isinstance(self._shown, ClipProgress):
                self._shown.on_clip(event)
        else:
            self._shown.on_event(event)

    def on_end(self, cell: Cell, error: PvError | None) -> None:
        self._stack.close()
        if error:
            self._output.say(f"Warning: {cell.label} failed: {error.message} {error.hint}")

    def on_wait(self, cells: Sequence[Cell]) -> None:
        if not self._waited:
            self._output.say(f"Waiting for {len(cells)} cells of other processes.")
        self._waited = True

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _show_plan(output: Output, plan: SweepPlan, cells: Sequence[Cell]) -> None:
    """Print the estimate, and report missing weights."""
    missing = {error.message: error for cell in cells for error in missing_weights(cell.settings)}
    seconds = (plan.training_seconds, plan.rendering_seconds, plan.scoring_seconds)
    pairs = [
        ["cells", f"{plan.cells}, of which {plan.complete} are complete"],
        ["runs to train", f"{plan.runs}, {plan.iterations} iterations"],
        ["clips", f"{plan.clips} at most"],
        ["training", _time(seconds[0])],
        ["rendering", _time(seconds[1])],
        ["scoring", _time(seconds[2])],
        ["checkpoints", f"{gib(plan.checkpoint_bytes)} GiB"],
        ["trajectories", f"{gib(plan.trajectory_bytes)} GiB"],
    ]
    notes = (
        "Unknown times are measured by the first cell." if None in seconds else "",
        "The size of clips is not counted.",
    )
    output.result(
        {**plan.table(), "missing": list(missing)},
        Table.about(pairs),
        "\n".join(filter(None, notes)),
    )
    for error in missing.values():
        output.say(f"{error.message} {error.hint}")


def _time(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"about {duration(seconds)}"


def _show_results(
    output: Output, chosen: Sweep, cells: Sequence[Cell], out: Path, outcome: SweepOutcome
) -> None:
    """Write and print the results, with the cells that failed."""
    from pvtool_core.sweeps.result_files import write_results
    from pvtool_core.sweeps.sweep_tables import MARKDOWN, PAGE, notes_of, source_of, tables_of

    results = write_results(chosen, cells, out)
    failed = [
        {"cell": cell.label, "error": error.message, "hint": error.hint}
        for cell, error in outcome.failed
    ]
    parts: list[str | Table] = []
    for each in tables_of(results):
        parts += [f"{each.title}:", Table(["row", *each.columns[1:]], each.rows)]
    notes = [*filter(None, [source_of(results)]), *notes_of(results)]
    notes += [f"Failed: {each['cell']}: {each['error']}" for each in failed]
    parts += ["\n".join(notes)] if notes else []
    parts.append(f"Table: {shown(out / MARKDOWN)}\nPage: {shown(out / PAGE)}")
    output.result({**results, "out": str(out), "failed": failed}, *parts)
