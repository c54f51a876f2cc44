"""`pv presets`: presets and their settings."""

from typing import Any

import typer

from pvtool.cli.options import Json, PresetName
from pvtool.output import Output
from pvtool.tables import Table
from pvtool_core.errors import InputRefused, WeightsMissing
from pvtool_core.models.locate import locate_weights
from pvtool_core.settings.overrides import setting_help
from pvtool_core.settings.presets import Preset, Presets
from pvtool_core.settings.toml import to_table

app = typer.Typer(
    help="Presets and their settings.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


def facts(preset: Preset) -> dict[str, Any]:
    """Return a preset as a table for programs."""
    about = {
        "name": preset.name,
        "origin": "yours" if preset.own else "shipped",
        "weights": _weights(preset),
    }
    return {**about, "licence": preset.licence, "description": preset.description}


def _weights(preset: Preset) -> str:
    try:
        locate_weights(preset.settings())
    except WeightsMissing:
        return "missing"
    except InputRefused:
        return "broken"
    return "here"


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List presets and whether their weights are installed."""
    presets = Presets()
    rows = [facts(presets.get(name)) for name in presets.names()]
    shown = Table.of(["name", "origin", "weights", "description"], rows, optional=["origin"])
    Output(as_json).rows("presets", rows, shown, "No presets.")


@app.command()
def show(name: PresetName, as_json: Json = False) -> None:
    """Show the settings of a preset with their descriptions.

    Change one with `pv train --set KEY=VALUE`.
    """
    preset = Presets().get(name)
    settings = to_table(preset.settings())
    value = {
        **facts(preset),
        "needs": preset.needs,
        "prompts": preset.prompts,
        "settings": settings,
    }
    meanings = setting_help()
    flat = {
        f"{section}.{key}": item for section, keys in settings.items() for key, item in keys.items()
    }
    head = [
        [key, str(value[key])]
        for key in ("name", "description", "weights", "needs", "licence", "prompts")
    ]
    rows = [[key, _in_toml(item), meanings[key]] for key, item in flat.items()]
    Output(as_json).result(value, Table.about(head), Table(["setting", "value", "meaning"], rows))


def _in_toml(value: Any) -> str:
    """Return a value as --set takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
