"""The clips that a batch lists, checked when read, and their identities, prompts and runs."""

import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import orjson

from pvtool_core.batches.clips import BASE
from pvtool_core.store.events import ClipEvent
from pvtool_core.untrusted import SMALL_BYTES, open_regular

WAITING = "waiting"
"""Status of a clip without an event."""


@dataclass(frozen=True)
class Listing:
    """The clips that a batch lists, by path, as events with the status `waiting`.

    `identities`, `prompts` and `runs` are theirs, each once. `count` is the number of lines, of
    which `unreadable` are skipped.
    """

    clips: dict[str, ClipEvent] = field(default_factory=dict[str, ClipEvent])
    identities: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    count: int = 0
    unreadable: int = 0


def read_listing(path: Path) -> Listing:
    """Return the clips of items.jsonl, whatever it contains. Raises OSError."""
    clips: dict[str, ClipEvent] = {}
    people, prompts, runs = dict[str, None](), dict[str, None](), dict[str, None]()
    count = unreadable = 0
    with os.fdopen(open_regular(path), "rb") as file:
        for line in _lines(file):
            count += 1
            try:
                clip, person = _parse(line)
            except (ValueError, TypeError, KeyError, OverflowError):
                unreadable += 1
                continue
            clips[clip.path] = clip
            people[person] = prompts[clip.prompt] = None
            if clip.run:
                runs[f"{clip.run}@{clip.step}"] = None
    return Listing(clips, tuple(people), tuple(prompts), tuple(runs), count, unreadable)


def _lines(file: BufferedReader) -> Iterator[bytes]:
    """Yield the lines; one that is too long comes in unreadable parts."""
    return iter(lambda: file.readline(SMALL_BYTES), b"")


def _parse(line: bytes) -> tuple[ClipEvent, str]:
    """Return a clip and its identity. Raises ValueError, TypeError, KeyError or OverflowError."""
    values = orjson.loads(line)
    if not isinstance(values, dict):
        raise TypeError("not an object")
    item = cast("dict[str, Any]", values)
    person, prompt, run = (_text(item, name) for name in ("identity", "prompt", "run"))
    strength = float(item.get("strength", 1.0))
    if not math.isfinite(strength):
        raise ValueError("strength is not finite")
    clip = ClipEvent(
        path=_text(item, "clip"),
        identity=person if _text(item, "adapter") or _text(item, "reference") else BASE,
        prompt=prompt,
        seed=int(item["seed"]),
        run=run,
        step=int(item.get("step", 0)),
        strength=strength,
        status=WAITING,
    )
    return clip, person


def _text(item: dict[str, Any], name: str) -> str:
    value = item.get(name, "") if name in ("adapter", "run", "reference") else item[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is not a text")
    return value if name == "clip" else sys.intern(value)  # shared by many clips


def first_of(names: Iterable[str]) -> str:
    """Return the first of several names and the number of others: `ada + 2`; a dash without any."""
    first, *others = [*names] or ["–"]
    return f"{first} + {len(others)}" if others else first
