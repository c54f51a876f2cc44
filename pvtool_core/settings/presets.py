"""Presets: named sets of settings, shipped with pv or written by the user."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvtool_core.errors import Missing, Mistake, SettingsError
from pvtool_core.paths import check_name, config_dir, nearest, presets_dir
from pvtool_core.settings.objectives import DEFAULT_OBJECTIVE, OBJECTIVES
from pvtool_core.settings.schema import Settings
from pvtool_core.settings.toml import Table, from_table, merge, read_toml

_PRESET_KEYS = {"description", "prompts", "needs", "licence", "extends"}


@dataclass(frozen=True)
class Preset:
    """A named set of settings.

    `table` has the values of the file; `prompts` is the name of its prompt bank.
    """

    name: str
    description: str
    prompts: str
    licence: str
    needs: str
    table: Table
    own: bool

    def settings(self, *overrides: Table) -> Settings:
        """Return the settings of the preset with `overrides` applied. Raises SettingsError.

        Another objective brings its own settings, such as `adapter.start`, below the overrides.
        """
        table = with_overrides(self.table, merge(*overrides))
        return from_table(Settings, table, f"preset {self.name}")


class Presets:
    """The shipped presets and the user's; the latter replace shipped ones of the same name."""

    def __init__(self, shipped: Path | None = None, own: Path | None = None) -> None:
        self.shipped = shipped or presets_dir()
        self.own = own or config_dir() / "presets"

    def names(self) -> list[str]:
        return sorted(
            {path.stem for folder in (self.shipped, self.own) for path in folder.glob("[!.]*.toml")}
        )

    def get(self, name: str) -> Preset:
        """Return the preset of that name.

        Raises Missing, BadName, or SettingsError if its file is invalid.
        """
        file = check_name("a preset", name) + ".toml"
        for folder in (self.own, self.shipped):
            if (folder / file).is_file():
                return self._read(folder / file, own=folder is self.own)
        near = nearest(name, self.own) or nearest(name, self.shipped)
        raise Missing("preset", name, "See `pv presets list`.", near)

    def _read(self, path: Path, own: bool) -> Preset:
        """Read the file of a preset, on top of the shipped preset that it `extends`."""
        table = read_toml(path)
        parent = table.get("preset", {}).get("extends")
        table = with_overrides(self._parent(path, parent) if parent else {}, table)
        words = _about(path, table.pop("preset", {}))
        words.pop("extends", None)
        return Preset(name=path.stem, table=table, own=own, **words)

    def _parent(self, path: Path, name: Any) -> Table:
        """Return the table of the shipped preset that a preset extends. Raises SettingsError."""
        parent = self.shipped / f"{name}.toml"
        table = read_toml(parent) if parent.is_file() else {}
        if not table or "extends" in table.get("preset", {}):
            known = [
                file.stem
                for file in self.shipped.glob("[!.]*.toml")
                if "extends" not in read_toml(file)["preset"]
            ]
            raise SettingsError(
                [Mistake("preset.extends", f"is {name!r}, not one of {', '.join(sorted(known))}")],
                str(path),
            )
        return table


def with_overrides(table: Table, overrides: Table) -> Table:
    """Return settings with overrides, and with the settings of an objective that these select."""
    objective = _objective_in(overrides)
    if objective not in OBJECTIVES or objective == (_objective_in(table) or DEFAULT_OBJECTIVE):
        return merge(table, overrides)
    return merge(table, dict(OBJECTIVES[objective].settings), overrides)


def _objective_in(table: Table) -> str:
    """Return the objective that a table names, which may be invalid, or ""."""
    training: Any = table.get("training")
    return str(training.get("objective", "")) if isinstance(training, dict) else ""


def preset_of(preset: Preset | str) -> Preset:
    """Return a preset, or the one of that name. Raises what `Presets.get` raises."""
    return Presets().get(preset) if isinstance(preset, str) else preset


def _about(path: Path, about: Mapping[str, Any]) -> dict[str, str]:
    """Return the [preset] table. Raises SettingsError."""
    wrong = [
        Mistake(f"preset.{key}", "unknown setting") for key in about if key not in _PRESET_KEYS
    ]
    wrong += [
        Mistake(f"preset.{key}", "is not text")
        for key, value in about.items()
        if not isinstance(value, str)
    ]
    if wrong:
        raise SettingsError(wrong, str(path))
    return {"description": "", "prompts": "default", "licence": "", "needs": "", **about}
