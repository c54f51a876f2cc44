"""Preferences that the dashboard remembers in the user's config folder."""

import json
from pathlib import Path

from pvtool_core.errors import PvError
from pvtool_core.files import replace_file
from pvtool_core.paths import config_dir
from pvtool_core.settings.toml import read_toml


def preferences_file() -> Path:
    """Return the file of the preferences, which may not exist."""
    return config_dir() / "dashboard.toml"


def read_theme() -> str | None:
    """Return the remembered theme. Raises PvError if the file is invalid or unreadable."""
    path = preferences_file()
    if not path.is_file():
        return None
    theme = read_toml(path).get("theme")
    if theme is not None and not isinstance(theme, str):
        raise PvError(f"Invalid theme in {path}.", "It must be a name in quotes.")
    return theme


def remember_theme(theme: str) -> None:
    """Write the theme, atomically. Raises OSError."""
    path = preferences_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, f"theme = {json.dumps(theme)}\n".encode())
