"""Columns of rows: columns of CSV, keys of JSON and TOML, kohya's suffixes, and their values.

A value can stand for several: `0..3` are four seeds, `alice,bob` two identities, a list of lists of
LoRAs several sets. Each reader returns all of them, and raises BadPrompt or UsageError for an
invalid value.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from pvtool_core.errors import BadPrompt, PvError, SettingsError, UsageError
from pvtool_core.paths import exists, user_path
from pvtool_core.settings.methods import METHODS
from pvtool_core.settings.overrides import parse_overrides
from pvtool_core.settings.toml import Table
from pvtool_core.store.prompts import KEYWORD, check_prompt, check_syntax

SETTINGS = {
    "width": "model.width",
    "height": "model.height",
    "frames": "model.num_frames",
    "fps": "model.fps",
    "steps": "sampler.num_inference_steps",
    "guidance": "sampler.guidance_scale",
    "negative": "sampler.negative_prompt",
    "shift": "sampler.shift",
    "base_model": "model.base_model",
    "start": "adapter.start",
    "start_sigma": "adapter.start_sigma",
}
RANGES = {"strength": (0.0, 4.0), "start": (0.0, 0.999), "start_sigma": (0.001, 1.0)}
"""Smallest and largest value of columns that take lists of numbers."""
IGNORED = frozenset({"reason", "path", "status"})  # of failed.jsonl
NO_LORA = "none"

_MISSING = frozenset("NaN nan <NA> NaT None null NULL #N/A N/A n/a".split())  # noqa: SIM905
_EXACT = 2**53
"""Largest number up to which every integer is an exact float."""

Reader = Callable[[Any], Iterable[Any]]
Complaint = Callable[[PvError], None]


def parse_seeds(text: str) -> list[int]:
    """Parse `3`, `0..3` (inclusive) and comma-separated lists of these into seeds.

    Raises UsageError.
    """
    seeds: list[int] = []
    if re.fullmatch(r"\s*[1-9]\d{0,2}(,\d{3})+\s*", text) and re.search(r",0\d", text):
        raise UsageError(
            f"Ambiguous seeds {text!r}: one seed or several.",
            "Write a seed without commas, several as 1, 0.",
        )
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:\.\.(\d{1,18}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + 10_000:
            raise UsageError(
                f"Invalid seeds {part!r}: expected 3, 0..3 or 0,5,9.",
                "Write a number, a range such as 0..3 of at most 10000, or several with commas.",
            )
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def parse_loras(value: Any) -> list[tuple[str, ...]]:
    """Parse sets of style LoRAs.

    `FILE:0.8,OTHER` or a list is one set, a list of lists several, `none` an empty one. Raises
    UsageError.
    """
    if isinstance(value, str):
        return [_stack(_split_files(value))] if value.strip() else [()]
    if not isinstance(value, list):
        raise UsageError(f"Invalid lora {value!r}.", "Write 'FILE:0.8', a list of such, or 'none'.")
    if any(isinstance(each, list) for each in value):
        return [stack for each in value for stack in parse_loras(each)]
    return [_stack(value)]


def _split_files(text: str) -> list[str]:
    """Split LoRAs at commas, except within the name of an existing file."""
    parts, words = text.split(","), list[str]()
    while parts:
        several = range(len(parts), 1, -1)
        taken = next(
            (count for count in several if _names_file(",".join(parts[:count]).strip())), 1
        )
        words.append(",".join(parts[:taken]))
        del parts[:taken]
    return words


def _names_file(word: str) -> bool:
    names = (word, re.sub(r":\s*[-+]?[\d.]+$", "", word))
    return any(name and exists(user_path(name)) for name in names)


def _stack(words: Iterable[Any]) -> tuple[str, ...]:
    stack = _texts("lora", words, "Write 'FILE:0.8', a list of such, or 'none'.")
    return tuple(word for word in stack if word != NO_LORA)


def read_columns(table: Mapping[str, Any], complain: Complaint) -> dict[str, list[Any]]:
    """Return all values of a table by field and setting; `complain` receives mistakes.

    None values were not given.
    """
    found: dict[str, list[Any]] = {}
    for column, value in table.items():
        if value is None or column in IGNORED:
            continue
        try:
            field, reader = READERS[column]
            values = list(reader(value))
            if not values:
                raise UsageError(f"Empty {column}.", "Write at least one value, or omit it.")
            found[field] = values
        except KeyError:
            complain(unknown_column(column))
        except PvError as error:
            complain(error)
    return found


def is_missing(value: Any) -> bool:
    """Return whether a cell is empty, including the empty values of pandas and Excel.

    `none` is not empty: it means no LoRAs.
    """
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (
        isinstance(value, str) and (not value.strip() or value.strip() in _MISSING)
    )


def as_whole(value: Any) -> Any:
    """Return `20.0`, as pandas writes integers beside empty cells, as 20.

    Other values are unchanged. Raises UsageError.
    """
    if isinstance(value, float) and value.is_integer():
        value = f"{value:.1f}"
    if not isinstance(value, str) or not (match := re.fullmatch(r"\s*(-?\d{1,18})\.0*\s*", value)):
        return value
    if abs(int(match[1])) > _EXACT:
        raise UsageError(
            f"{value} may have been rounded.", "Write the number without a decimal point."
        )
    return match[1]


def unknown_column(name: str, known: Iterable[str] = ()) -> UsageError:
    """Return the error for an unknown column, with the nearest known one."""
    names = list(known or READERS)
    near = difflib.get_close_matches(name, names, n=1)
    suggestion = f"; did you mean {near[0]!r}?" if near else "."
    return UsageError(f"Unknown column {name!r}{suggestion}", f"Columns: {', '.join(names)}.")


def _prompts(value: Any) -> list[str]:
    if not isinstance(value, str):
        raise BadPrompt(
            f"Invalid prompt {value!r}: expected a text.",
            f"Describe the clip, with {KEYWORD} for the identity.",
        )
    return [check_prompt(value)]


def _identities(value: Any) -> list[str]:
    words = value.split(",") if isinstance(value, str) else value
    return list(dict.fromkeys(_texts("identity", words, "Write a name, or several with commas.")))


def _seeds(value: Any) -> list[int]:
    if isinstance(value, float):
        value = as_whole(value)
    if type(value) is int and 0 <= value < 10**18:
        return [value]
    if isinstance(value, list):
        return list(dict.fromkeys(seed for each in value for seed in _seeds(each)))
    return parse_seeds(",".join(str(as_whole(part)) for part in str(value).split(",")))


def _runs(value: Any) -> list[str]:
    return list(_texts("run", [value], "Write RUN, RUN@STEP or RUN@best."))


def parse_methods(value: Any) -> list[str]:
    """Parse names of encoder methods: one, several with commas, or a list. Raises UsageError."""
    words = value.split(",") if isinstance(value, str) else value
    names = _texts("method", words, f"Write one of {', '.join(METHODS)}.")
    if unknown := [name for name in names if name not in METHODS]:
        raise UsageError(f"Unknown method {unknown[0]!r}.", f"Use one of {', '.join(METHODS)}.")
    return list(dict.fromkeys(names))


_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _booleans(value: Any) -> list[bool]:
    flag = _BOOLEANS.get(str(as_whole(value)).strip().lower())
    if flag is None:
        raise UsageError(
            f"Invalid base {value!r}: expected true or false.", "true requests the base model."
        )
    return [flag]


def _texts(column: str, words: Any, hint: str) -> tuple[str, ...]:
    texts = (
        [word.strip() if isinstance(word, str) else "" for word in words]
        if isinstance(words, list)
        else [""]
    )
    if not all(texts):
        raise UsageError(f"Invalid {column}: empty, or not a text.", hint)
    return tuple(texts)


def _settings(column: str, value: Any) -> list[Any]:
    if column == "negative" and not isinstance(value, str):
        raise UsageError(
            f"Invalid negative prompt {value!r}: expected a text.",
            "Write a negative prompt, for example blurry, ugly.",
        )
    if column == "negative":
        check_syntax("negative prompt", value)
    else:
        value = as_whole(value)
    return [_setting(column, " ".join(str(value).split()))]


@cache
def _setting(column: str, text: str) -> Any:
    """Return a setting, converted and checked as in the settings."""
    section, _, name = SETTINGS[column].partition(".")
    try:
        return parse_overrides([f"{section}.{name}={text}"])[section][name]
    except SettingsError as error:
        raise UsageError(f"{column} {error.mistakes[0].problem}.", error.hint) from error


def parse_numbers(column: str, value: Any) -> list[float]:
    """Parse `0.5`, `0.5,0.75` or a list of these, in the range of the column.

    Raises UsageError.
    """
    if isinstance(value, list):
        return list(dict.fromkeys(each for part in value for each in parse_numbers(column, part)))
    if isinstance(value, str) and "," in value:
        return parse_numbers(column, value.split(","))
    low, high = RANGES[column]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise UsageError(
            f"Invalid {column} {value!r}: expected numbers from {low:g} to {high:g}.",
            "Write one, or several with commas, such as 0.5,0.75.",
        )
    return [number + 0.0]  # -0.0 would have another hash


def _base_models(value: Any) -> list[str]:
    words = cast("list[Any]", value) if isinstance(value, list) else [value]
    return list(dict.fromkeys(_texts("base model", words, "Write a folder, a file or a name.")))


READERS: dict[str, tuple[str, Reader]] = {
    "prompt": ("prompt", _prompts),
    "identity": ("identity", _identities),
    "seed": ("seed", _seeds),
    "run": ("run", _runs),
    "method": ("method", parse_methods),
    "base": ("base", _booleans),
    "lora": ("loras", parse_loras),
    **{column: (key, partial(_settings, column)) for column, key in SETTINGS.items()},
    "base_model": (SETTINGS["base_model"], _base_models),
    "start": (SETTINGS["start"], partial(parse_numbers, "start")),
    "start_sigma": (SETTINGS["start_sigma"], partial(parse_numbers, "start_sigma")),
    "strength": ("strength", partial(parse_numbers, "strength")),
}
SUFFIXES = {
    "w": "width",
    "h": "height",
    "f": "frames",
    "s": "steps",
    "d": "seed",
    "n": "negative",
    "l": "guidance",
    "g": "guidance",
    "fs": "shift",
    **{column: column for column in READERS if column != "prompt"},
}


def parse_lora(word: str) -> Table:
    """Parse `FILE:0.8` or `FILE`; a colon not before a number is part of the name.

    It is also part of the name if a file of the whole name exists. Raises UsageError.
    """
    file, colon, weight = word.rpartition(":")
    if colon and exists(user_path(word)) and not exists(user_path(file)):
        return {"file": word}
    try:
        return {"file": file, "weight": float(weight)} if colon else {"file": word}
    except ValueError:
        if exists(Path(file)):
            raise UsageError(
                f"Invalid weight {weight!r} of the LoRA {file}: expected a number.",
                "Write FILE:0.8.",
            ) from None
        return {"file": word}
