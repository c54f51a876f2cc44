"""`pv train`: makes a run and starts an engine on it."""

import shutil
from typing import Annotated

import typer

from pvtool.cli.choices import DEFAULT_PRESET, chosen_settings, option_table, style_table, versions
from pvtool.cli.following import JobProgress
from pvtool.cli.options import ControlFrames, ControlNet, IdentityName, Json, Loras, bank_names, preset_names
from pvtool.output import Output
from pvtool.supervisor import follow, raise_outcome, run_to_end, start_detached
from pvtool_core.config import Settings, Table, TrainJob, merge, read_job, require, write_job
from pvtool_core.errors import WeightsMissing
from pvtool_core.library import Identity, Library
from pvtool_core.models.store import licences
from pvtool_core.paths import runs_dir
from pvtool_core.prompts import Banks
from pvtool_core.runs import RunFolder, new_run
from pvtool_core.weights import Preset, family_of, resolve, resolve_settings

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def train(
    name: IdentityName,
    preset: Annotated[
        str | None, typer.Option(autocompletion=preset_names, help="What to train on; else by the base model.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Another base model: a folder, a file, ORG/NAME, models:NAME.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(autocompletion=bank_names, help="Another bank than the preset's.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As in `pv presets show`.")
    ] = None,
    loras: Loras = None,
    controlnet: ControlNet = None,
    control_frames: ControlFrames = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything drawn at random.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running and return.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Estimate memory and time, and start nothing.")] = False,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="What the device sustains, for --plan; else by its name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a person's adapter. Ctrl-C saves a checkpoint and stops; a lost terminal changes nothing."""
    output = Output(as_json)
    chosen = (name, preset, base_model, prompts, sets, seed, style_table(loras, controlnet, control_frames))
    if plan:
        from pvtool.cli.planning import plan_of, show

        _, _, bank, settings = choose(*chosen, only_planned=True)
        show(plan_of(settings, len(bank), tflops), output)
        return
    folder = prepare(choose(*chosen))
    output.say(f"Run {folder.name}: {folder.path}")
    go(folder, detach, output)


Choice = tuple[Identity, Preset, tuple[str, ...], Settings]
"""Whom, on what, with which prompts and settings."""


def prepare(choice: Choice) -> RunFolder:
    """Make the folder of a new run, its settings complete. Raises before anything is made if something is wrong."""
    identity, preset, prompts, settings = choice
    settings = resolve_settings(settings)
    folder = new_run(runs_dir(), identity.name)
    try:
        job = TrainJob(
            **settings.sections(),
            run=folder.name,
            preset=preset.name,
            identity=identity.ref,
            prompts=prompts,
            versions=versions(),
            licences=licences(settings),
        )
        write_job(folder.config, job)
    except BaseException:
        shutil.rmtree(folder.path)
        raise
    return folder


def choose(
    name: str,
    preset_name: str | None = None,
    base_model: str | None = None,
    bank: str | None = None,
    sets: list[str] | None = None,
    seed: int | None = None,
    style: Table | None = None,
    *,
    only_planned: bool = False,
) -> Choice:
    """What the user wants trained. Raises whatever is wrong with the choice.

    The weights may be missing, but for a base model named here: it says which family it is, unless all is only planned.
    """
    identity = Library().get(name)
    try:
        family = family_of(resolve(base_model)) if base_model else None
    except WeightsMissing:
        if not only_planned:
            raise
        family = None
    options = option_table(model__base_model=base_model, model__family=family, training__seed=seed)
    preset, settings = chosen_settings(preset_name, sets, merge(options, style or {}), family or DEFAULT_PRESET)
    return identity, preset, Banks().get(bank or preset.prompts).fill(identity.noun), settings


def go(folder: RunFolder, detach: bool, output: Output) -> None:
    """Start or resume the engine of a prepared run, and follow it unless it is to be left alone."""
    value = {"run": folder.name, "path": str(folder.path)}
    if detach:
        start_detached(folder)
        text = f"{folder.name} is training. `pv runs logs {folder.name} --follow` shows it, `pv runs stop` ends it."
        output.result({**value, "state": folder.state()}, text)
        return
    follow_training(folder)
    output.result(
        {**value, "state": folder.state()}, f"{folder.name} is {folder.state()}: {folder.latest_checkpoint()}"
    )


def follow_training(folder: RunFolder) -> None:
    """Run the engine of a prepared run to its end, with progress. Raises what it reports."""
    with JobProgress(_iterations(folder)) as progress:
        run_to_end(folder, progress.on_event)


def follow_other(folder: RunFolder) -> None:
    """Show the progress of an engine that somebody else started, to its end. Raises what it reports."""
    with JobProgress(_iterations(folder)) as progress:
        follow(folder, progress.on_event)
    raise_outcome(folder)


def _iterations(folder: RunFolder) -> int:
    return require(read_job(folder.config), TrainJob).training.iterations
