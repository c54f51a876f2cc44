"""Merge settings: preset, then <config>/config.toml, then command-line options."""

from typing import Any

from pvtool_core.batches.columns import parse_lora
from pvtool_core.errors import UsageError
from pvtool_core.paths import config_dir
from pvtool_core.settings.notify import SECTION, read_notify_config
from pvtool_core.settings.overrides import parse_overrides
from pvtool_core.settings.presets import Preset, Presets
from pvtool_core.settings.schema import Settings
from pvtool_core.settings.toml import Table, merge, read_toml

DEFAULT_PRESET = "tiny"


def chosen_settings(
    preset_name: str | None = None,
    overrides: list[str] | None = None,
    options: Table | None = None,
    usual: str = DEFAULT_PRESET,
) -> tuple[Preset, Settings]:
    """Return the preset and the settings after all overrides.

    `options` take precedence over `overrides`. `usual` is the preset if neither the command nor
    config.toml names one. Raises Missing for an unknown preset, SettingsError for invalid settings.
    """
    user = user_settings()
    preset = Presets().get(preset_name or _user_config().get("preset", usual))
    return preset, preset.settings(merge(user, parse_overrides(overrides or []), options or {}))


def user_settings() -> Table:
    """Return the settings of <config>/config.toml, without the name of a preset."""
    user = _user_config()
    user.pop("preset", None)
    return user


def _user_config() -> Table:
    """Return the user's settings of runs. Raises SettingsError, also for those of notifications."""
    read_notify_config()
    path = config_dir() / "config.toml"
    table = read_toml(path) if path.is_file() else {}
    table.pop(SECTION, None)
    return table


def option_table(**given: Any) -> Table:
    """Return `section__key=value` as nested tables without None values."""
    table: Table = {}
    for name, value in given.items():
        section, _, key = name.partition("__")
        if value is not None:
            table.setdefault(section, {})[key] = value
    return table


def style_table(
    loras: list[str] | None, controlnet: str | None, control_frames: str | None
) -> Table:
    """Return style LoRAs and ControlNet as settings.

    Raises UsageError for an incomplete ControlNet.
    """
    if (controlnet is None) != (control_frames is None):
        raise UsageError(
            "A ControlNet needs control images.",
            "Use --controlnet and --control-frames together.",
        )
    control = {"model": controlnet, "frames": control_frames, "weight": 1.0} if controlnet else None
    return option_table(
        model__loras=[parse_lora(word) for word in loras] if loras else None, model__control=control
    )
