"""The key of a study: the kind of each item, and which method made each clip.

It is written beside the folder of the study, as OUT.key.json, and never into it: raters receive the
folder.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pvtool_core.errors import InputRefused, Missing, printable
from pvtool_core.files import replace_file
from pvtool_core.untrusted import JOB_BYTES, parse_json, read_regular

_FORMAT = "pv study key 1"


class Kind(StrEnum):
    """Kinds of items.

    Votes are answers to sets; the two checks have a known answer; a repeat shows a set again with
    the sides swapped.
    """

    SET = "set"
    IDENTICAL = "identical"
    WRONG_PERSON = "wrong_person"
    REPEAT = "repeat"


CHECKS = (Kind.IDENTICAL, Kind.WRONG_PERSON)


@dataclass(frozen=True, kw_only=True)
class Item:
    """An item of the study.

    Attributes:
        name: Name of the item in the page and in answers.
        kind: Kind of the item.
        identity: Identity in the reference photo.
        prompt: Prompt of the clips.
        seed: Seed of the clips.
        clips: Method of each clip by its file name.
        again: Name of the set that a repeat shows again.
        right: File name of the clip with the right person, in a check for the wrong one.
    """

    name: str
    kind: Kind
    identity: str
    prompt: str
    seed: int
    clips: Mapping[str, str]
    again: str = ""
    right: str = ""


@dataclass(frozen=True, kw_only=True)
class StudyKey:
    """The key of a study: its name, its methods and its items."""

    study: str
    methods: tuple[str, ...]
    items: tuple[Item, ...]

    def by_name(self) -> dict[str, Item]:
        return {item.name: item for item in self.items}


def key_path(study: Path) -> Path:
    """Return the path of the key of the study in a folder."""
    return study.with_name(f"{study.name}.key.json")


def write_key(path: Path, key: StudyKey) -> None:
    """Write a key that only its owner can read."""
    record = {"format": _FORMAT, **asdict(key)}
    replace_file(path, json.dumps(record, indent=1, ensure_ascii=False).encode(), mode=0o600)


def read_key(path: Path) -> StudyKey:
    """Read a key. Raises Missing, and InputRefused if it is invalid."""
    try:
        record: Any = parse_json(read_regular(path, JOB_BYTES, follow=True))
        return _parse(record)
    except FileNotFoundError as error:
        raise Missing(
            "key of a study", str(path), "Use the key that `pv study make` wrote: --key FILE."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputRefused(
            f"{printable(path)} is not a key of a study.",
            "Use the file written by `pv study make`.",
        ) from error


def _parse(record: Any) -> StudyKey:
    if record["format"] != _FORMAT:
        raise ValueError(record["format"])
    items = tuple(Item(kind=Kind(each.pop("kind")), **each) for each in record["items"])
    return StudyKey(study=record["study"], methods=tuple(record["methods"]), items=items)
