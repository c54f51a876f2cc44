"""From what the user chose to settings: preset, then <config>/config.toml, then the options of the command."""

from importlib.metadata import version
from typing import Any

from pvtool_core.batches.columns import parse_lora
from pvtool_core.errors import UsageError
from pvtool_core.paths import config_dir
from pvtool_core.settings.overrides import parse_overrides
from pvtool_core.settings.presets import Preset, Presets
from pvtool_core.settings.schema import Settings
from pvtool_core.settings.toml import Table, merge, read_toml

DEFAULT_PRESET = "tiny"
_PACKAGES = ("pvtool", "torch", "diffusers", "transformers", "peft", "onnxruntime")


def chosen_settings(
    preset_name: str | None = None,
    overrides: list[str] | None = None,
    options: Table | None = None,
    usual: str = DEFAULT_PRESET,
) -> tuple[Preset, Settings]:
    """The preset, and the settings that hold after everything the user said; `options` win over `overrides`.

    `usual` is the preset where neither the command nor the user's own settings name one.
    Raises Missing for an unknown preset, SettingsError for anything wrong in them.
    """
    user = _user_config()
    preset = Presets().get(preset_name or user.get("preset", usual))
    user.pop("preset", None)
    return preset, preset.settings(merge(user, parse_overrides(overrides or []), options or {}))


def _user_config() -> Table:
    path = config_dir() / "config.toml"
    return read_toml(path) if path.is_file() else {}


def option_table(**given: Any) -> Table:
    """`section__key=value` as nested tables, leaving out what is None."""
    table: Table = {}
    for name, value in given.items():
        section, _, key = name.partition("__")
        if value is not None:
            table.setdefault(section, {})[key] = value
    return table


def style_table(
    loras: list[str] | None, controlnet: str | None, control_frames: str | None
) -> Table:
    """Style LoRAs and ControlNet as the settings hold them. Raises UsageError for one half of a ControlNet."""
    if (controlnet is None) != (control_frames is None):
        raise UsageError(
            "A ControlNet needs pictures to be led by.",
            "Give both --controlnet and --control-frames.",
        )
    control = {"model": controlnet, "frames": control_frames, "weight": 1.0} if controlnet else None
    return option_table(
        model__loras=[parse_lora(word) for word in loras] if loras else None, model__control=control
    )


def versions() -> dict[str, str]:
    """Versions of what decides the pixels, without importing any of it."""
    return {package: version(package) for package in _PACKAGES}
