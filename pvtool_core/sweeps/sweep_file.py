"""Sweep files: variants of settings, identities, seeds, metrics, and the figures of a paper.

A file is checked completely before anything is started, and all mistakes are reported together.
docs/sweeps.md describes the format.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, cast

from pvtool_core.errors import Missing, Mistake, PvError, SettingsError, UsageError
from pvtool_core.evaluation.metric_names import metric_names
from pvtool_core.paths import check_name, config_dir, exists, nearest, presets_dir, user_path
from pvtool_core.settings.methods import METHODS
from pvtool_core.settings.overrides import check_setting
from pvtool_core.settings.presets import Preset, Presets
from pvtool_core.settings.schema import Settings, setting
from pvtool_core.settings.toml import Table, from_table, merge, read_toml, shown_value, unknown
from pvtool_core.store.prompts import Banks, check_prompts

BASE_ROW = "base model"
"""The row of the base model, whose clips every cell evaluates beside its own."""
MOST_VARIANTS, MOST_CELLS, MOST_NAME = 200, 10_000, 60
_HINT = "See docs/sweeps.md for the format, and `pv presets show NAME` for every setting."
_VARIANT = {"name", "set", "prompts", "method"}
_SECTIONS = ("sweep", "set", "variant", "grid", "evaluation", "paper")
_DETERMINED = {
    "training.seed": "set sweep.seeds",
    "evaluation.prompts": "set evaluation.prompts of the sweep",
    "evaluation.seeds": "set evaluation.seeds of the sweep",
}
"""Settings that a sweep determines, with what to set instead."""


@dataclass(frozen=True, kw_only=True)
class SweepEvaluation:
    """The evaluation of each cell; empty values are those of the preset."""

    prompts: str = setting("bank of the evaluation prompts; empty: the preset's", "")
    most_prompts: int = setting("number of its first prompts; 0 uses all", 0, low=0, high=100_000)
    seeds: tuple[int, ...] = setting(
        "seeds of the evaluation clips; empty: the preset's", (), low=0, high=2**63 - 1
    )
    metrics: tuple[str, ...] = setting(
        "metrics of the table, in the order of its columns",
        ("likeness", "faces_found", "motion", "dynamic_flow", "clip_t"),
    )


@dataclass(frozen=True, kw_only=True)
class SweepAbout:
    """The table [sweep] of a file."""

    description: str = setting("one line about the sweep", "")
    preset: str = setting("preset that the settings of the file change", "tiny")
    identities: tuple[str, ...] = setting("names of identities of the library", ())
    seeds: tuple[int, ...] = setting("seeds of training", (0,), low=0, high=2**63 - 1)
    prompts: str = setting("bank of the training prompts; empty: the preset's", "")
    reference: str = setting(
        f"row that differences are taken from: a variant or {BASE_ROW!r}", BASE_ROW
    )


@dataclass(frozen=True)
class Variant:
    """A row of the table: settings that differ from the preset, and training prompts of its own.

    `prompts` is the name of a bank, or the prompts. A variant with the name of an encoder `method`
    trains nothing, and has neither.
    """

    name: str
    settings: Table
    prompts: str | tuple[str, ...] = ""
    method: str = ""


@dataclass(frozen=True)
class PaperFigures:
    """The figures of a paper: values by row and column.

    `columns` has the metric that corresponds to a column, if there is one.
    """

    source: str = ""
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    rows: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A checked sweep. `settings` apply to all variants, over those of the preset."""

    name: str
    path: Path
    about: SweepAbout
    settings: Table
    variants: tuple[Variant, ...]
    evaluation: SweepEvaluation
    paper: PaperFigures

    def preset(self) -> Preset:
        """Return the preset. Raises Missing."""
        return Presets().get(self.about.preset)

    def settings_of(self, variant: Variant, user: Table, seed: int = 0) -> Settings:
        """Return the complete settings of a cell. Raises SettingsError.

        `user` has settings over those of the preset and below those of the sweep.
        """
        evaluation: Table = {}
        if self.evaluation.prompts:
            evaluation["prompts"] = self.evaluation.prompts
        if self.evaluation.seeds:
            evaluation["seeds"] = list(self.evaluation.seeds)
        determined = {"training": {"seed": seed}, "evaluation": evaluation}
        return self.preset().settings(
            merge(user, self.settings, variant.settings, cast(Table, determined))
        )

    def prompts_of(self, variant: Variant) -> tuple[str, ...]:
        """Return the training prompts of a variant, with `{noun}` in them. Raises BadPrompt."""
        chosen = variant.prompts or self.about.prompts or self.preset().prompts
        return Banks().get(chosen).prompts if isinstance(chosen, str) else chosen


class Sweeps:
    """The shipped sweeps and the user's; the latter replace shipped ones of the same name."""

    def __init__(self) -> None:
        self.shipped = presets_dir() / "sweeps"
        self.own = config_dir() / "sweeps"

    def names(self) -> list[str]:
        """Return the names of all sweeps."""
        folders = (self.shipped, self.own)
        return sorted({path.stem for folder in folders for path in folder.glob("[!.]*.toml")})

    def get(self, words: str) -> Sweep:
        """Read the sweep of a name, or in a file. Raises Missing, BadName, SettingsError."""
        return read_sweep(self.find(words))

    def find(self, words: str) -> Path:
        """Return the file of a sweep, given by its name or path.

        Raises Missing, BadName, and UsageError for a folder, pipe or device.
        """
        path = user_path(words)
        if words.endswith(".toml") or "/" in words:
            if not exists(path):
                raise Missing("file", words, "`pv sweep list` shows the shipped sweeps.")
            if not path.is_file():
                raise UsageError(f"{path} is not a regular file.", "Use a TOML file.")
            return path.absolute()
        file = check_name("a sweep", words) + ".toml"
        for folder in (self.own, self.shipped):
            if (folder / file).is_file():
                return folder / file
        near = nearest(words, self.own) or nearest(words, self.shipped)
        raise Missing("sweep", words, "See `pv sweep list`, or give a TOML file.", near)


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep; its name is that of the file.

    Raises SettingsError with all mistakes, BadName, RunFailed if the file cannot be read.
    """
    name = check_name("a sweep", path.name.removesuffix(".toml"))
    return _Reader(name, path).read(read_toml(path))


class _Reader:
    """Reads the tables of one file and collects their mistakes."""

    def __init__(self, name: str, path: Path) -> None:
        self._name, self._path = name, path
        self._mistakes: list[Mistake] = []

    def read(self, table: Table) -> Sweep:
        for key in table:
            if key not in _SECTIONS:
                self._add(key, unknown(key, _SECTIONS))
        sweep = Sweep(
            name=self._name,
            path=self._path,
            about=self._section(SweepAbout, table, "sweep"),
            settings=self._settings("set", table.get("set", {})),
            variants=self._variants(table),
            evaluation=self._section(SweepEvaluation, table, "evaluation"),
            paper=self._paper(table.get("paper", {})),
        )
        self._check(sweep)
        if self._mistakes:
            raise SettingsError(self._mistakes, str(self._path), _HINT)
        return sweep

    def _add(self, key: str, problem: str) -> None:
        self._mistakes.append(Mistake(key, problem))

    def _section(self, cls: type[Any], table: Table, key: str) -> Any:
        """Return a section as its dataclass, or the default one if it has mistakes."""
        try:
            return from_table(cls, self._table(key, table.get(key, {})))
        except SettingsError as error:
            for each in error.mistakes:
                self._add(f"{key}.{each.key}", each.problem)
            return cls()

    def _table(self, key: str, value: Any) -> Table:
        if isinstance(value, dict):
            return cast(Table, value)
        self._add(key, f"is {shown_value(value)}, not a table")
        return {}

    def _settings(self, place: str, value: Any) -> Table:
        """Return settings by section; `section.key` may be one quoted key or two."""
        found: Table = {}
        for key, each in _flat(self._table(place, value)):
            section, _, name = key.partition(".")
            mistakes: list[Mistake] = []
            if key in _DETERMINED:
                self._add(f"{place}.{key}", f"is determined by the sweep: {_DETERMINED[key]}")
            else:
                check_setting(key, each, mistakes)
            self._mistakes += [Mistake(f"{place}.{one.key}", one.problem) for one in mistakes]
            found.setdefault(section, {})[name] = each
        return found

    def _variants(self, table: Table) -> tuple[Variant, ...]:
        listed, grid = self._listed(table.get("variant", [])), self._grid(table.get("grid", {}))
        if not listed and not grid:
            self._add("variant", "is missing: a sweep needs [[variant]] tables or a [grid]")
        count = max(1, len(listed)) * max(1, len(grid))
        if count > MOST_VARIANTS:
            self._add("variant", f"has {count} combinations with the grid, over {MOST_VARIANTS}")
            return ()
        if grid and any(variant.method for variant in listed):
            self._add("grid", "cannot be combined with a variant of an encoder method")
        return tuple(
            Variant(
                ", ".join(filter(None, (variant.name, combined.name))),
                merge(variant.settings, combined.settings),
                variant.prompts,
                variant.method,
            )
            for variant in listed or [Variant("", {})]
            for combined in grid or [Variant("", {})]
        )

    def _listed(self, value: Any) -> list[Variant]:
        if not isinstance(value, list):
            self._add("variant", f"is {shown_value(value)}, not a list of tables")
            return []
        found: list[Variant] = []
        for number, each in enumerate(cast("list[Any]", value)):
            place = f"variant[{number}]"
            one = self._table(place, each)
            for key in one.keys() - _VARIANT:
                self._add(f"{place}.{key}", unknown(key, _VARIANT))
            name = self._row_name(f"{place}.name", one.get("name", ""))
            prompts = self._prompts(f"{place}.prompts", one.get("prompts", ""))
            settings = self._settings(f"{place}.set", one.get("set", {}))
            method = self._method(place, one)
            found.append(Variant(name, settings, prompts, method))
        return found

    def _method(self, place: str, one: Table) -> str:
        """Return the encoder method of a variant, which has no settings of training."""
        method = one.get("method", "")
        if method not in ("", *METHODS):
            self._add(f"{place}.method", f"is {shown_value(method)}, not {' or '.join(METHODS)}")
            return ""
        if method and (one.keys() & {"set", "prompts"}):
            self._add(f"{place}.method", "trains nothing: remove set and prompts")
        return method

    def _prompts(self, place: str, value: Any) -> str | tuple[str, ...]:
        """Return the name of a bank, or checked prompts."""
        try:
            if isinstance(value, str):
                return Banks().get(value).name if value else ""
            texts = cast("list[Any]", value) if isinstance(value, list) else []
            words = [each for each in texts if isinstance(each, str)]
            if words and words == texts:
                return check_prompts(words, place)
            self._add(place, f"is {shown_value(value)}, not the name of a bank or a list of texts")
        except PvError as error:
            self._add(place, error.message.rstrip("."))
        return ""

    def _row_name(self, place: str, value: Any) -> str:
        if isinstance(value, str) and _is_row_name(value):
            return value
        self._add(
            place,
            f"is {shown_value(value)}, not a name of 1 to {MOST_NAME} printable characters other "
            f"than {BASE_ROW!r}",
        )
        return ""

    def _grid(self, value: Any) -> list[Variant]:
        """Return a variant for each combination of the values."""
        axes: list[list[tuple[str, Any]]] = []
        for key, values in _flat(self._table("grid", value)):
            if not isinstance(values, list) or not values:
                self._add(f"grid.{key}", f"is {shown_value(values)}, not a list of values")
                continue
            each = cast("list[Any]", values)
            for one in each:
                self._settings("grid", {key: one})
            axes.append([(key, one) for one in each])
        if not axes or math.prod(map(len, axes)) > MOST_VARIANTS:
            if axes:
                self._add("grid", f"has more than {MOST_VARIANTS} combinations")
            return []
        return [
            Variant(
                ", ".join(f"{key.rpartition('.')[2]} {_word(one)}" for key, one in pairs),
                merge(*({_section(key): {_name(key): one}} for key, one in pairs)),
            )
            for pairs in product(*axes)
        ]

    def _paper(self, value: Any) -> PaperFigures:
        table = self._table("paper", value)
        for key in table.keys() - {"source", "columns", "rows"}:
            self._add(f"paper.{key}", unknown(key, ("source", "columns", "rows")))
        source = table.get("source", "")
        if not isinstance(source, str) or not source.isprintable():
            self._add("paper.source", f"is {shown_value(source)}, not one line of text")
            source = ""
        columns = self._table("paper.columns", table.get("columns", {}))
        for column, metric in columns.items():
            if metric not in metric_names():
                self._add(f"paper.columns.{column}", _no_metric(metric))
        rows: dict[str, dict[str, float]] = {}
        for row, cells in self._table("paper.rows", table.get("rows", {})).items():
            rows[row] = {}
            for column, number in self._table(f"paper.rows.{row}", cells).items():
                if type(number) not in (int, float) or not math.isfinite(number):
                    self._add(f"paper.rows.{row}.{column}", f"is {shown_value(number)}, no number")
                else:
                    rows[row][column] = float(number)
        names = [*columns, *rows, *(column for cells in rows.values() for column in cells)]
        if strange := [name for name in names if not name.isprintable() or not name]:
            self._add("paper", f"has the name {strange[0]!r}, which is not printable")
        return PaperFigures(source, {key: str(each) for key, each in columns.items()}, rows)

    def _check(self, sweep: Sweep) -> None:
        """Check what concerns several parts of the file."""
        about, names = sweep.about, [variant.name for variant in sweep.variants]
        self._distinct("variant", names)
        self._distinct("sweep.identities", about.identities)
        self._distinct("sweep.seeds", about.seeds)
        self._distinct("evaluation.seeds", sweep.evaluation.seeds)
        self._distinct("evaluation.metrics", sweep.evaluation.metrics)
        known = metric_names()
        for metric in sweep.evaluation.metrics:
            if metric not in known:
                self._add("evaluation.metrics", _no_metric(metric))
        if not about.seeds:
            self._add("sweep.seeds", "is empty")
        if about.reference not in (BASE_ROW, *names):
            self._add("sweep.reference", f"is {about.reference!r}, not a variant or {BASE_ROW!r}")
        cells = len(names) * max(1, len(about.identities)) * len(about.seeds)
        if cells > MOST_CELLS:
            self._add("sweep", f"has {cells} cells, over {MOST_CELLS}")
        self._check_names(sweep)
        if not self._mistakes:
            self._check_settings(sweep)

    def _check_names(self, sweep: Sweep) -> None:
        """Check names of presets, prompt banks and identities; the library is checked later."""
        try:
            sweep.preset()
        except PvError as error:
            self._add("sweep.preset", error.message.rstrip("."))
        self._prompts("sweep.prompts", sweep.about.prompts)
        self._prompts("evaluation.prompts", sweep.evaluation.prompts)
        for name in sweep.about.identities:
            try:
                check_name("an identity", name)
            except PvError as error:
                self._add("sweep.identities", error.message.rstrip("."))

    def _check_settings(self, sweep: Sweep) -> None:
        """Check the settings of each variant together, and that no two are equal."""
        for variant in sweep.variants:
            try:
                sweep.settings_of(variant, {})
            except SettingsError as error:
                for each in error.mistakes:
                    self._add(f"variant {variant.name!r}: {each.key}", each.problem)
        if not self._mistakes:
            self._mistakes += _equal_variants(sweep)

    def _distinct(self, place: str, values: Iterable[object]) -> None:
        seen: set[object] = set()
        for value in values:
            if value in seen:
                self._add(place, f"contains {value!r} twice")
            seen.add(value)


def with_changes(
    sweep: Sweep, overrides: Table, identities: tuple[str, ...] = (), preset: str = ""
) -> Sweep:
    """Return the sweep with settings that take precedence, other identities or another preset.

    Raises SettingsError.
    """
    about = sweep.about
    if identities:
        about = replace(about, identities=identities)
    if preset:
        about = replace(about, preset=preset)
    variants = tuple(
        variant if variant.method else replace(variant, settings=merge(variant.settings, overrides))
        for variant in sweep.variants
    )
    changed = replace(sweep, about=about, variants=variants)
    if equal := list(_equal_variants(changed)):
        raise SettingsError(equal, "the changed sweep")
    return changed


def _equal_variants(sweep: Sweep) -> Iterable[Mistake]:
    """Yield variants with the settings and prompts of another one. Raises SettingsError."""
    known: dict[tuple[str, tuple[str, ...], Settings], str] = {}
    for variant in sweep.variants:
        key = variant.method, sweep.prompts_of(variant), sweep.settings_of(variant, {})
        if (same := known.setdefault(key, variant.name)) != variant.name:
            yield Mistake(f"variant {variant.name!r}", f"has the same settings as {same!r}")


def _is_row_name(text: str) -> bool:
    fits = 0 < len(text) <= MOST_NAME and text.strip() == text
    return fits and text.isprintable() and text != BASE_ROW


def _flat(table: Table) -> list[tuple[str, Any]]:
    """Return the values of settings by `section.key`."""
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict) and "." not in key:
            found += [(f"{key}.{name}", each) for name, each in cast(Table, value).items()]
        else:
            found.append((key, value))
    return found


def _section(key: str) -> str:
    return key.partition(".")[0]


def _name(key: str) -> str:
    return key.partition(".")[2]


def _word(value: Any) -> str:
    """Return a value of a grid as part of a row's name."""
    return f"{value:g}" if isinstance(value, float) else str(value)[:MOST_NAME]


def _no_metric(name: object) -> str:
    return f"contains {shown_value(name)}, not one of {', '.join(metric_names())}"
