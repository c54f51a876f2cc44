"""`pv train`: create a run and start its engine."""

from typing import Annotated

import typer

from pvtool.cli.completion import setting_words
from pvtool.cli.cut_prompts import warn_of_cuts
from pvtool.cli.options import (
    ControlFrames,
    ControlNet,
    IdentityName,
    Json,
    Loras,
    bank_names,
    objective_names,
    preset_names,
)
from pvtool.cli.training import go
from pvtool.jobs.prepare import choose, prepare
from pvtool.jobs.settings import option_table, style_table
from pvtool.output import Output, on_terminal
from pvtool_core.errors import UsageError
from pvtool_core.models.prompt_limits import check_prompts_fit
from pvtool_core.settings.toml import merge
from pvtool_core.supervisor import start

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def train(
    name: IdentityName,
    preset: Annotated[
        str | None,
        typer.Option(autocompletion=preset_names, help="Preset. [default: by the base model]"),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Base model: a folder, a file, ORG/NAME or models:NAME."
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(autocompletion=bank_names, help="Prompt bank. [default: the preset's]"),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            autocompletion=objective_names, help="Training objective. [default: the preset's]"
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            autocompletion=setting_words,
            help="Override a setting; see `pv presets show`.",
        ),
    ] = None,
    loras: Loras = None,
    controlnet: ControlNet = None,
    control_frames: ControlFrames = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed.")] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return immediately and leave it running.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the run in the dashboard, on a terminal.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Estimate memory and time without starting.")
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option(min=0.001, help="Sustained throughput for --plan. [default: by GPU name]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train an adapter for an identity.

    Ctrl-C saves a checkpoint and stops; closing the terminal does not affect the run.
    """
    output = Output(as_json)
    chosen = (
        name,
        preset,
        base_model,
        prompts,
        sets,
        seed,
        merge(
            style_table(loras, controlnet, control_frames),
            option_table(training__objective=objective),
        ),
    )
    if plan:
        from pvtool.cli.plan_report import show
        from pvtool.jobs.planning import plan_of

        person, _, bank, settings = choose(*chosen, only_planned=True)
        warn_of_cuts(
            output,
            check_prompts_fit(
                settings.model,
                bank,
                settings.sampler.negative_prompt,
                person.noun,
                settings.keyword_vectors,
            ),
        )
        show(plan_of(settings, len(bank), tflops), output)
        return
    if watch and detach:
        raise UsageError(
            "--watch and --detach cannot be combined.",
            "Show a detached run with `pv runs watch RUN`.",
        )
    watched = watch and on_terminal()
    if watched:
        from pvtool.terminal import choice

        choice()  # raises before a run is created
    folder = prepare(choose(*chosen))
    output.say(f"Run {folder.name}: {folder.path}")
    if watched:
        from pvtool.cli.training import watch_run

        watch_run(folder, output, engine=start(folder))
    else:
        go(folder, detach, output)
