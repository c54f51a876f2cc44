"""Read and write dataclasses as TOML tables, with every mistake reported at once."""

import dataclasses
import difflib
import reprlib
import typing
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from pvtool_core.errors import BrokenRun, Mistake, RunFailed, SettingsError, UnsafeRun
from pvtool_core.untrusted import SETTINGS_BYTES, Irregular, TooLarge, parse_toml, read_regular

T = TypeVar("T")
Table = dict[str, Any]


@runtime_checkable
class Checked(Protocol):
    """A dataclass with joint checks, whose texts contain no control characters."""

    def check(self) -> Iterable[Mistake]: ...


def read_toml(path: Path) -> Table:
    """Parse a TOML file.

    Raises RunFailed if it cannot be read, SettingsError if it is not TOML.
    """
    try:
        return read_toml_file(path, SETTINGS_BYTES, follow=True)
    except BrokenRun as error:
        raise RunFailed(error.message, error.hint) from error


def read_toml_file(path: Path, most: int, follow: bool) -> Table:
    """Parse a TOML file of at most `most` bytes; a symbolic link is refused unless `follow`.

    Raises RunFailed if it cannot be read, UnsafeRun or BrokenRun for another kind of file or a
    larger one, and SettingsError if it is not TOML.
    """
    try:
        text = (
            read_regular(path, most, follow=follow)
            .decode()
            .replace("\r\n", "\n")
            .replace("\r", "\n")
        )
        return parse_toml(text)
    except ValueError as error:
        raise SettingsError([Mistake("syntax", str(error))], str(path)) from error
    except Irregular as error:
        raise UnsafeRun(path, error.problem) from error
    except TooLarge as error:
        raise BrokenRun(path, f"it {error.problem}") from error
    except OSError as error:
        raise RunFailed(
            f"Cannot read {path}: {error.strerror}.", "Check that it exists, and its permissions."
        ) from error


def to_table(value: Any) -> Table:
    """Return a dataclass as nested TOML tables, with fields in their order."""
    return {
        field.name: _plain(getattr(value, field.name))
        for field in fields(value)
        if not (field.metadata.get("omit_default") and getattr(value, field.name) == field.default)
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_table(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in typing.cast("tuple[Any, ...]", value)]
    if isinstance(value, Mapping):
        return dict(typing.cast("Mapping[str, Any]", value))
    return value


def from_table(cls: type[T], table: Table, source: str = "the settings") -> T:
    """Build the dataclass `cls` from TOML tables.

    Raises SettingsError with every mistake in them.
    """
    mistakes: list[Mistake] = []
    value = _read_dataclass(cls, table, "", mistakes)
    if not mistakes and isinstance(value, Checked):
        mistakes += list(_with_control_characters(value)) or value.check()
    if mistakes:
        raise SettingsError(mistakes, source)
    return value


_WORDS_FOR_A_MODEL = {"prompts", "negative_prompt"}
_FILES_OF_A_JOB = {
    "folder",
    "pictures",
    "sidecars",
    "report",
    "sheet",
    "out",
    "scores",
}  # set by pv
_FREE_TEXT = _WORDS_FOR_A_MODEL | _FILES_OF_A_JOB
"""Fields that may contain any character, like names of the user's files."""


def _with_control_characters(value: Any, prefix: str = "") -> Iterable[Mistake]:
    """Yield names and paths with line breaks or escapes, which would forge lines in logs."""
    if isinstance(value, str):
        if any(unicodedata.category(letter) in {"Cc", "Zl", "Zp"} for letter in value):
            yield Mistake(prefix, f"is {shown_value(value)}, which contains control characters")
    elif dataclasses.is_dataclass(value):
        for field in fields(value):
            if field.name not in _FREE_TEXT:
                yield from _with_control_characters(
                    getattr(value, field.name), f"{prefix}.{field.name}".lstrip(".")
                )
    elif isinstance(value, tuple):
        for number, item in enumerate(typing.cast("tuple[Any, ...]", value)):
            yield from _with_control_characters(item, f"{prefix}[{number}]")
    elif isinstance(value, Mapping):
        for key, item in typing.cast("Mapping[str, Any]", value).items():
            yield from _with_control_characters(f"{key}{item}", f"{prefix}.{key}")


@cache
def hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _read_dataclass(cls: type[T], table: Table, prefix: str, mistakes: list[Mistake]) -> T:
    known = {field.name: field for field in fields(typing.cast(Any, cls))}
    strange = [key for key in table if key not in known]
    mistakes += [Mistake(prefix + key, unknown(key, known)) for key in strange[:_SUGGESTED]]
    mistakes += [Mistake(prefix + key, "unknown setting") for key in strange[_SUGGESTED:]]
    values: Table = {}
    for name, field in known.items():
        if name in table:
            values[name] = read_value(
                hints(cls)[name], table[name], prefix + name, field.metadata, mistakes
            )
        elif dataclasses.is_dataclass(hints(cls)[name]) and field.default is MISSING:
            values[name] = read_value(hints(cls)[name], {}, prefix + name, field.metadata, mistakes)
        elif field.default is MISSING and field.default_factory is MISSING:
            mistakes.append(Mistake(prefix + name, "is missing"))
    return cls(**values) if not mistakes else typing.cast(T, None)


_SUGGESTED = 20  # the search for similar keys is slow


def unknown(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"unknown setting; did you mean {near[0]!r}?" if near else "unknown setting"


_SHOWN = reprlib.Repr()
_SHOWN.maxlevel = 2
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 300


def shown_value(value: Any) -> str:
    """Format an invalid value for a message; the middle of a long one is omitted."""
    try:
        return _SHOWN.repr(value)
    except ValueError:  # Python does not print numbers of so many digits
        return "a number too long to show"


WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read_value(
    hint: Any, value: Any, key: str, limits: Mapping[str, Any], mistakes: list[Mistake]
) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, dict):
            return _read_dataclass(hint, typing.cast(Table, value), key + ".", mistakes)
        mistakes.append(Mistake(key, f"is {shown_value(value)}, not a table"))
    elif origin is tuple:
        if isinstance(value, list | tuple):
            item = typing.get_args(hint)[0]
            items = list(typing.cast("Iterable[Any]", value))
            return tuple(
                read_value(item, each, f"{key}[{i}]", limits, mistakes)
                for i, each in enumerate(items)
            )
        mistakes.append(Mistake(key, f"is {shown_value(value)}, not a list"))
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(value, dict) and all(
            isinstance(item, str) for item in typing.cast(Table, value).values()
        ):
            return dict(typing.cast(Table, value))
        mistakes.append(Mistake(key, f"is {shown_value(value)}, not a table of texts"))
    else:
        return _read_scalar(typing.cast(type, hint), value, key, limits, mistakes)
    return None


def _read_scalar(
    hint: type, value: Any, key: str, limits: Mapping[str, Any], mistakes: list[Mistake]
) -> Any:
    if hint is float and type(value) is int:
        with suppress(OverflowError):  # a number that is too large stays an int and is refused
            value = float(value)
    if type(value) is not hint:
        mistakes.append(Mistake(key, f"is {shown_value(value)}, not {WORDS[hint]}"))
    elif problem := _out_of_limits(value, limits):
        mistakes.append(Mistake(key, f"is {shown_value(value)}, {problem}"))
    return value


def _out_of_limits(value: Any, limits: Mapping[str, Any]) -> str | None:
    low, high, choices = limits.get("low"), limits.get("high"), limits.get("choices")
    if choices and value not in choices:
        return f"not one of {', '.join(choices)}"
    if low is not None and not low <= value <= high:  # also catches NaN
        return f"not between {low} and {high}"
    if isinstance(value, int) and value % limits.get("multiple_of", 1):
        return f"not a multiple of {limits['multiple_of']}"
    return None


def merge(*tables: Table) -> Table:
    """Merge nested tables; later ones override earlier ones key by key."""
    merged: Table = {}
    for table in tables:
        for key, value in table.items():
            below = merged.get(key)
            both = isinstance(below, dict) and isinstance(value, dict)
            merged[key] = (
                merge(typing.cast(Table, below), typing.cast(Table, value)) if both else value
            )
    return merged
