"""Options and arguments that several commands share, and the completion of names."""

from typing import Annotated

import typer

from pvtool.cli.completion import beginning
from pvtool_core.models.installed import Models
from pvtool_core.paths import runs_dir
from pvtool_core.settings.families import only
from pvtool_core.settings.objectives import OBJECTIVES
from pvtool_core.settings.presets import Presets
from pvtool_core.store.identities import Library
from pvtool_core.store.prompts import Banks
from pvtool_core.store.runs import list_runs


def identity_names(incomplete: str) -> list[str]:
    return beginning(Library().names(), incomplete)


def run_names(incomplete: str) -> list[str]:
    return beginning([run.name for run in list_runs(runs_dir())], incomplete)


def preset_names(incomplete: str) -> list[str]:
    return beginning(Presets().names(), incomplete)


def bank_names(incomplete: str) -> list[str]:
    return beginning(Banks().names(), incomplete)


def objective_names(incomplete: str) -> list[str]:
    return beginning(OBJECTIVES, incomplete)


def model_names(incomplete: str) -> list[str]:
    return beginning(Models().names(), incomplete)


Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")]
IdentityName = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=identity_names, show_default=False)
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", autocompletion=run_names, show_default=False)
]
RunNames = Annotated[
    list[str], typer.Argument(metavar="RUN...", autocompletion=run_names, show_default=False)
]
PresetName = Annotated[
    str, typer.Argument(metavar="PRESET", autocompletion=preset_names, show_default=False)
]
ModelName = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=model_names, show_default=False)
]
BankName = Annotated[
    str, typer.Argument(metavar="BANK", autocompletion=bank_names, show_default=False)
]
Seeds = Annotated[
    str | None,
    typer.Option("--seed", metavar="SEEDS", help="Random seeds: 3, 0..3 or 0,5,9. [default: 0]"),
]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:WEIGHT]",
        help="Style LoRA; can be repeated.",
    ),
]
ControlNet = Annotated[
    str | None,
    typer.Option(
        "--controlnet", metavar="MODEL", help=f"ControlNet folder; {only('model.control')}."
    ),
]
ControlFrames = Annotated[
    str | None,
    typer.Option(
        "--control-frames", metavar="DIR_OR_VIDEO", help="Control images: a folder or a video."
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Image protocol: kitty, blocks, off or auto. [default: auto]",
    ),
]
DataFolders = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="[NAME=]DIR",
        help="Also show the runs of another data folder, such as a mounted one of another "
        "machine; can be repeated.",
    ),
]
