"""Checks of generated prompts: keyword, motion, appearance, background, names and duplicates."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from pvtool_core.errors import BadPrompt
from pvtool_core.store.prompts import KEYWORD, NOUN, check_prompt

PARTS = ("motion", "appearance", "background")
_SAME = 0.8  # share of common words from which two prompts are duplicates
_PART_WORDS = 0.5  # share of the words of a part that the prompt must contain
_MOST_OBJECTS = 2000  # JSON objects in a reply
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_FILLERS = frozenset(["a", "an", "and", "at", "by", "from", "in", "into", "of", "on", "the", "to"])
_NAMED = re.compile(
    rf"{KEYWORD},? [A-Z]|\b[A-Z][a-z]+ {KEYWORD}|\b(?:[Nn]amed|[Cc]alled) [A-Z]"
    r"|\b(?:Mr|Mrs|Ms|Dr|Sir|Lord|Lady|King|Queen|Prince|Princess|President)\.? [A-Z]"
    r"|\b(?:as|with|like|by|meets|meeting|beside) [A-Z][a-z]+(?: [A-Z][a-z]+)+"
)
"""Signs of a person's name: other capitalised words can be places."""


class Rejection(StrEnum):
    """Why a generated prompt is not used."""

    KEYWORD = "no keyword"
    MOTION = "no motion"
    APPEARANCE = "no appearance"
    BACKGROUND = "no background"
    NAME = "names a person"
    DUPLICATE = "duplicate"
    INVALID = "invalid"


@dataclass(frozen=True)
class Candidate:
    """A generated prompt, and its words for motion, appearance and background."""

    prompt: str
    motion: str = ""
    appearance: str = ""
    background: str = ""


def read_candidates(text: str) -> list[Candidate]:
    """Return the prompts in the reply of a model.

    They are JSON objects with a text `prompt`, alone or in lists, with any text around them. Of a
    truncated list, the complete objects are returned.
    """
    found: list[Candidate] = []
    decoder, position = json.JSONDecoder(), text.find("{")
    for _ in range(_MOST_OBJECTS):
        if position < 0:
            break
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            found += _candidates_in(value)
        position = text.find("{", end)
    return found


def _candidates_in(value: dict[str, Any]) -> list[Candidate]:
    if isinstance(value.get("prompt"), str):
        texts = {name: value.get(name) for name in ("prompt", *PARTS)}
        return [Candidate(**{name: str(text) for name, text in texts.items() if text})]
    lists = [cast("list[Any]", each) for each in value.values() if isinstance(each, list)]
    objects = [each for items in lists for each in items if isinstance(each, dict)]
    return [
        candidate
        for each in objects
        if isinstance(each.get("prompt"), str)
        for candidate in _candidates_in(each)
    ]


class Accepted:
    """Accepted prompts; `others` are prompts of other banks, which must not be repeated."""

    def __init__(self, others: Iterable[str] = ()) -> None:
        self.prompts: list[str] = []
        self._known = [_content_of(prompt) for prompt in others]

    def add(self, candidate: Candidate) -> Rejection | None:
        """Accept a prompt, or return why it is rejected."""
        prompt = _with_noun(candidate.prompt)
        if problem := _problem_of(prompt, candidate):
            return problem
        words = _content_of(prompt)
        if any(_are_similar(words, known) for known in self._known):
            return Rejection.DUPLICATE
        self._known.append(words)
        self.prompts.append(prompt)
        return None


def _problem_of(prompt: str, candidate: Candidate) -> Rejection | None:
    if prompt.count(KEYWORD) != 1:
        return Rejection.KEYWORD
    try:
        check_prompt(prompt)
    except BadPrompt:
        return Rejection.INVALID
    if not prompt.isprintable():
        return Rejection.INVALID
    if _NAMED.search(prompt):
        return Rejection.NAME
    words = _content_of(prompt)
    for name in PARTS:
        part = _content_of(getattr(candidate, name))
        if not part or len(part & words) < _PART_WORDS * len(part):
            return Rejection(f"no {name}")
    return None


def _with_noun(prompt: str) -> str:
    """Return the prompt in one line, with `{noun}` in place of a class noun after the keyword."""
    plain = " ".join(prompt.split())
    return re.sub(rf"{KEYWORD} (?:man|woman|person)\b", f"{KEYWORD} {NOUN}", plain)


def _content_of(text: str) -> frozenset[str]:
    """Return the words of a prompt in lower case, without keyword, noun and fillers."""
    plain = text.replace(KEYWORD, " ").replace(NOUN, " ").casefold()
    return frozenset(_WORD.findall(plain)) - _FILLERS


def _are_similar(words: frozenset[str], others: frozenset[str]) -> bool:
    return len(words & others) >= _SAME * len(words | others)
