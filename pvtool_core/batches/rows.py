"""Read rows of what to render from text, CSV, JSON and TOML.

    text         a prompt per line, '#' comments; kohya's suffixes:
                 <V> {noun} runs --w 512 --d 0..3 --n blurry
    CSV          a header of columns, including `prompt`; empty cells are missing values
    JSON lines   an object per line, or a prompt in quotation marks
    TOML         keys for all rows, [grid] of lists = their product, [[zip]] of lists of equal
                 length = aligned; and prompt banks, `prompts = […]`


The format is chosen by the file's suffix; of standard input and other files, by the first
characters. The columns are in columns.py.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, cast

import orjson

from pvtool_core.batches.columns import (
    IGNORED,
    READERS,
    SETTINGS,
    SUFFIXES,
    is_missing,
    read_columns,
    unknown_column,
)
from pvtool_core.errors import BadPrompt, BatchRefused, PvError, UsageError, printable
from pvtool_core.store.prompts import KEYWORD, decode_prompts, read_prompt_bytes
from pvtool_core.untrusted import parse_toml

MAX_ROWS = 1_000_000
_MOST_REPORTED = 10
_DEEPEST = 8
_TEXTS = ("prompt", "identity", "run", "lora", "negative", "base_model")
_Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row to render: a clip, or one per identity of the command if it names none.

    `prompt` is checked and may contain `{noun}`. Empty and None values are defaults of the command;
    () means no LoRAs. `run` is RUN, RUN@STEP or RUN@best, or `method` an encoder method; `base`
    requests the base model; `strength` multiplies the adapter; `settings` are sorted
    ("model.width", 512) pairs.
    """

    prompt: str
    identity: str = ""
    seed: int | None = None
    run: str = ""
    method: str = ""
    base: bool = False
    strength: float | None = None
    loras: tuple[str, ...] | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    source: str = ""


def read_row_file(path: Path, mistakes: "Mistakes | None" = None) -> list[Row]:
    """Return the rows of a file.

    Raises Missing, BadPrompt if it is not text, and what `read_rows` does.
    """
    return read_rows(str(path), decode_prompts(printable(path), read_prompt_bytes(path)), mistakes)


def read_rows(source: str, text: str, mistakes: "Mistakes | None" = None) -> list[Row]:
    """Return the rows of a text; `source` is its file name, or "-" for standard input.

    Raises BatchRefused with every mistake, BadPrompt without rows. Mistakes are added to the given
    ones, for the caller to check, and the valid rows are returned.
    """
    reading = _Reading(
        "standard input" if source == "-" else printable(source), mistakes or Mistakes()
    )
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    form = _FORMS.get(Path(source).suffix.lower()) or _form_of(text)
    form(reading, text)
    if mistakes is None:
        reading.mistakes.check()
    if not reading.rows and not reading.refused:
        raise BadPrompt(
            f"No prompt in {reading.name}.",
            f"Add at least one prompt, with {KEYWORD} in it.",
        )
    return reading.rows


def row_table(row: Row) -> _Line:
    """Return a row as an object of JSON lines, which reads back as the same row."""
    columns = {key: column for column, key in SETTINGS.items()}
    values: _Line = {
        "identity": row.identity or None,
        "seed": row.seed,
        "run": row.run or None,
        "method": row.method or None,
        "base": row.base or None,
        "strength": row.strength,
    }
    values["lora"] = None if row.loras is None else list(row.loras)
    given = {column: value for column, value in values.items() if value is not None}
    return {"prompt": row.prompt, **given, **{columns[key]: value for key, value in row.settings}}


class Mistakes:
    """Invalid rows of a batch, each with its line, reported together.

    A mistake without a line is one of the command. An error that many lines share is reported with
    the first. `report` receives each immediately.
    """

    def __init__(self, report: Callable[[str, PvError], None] | None = None) -> None:
        self.places: set[str] = set()
        self._report = report
        self._first: dict[int, tuple[str, PvError]] = {}
        self._again: Counter[int] = Counter()
        self.count = 0

    def add(self, source: str, error: PvError) -> None:
        if self._report and (source or error.message not in self.places):
            self._report(source, error)
        self.places.add(source or error.message)
        if id(error) in self._first:
            self._again[id(error)] += 1
            return
        self.count += 1
        if self.count <= _MOST_REPORTED:
            self._first[id(error)] = source, error

    def check(self) -> None:
        """Raise BatchRefused for any mistakes, or the command's error if it is the only one."""
        reported = list(self._first.items())
        if self.count == 1 and not reported[0][1][0]:
            raise reported[0][1][1]
        if reported:
            raise BatchRefused(
                [(self._places(key, source), error) for key, (source, error) in reported],
                self.count,
            )

    def _places(self, key: int, source: str) -> str:
        return f"{source} (and {self._again[key]} more)" if source and self._again[key] else source


class _Reading:
    """The rows of one source that have been read."""

    def __init__(self, name: str, mistakes: Mistakes) -> None:
        self.name = name
        self.rows: list[Row] = []
        self.mistakes = mistakes
        self.refused: set[str] = set()

    def refuse(self, place: str, error: PvError) -> None:
        self.refused.add(place)
        self.mistakes.add(f"{self.name}{place and ', '}{place}", error)

    def line(self, place: str, table: Mapping[str, Any]) -> None:
        """Add the rows of a line: one for each combination of its values."""
        found = read_columns(table, lambda error: self.refuse(place, error))
        if table.get("prompt") is None:
            self.refuse(place, BadPrompt("Missing prompt.", f"Add a prompt with {KEYWORD}."))
        elif place not in self.refused and self._fits(place, prod(map(len, found.values()))):
            source = f"{self.name}, {place}"
            self.rows += [
                _row(dict(zip(found, values, strict=True)), source)
                for values in product(*found.values())
            ]

    def blocks(self, blocks: list[list[_Line]]) -> None:
        """Add the product of blocks; each has alternatives for its columns."""
        if self._fits("", prod(map(len, blocks))):
            for number, parts in enumerate(product(*blocks), 1):
                line = {key: value for part in parts for key, value in part.items()}
                self.rows.append(_row(line, f"{self.name}, row {number}"))

    def _fits(self, place: str, more: int) -> bool:
        if len(self.rows) + more > MAX_ROWS:
            problem = f"More than {MAX_ROWS} rows."
            self.refuse(place, UsageError(problem, "Use several batches, or fewer rows."))
        return len(self.rows) + more <= MAX_ROWS


def _row(line: _Line, source: str) -> Row:
    settings = tuple(sorted((key, line.pop(key)) for key in list(line) if "." in key))
    return Row(**line, settings=settings, source=source)


def _text(reading: _Reading, text: str) -> None:
    for number, words in enumerate(text.split("\n"), 1):
        line = words.strip()
        if line and not line.startswith("#"):
            reading.line(
                f"line {number}",
                _suffixed(line, lambda error, n=number: reading.refuse(f"line {n}", error)),
            )


def _suffixed(line: str, refuse: Callable[[PvError], None]) -> _Line:
    """Parse a prompt with its suffixes."""
    if "--" not in line:
        return {"prompt": line}
    prompt, *words = re.split(r"\s--([A-Za-z_]+)(?=\s|$)", line)
    table: _Line = {"prompt": prompt}
    for suffix, value in zip(words[::2], words[1::2], strict=True):
        column = SUFFIXES.get(suffix.lower())
        if column is None:
            refuse(unknown_column(suffix, SUFFIXES))
        elif column in table:
            refuse(
                UsageError(
                    f"Duplicate {column}: --{suffix}.",
                    "Use it once; write several seeds as 4,5.",
                )
            )
        else:
            table[column] = value.strip()
    return table


def _csv(reading: _Reading, text: str) -> None:
    lines = _cells(reading, text)
    _, header = next(lines, (1, []))
    columns = [column.strip().lower() for column in header]
    if "prompt" not in columns:
        reading.refuse(
            "line 1",
            BadPrompt("Missing column 'prompt'.", "Start with a header, such as prompt,seed."),
        )
        return
    for column in dict.fromkeys(columns):
        if _unnamed(column):
            continue
        if column not in {*READERS, *IGNORED}:
            reading.refuse("line 1", unknown_column(column))
        elif columns.count(column) > 1:
            reading.refuse(
                "line 1", UsageError(f"Duplicate column {column!r}.", "Keep one of them.")
            )
    named = [place for place, column in enumerate(columns) if not _unnamed(column)]
    for number, cells in lines if not reading.refused else ():
        place = f"line {number}"
        if not any(cell.strip() for cell in cells):
            continue  # Excel writes rows of commas only
        stray = _stray(named, cells) if len(cells) > len(named) else ()
        if len(cells) <= named[-1] or any(column >= len(columns) for column, _ in stray):
            problem = f"{len(cells)} cells, but {len(columns)} columns."
            reading.refuse(place, UsageError(problem, "Put texts with commas in quotation marks."))
        elif stray:
            problem = f"Column {stray[0][0] + 1} has no name, but contains {stray[0][1]!r}."
            reading.refuse(place, UsageError(problem, "Name the column, or empty it."))
        else:
            reading.line(
                place,
                {
                    columns[column]: cells[column]
                    for column in named
                    if not is_missing(cells[column])
                },
            )


def _unnamed(column: str) -> bool:
    """Return whether a column is the index of a pandas table, or empty cells of an Excel table."""
    return not column or re.fullmatch(r"unnamed: \d+", column) is not None


def _stray(named: list[int], cells: list[str]) -> list[tuple[int, str]]:
    """Return texts in unnamed columns with their numbers.

    Numbers before the first named column are an index.
    """
    stray = [
        (place, cell.strip())
        for place, cell in enumerate(cells)
        if place not in named and cell.strip()
    ]
    return [
        (place, cell)
        for place, cell in stray
        if place > named[0] or not re.fullmatch(r"\d+(\.0)?", cell)
    ]


def _cells(reading: _Reading, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each record and its first line."""
    excel = re.match(r"sep=([^\n])\n", text, re.IGNORECASE)  # a first line for Excel only
    text, above = (text[excel.end() :], 1) if excel else (text, 0)
    delimiter = excel[1] if excel else _delimiter(text)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begin = 1 + above
    try:
        for cells in lines:
            yield begin, cells
            begin = lines.line_num + 1 + above
    except csv.Error as error:
        reading.refuse(
            f"line {begin}",
            BadPrompt(f"Invalid CSV: {error}.", "Check that each quotation mark is closed."),
        )


def _delimiter(text: str) -> str:
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count)


def _json(reading: _Reading, text: str) -> None:
    """Parse an object or a text per line, one array, or one object over several lines."""
    if re.match(r'\s*(\[\s*[{"\]]|\{\s*\n)', text):
        whole = _parsed(reading, "", text)
        values = cast("list[Any]", whole) if isinstance(whole, list) else [whole]
        for number, value in enumerate(values if whole is not _NOTHING else [], 1):
            _object(reading, f"item {number}", value)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line and not line.isspace():
            place = f"line {number}"
            value = _parsed(reading, place, line)
            if value is not _NOTHING:
                _object(reading, place, value)


_NOTHING = object()
_ONE_A_LINE = (
    'Write {"prompt": "…"} on each line, or an array of such, as pandas does with orient="records".'
)


def _parsed(reading: _Reading, place: str, text: str) -> Any:
    """Parse a JSON value; Python's NaN is null. Return _NOTHING if it is refused."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        value = _with_nan(text)
        if value is _NOTHING:
            hint = "Write one object on each line, as `jq -c` does, or an array of objects."
            reading.refuse(place, BadPrompt(f"Invalid JSON: {error}.", hint))
    if value is not _NOTHING and (key := _repeated(text, value)):
        reading.refuse(place, UsageError(f"{key!r} is given twice in one object.", "Use it once."))
        return _NOTHING
    return value


def _repeated(text: str, value: Any) -> str | None:
    """Return a duplicate key of an object, of which parsers use the last."""
    if isinstance(value, str) or (
        isinstance(value, dict) and all(text.count(f'"{key}"') < 2 for key in value)
    ):
        return None  # a quick check, sufficient for almost all lines
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        found.extend(key for key in keys if keys.count(key) > 1)

    with suppress(RecursionError):  # such a deep value is refused anyway
        json.loads(text, object_pairs_hook=look)
    return found[0] if found else None


def _with_nan(text: str) -> Any:
    if "NaN" not in text:
        return _NOTHING
    try:
        return json.loads(text, parse_constant={"NaN": None}.__getitem__)
    except (ValueError, KeyError, RecursionError):
        return _NOTHING


def _object(reading: _Reading, place: str, value: Any) -> None:
    if isinstance(value, str):
        reading.line(place, {"prompt": value})
    elif isinstance(value, dict | list) and _is_deep(value):
        reading.refuse(place, BadPrompt("Invalid row: nested too deeply.", _ONE_A_LINE))
    elif not isinstance(value, dict):
        reading.refuse(place, BadPrompt("Invalid row: expected an object or a text.", _ONE_A_LINE))
    elif isinstance(cast(_Line, value).get("prompt"), dict | list):
        reading.refuse(
            place, BadPrompt("Invalid row: it contains columns or a list of prompts.", _ONE_A_LINE)
        )
    else:
        values = {
            key: each
            for key, each in cast(_Line, value).items()
            if not (_unnamed(key.lower()) and _index(each))
        }
        reading.line(place, {key: each for key, each in values.items() if not _is_null(key, each)})


def _is_null(column: str, value: Any) -> bool:
    """Return whether a JSON value is missing; unlike in CSV, texts such as "None" are values."""
    if isinstance(value, str) and column in _TEXTS:
        return not value.strip() and column not in ("lora", "negative")
    return is_missing(value)


def _is_deep(value: Any) -> bool:
    """Return whether lists and objects are nested deeper than any column allows."""
    inner = [value]
    for _ in range(_DEEPEST):
        inner = [each for one in inner for each in (one.values() if isinstance(one, dict) else one)]
        inner = [each for each in inner if isinstance(each, dict | list)]
        if not inner:
            return False
    return True


def _index(value: Any) -> bool:
    return is_missing(value) or type(value) is int


def _toml(reading: _Reading, text: str) -> None:
    try:
        table: _Line = parse_toml(text)
    except ValueError as error:
        reading.refuse("", BadPrompt(f"Invalid TOML: {error}.", "Fix the file at that position."))
        return
    prompts, grid, zips = table.pop("prompts", None), table.pop("grid", {}), table.pop("zip", [])
    table.pop("description", None)
    lists = {"prompt": prompts} if prompts is not None else {}
    blocks = [*_one_by_one(reading, "", {key: [value] for key, value in table.items()})]
    blocks += [*_one_by_one(reading, "prompts", lists), *_one_by_one(reading, "[grid]", grid)]
    for number, aligned in enumerate(
        cast("list[Any]", zips) if isinstance(zips, list) else [zips], 1
    ):
        blocks.append(_aligned(reading, f"[[zip]] {number}", aligned))
    columns = [column for block in blocks for column in (block[0] if block else {})]
    if twice := {column for column in columns if columns.count(column) > 1}:
        problem = f"Duplicate keys: {', '.join(sorted(twice))}."
        reading.refuse(
            "", UsageError(problem, "Use each key once: for all rows, in [grid] or in one [[zip]].")
        )
    if not reading.refused and "prompt" in columns:
        reading.blocks(blocks)


def _one_by_one(reading: _Reading, place: str, lists: Any) -> Iterator[list[_Line]]:
    """Return a block for each list with all its values."""
    for column, values in _lists(reading, place, lists):
        found = [_read(reading, place, {column: value}) for value in values]
        yield [
            {field: each} for line in found for field, several in line.items() for each in several
        ]


def _aligned(reading: _Reading, place: str, lists: Any) -> list[_Line]:
    """Return one block: the first values of all lists together, then the second ones, …"""
    columns = dict(_lists(reading, place, lists))
    if len({len(values) for values in columns.values()}) > 1:
        counts = ", ".join(f"{column} has {len(values)}" for column, values in columns.items())
        reading.refuse(
            place,
            UsageError(
                f"The lists have different lengths: {counts}.", "Use lists of equal length."
            ),
        )
        return []
    block: list[_Line] = []
    for values in zip(*columns.values(), strict=True):
        found = _read(reading, place, dict(zip(columns, values, strict=True)))
        block += [dict(zip(found, each, strict=True)) for each in product(*found.values())]
    return block


def _lists(reading: _Reading, place: str, table: Any) -> Iterable[tuple[str, list[Any]]]:
    if not isinstance(table, dict):
        reading.refuse(
            place, UsageError("Invalid value: expected a table of lists.", "See docs/rendering.md.")
        )
        return
    for column, values in cast(_Line, table).items():
        if isinstance(values, list) and values:
            yield column, cast("list[Any]", values)
        else:
            reading.refuse(
                place, UsageError(f"Invalid {column}: expected a list.", "Write it as [1, 2].")
            )


def _read(reading: _Reading, place: str, line: _Line) -> dict[str, list[Any]]:
    return read_columns(line, lambda error: reading.refuse(place, error))


def _form_of(text: str) -> Callable[[_Reading, str], None]:
    """Return the format of a text by its first characters."""
    if re.match(r'\s*("|\{\s*["}]|\[\s*[{"])', text):
        return _json
    if re.match(r"sep=[^\n]\n", text, re.IGNORECASE):
        return _csv
    header = {
        cell.strip().strip('"').lower() for cell in text.partition("\n")[0].split(_delimiter(text))
    }
    named = {column for column in header if not _unnamed(column)}
    return _csv if "prompt" in named and named <= {*READERS, *IGNORED} else _text


_FORMS = {
    ".toml": _toml,
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".txt": _text,
}
