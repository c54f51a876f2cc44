"""From what the user chose to settings: preset, then <config>/config.toml, then the options of the command."""

from importlib.metadata import version
from typing import Any

from pvtool_core.config import Settings, Table, merge, parse_overrides, read_toml
from pvtool_core.paths import config_dir
from pvtool_core.weights import Preset, Presets

DEFAULT_PRESET = "tiny"
_PACKAGES = ("pvtool", "torch", "diffusers", "transformers", "peft", "onnxruntime")


def chosen_settings(
    preset_name: str | None = None, overrides: list[str] | None = None, options: Table | None = None
) -> tuple[Preset, Settings]:
    """The preset, and the settings that hold after everything the user said; `options` win over `overrides`.

    Raises Missing for an unknown preset, SettingsError for anything wrong in them.
    """
    user = _user_config()
    preset = Presets().get(preset_name or user.pop("preset", DEFAULT_PRESET))
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


def versions() -> dict[str, str]:
    """Versions of what decides the pixels, without importing any of it."""
    return {package: version(package) for package in _PACKAGES}
