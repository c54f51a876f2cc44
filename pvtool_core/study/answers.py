"""Answers of raters: files that the page or `pv study take` saved, checked against the key."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from pvtool_core.errors import InputRefused, printable
from pvtool_core.files import replace_file
from pvtool_core.study.questions import QUESTIONS, Choice
from pvtool_core.study.study_key import StudyKey
from pvtool_core.untrusted import Irregular, TooLarge, parse_json, read_regular

ANSWERS_FORMAT = "pv study answers 1"
_MOST_BYTES = 4 << 20
RATER = re.compile(r"[0-9A-Za-z_-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answers to one item: its name, the files on both sides, and a choice for each question."""

    item: str
    left: str
    right: str
    choices: Mapping[str, Choice]

    def preferred(self, question: str) -> str | None:
        """Return the file of the chosen clip, or None for a tie."""
        sides = {Choice.LEFT: self.left, Choice.RIGHT: self.right, Choice.TIE: None}
        return sides[self.choices[question]]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """All answers of one rater to one study."""

    study: str
    rater: str
    answers: tuple[Answer, ...]


def write_answers(path: Path, answers: Answers) -> None:
    """Write answers as the page saves them, for their owner only."""
    record = {"format": ANSWERS_FORMAT, **asdict(answers)}
    replace_file(path, json.dumps(record, indent=1).encode(), mode=0o600)


def read_all_answers(paths: Iterable[Path], key: StudyKey) -> dict[Path, Answers]:
    """Read the answers of each file. Raises InputRefused, also for two files of one rater."""
    found: dict[Path, Answers] = {}
    raters: dict[str, Path] = {}
    clips = {item.name: item.clips.keys() for item in key.items}
    for path in paths:
        found[path] = read_answers(path, key.study, clips)
        rater = found[path].rater
        if rater in raters:
            _refuse(path, f"is by rater {rater}, as is {printable(raters[rater])}")
        raters[rater] = path
    return found


def read_answers(path: Path, study: str, clips: Mapping[str, Collection[str]]) -> Answers:
    """Read a file of answers to a study; `clips` are the clips of each item.

    Raises InputRefused.
    """
    try:
        record: Any = parse_json(read_regular(path, _MOST_BYTES, follow=True))
    except (Irregular, TooLarge) as error:
        _refuse(path, error.problem, error)
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror}", error)
    except ValueError as error:
        _refuse(path, "is not JSON", error)
    table = _table(path, record, "the file")
    if table.get("format") != ANSWERS_FORMAT:
        _refuse(path, f"has the format {_quoted(table.get('format'))}, not {ANSWERS_FORMAT!r}")
    if table.get("study") != study:
        _refuse(path, f"belongs to another study, {_quoted(table.get('study'))}")
    rater = table.get("rater")
    if not (isinstance(rater, str) and RATER.fullmatch(rater)):
        _refuse(path, f"has the invalid rater {_quoted(rater)}")
    rows = table.get("answers")
    if not isinstance(rows, list):
        _refuse(path, "has no list of answers")
    answers = [_answer(path, row, clips) for row in cast("list[Any]", rows)]
    if len({answer.item for answer in answers}) < len(answers):
        _refuse(path, "answers an item twice")
    return Answers(study=study, rater=rater, answers=tuple(answers))


def _answer(path: Path, row: Any, clips: Mapping[str, Collection[str]]) -> Answer:
    table = _table(path, row, "an answer")
    name, left, right = (table.get(field) for field in ("item", "left", "right"))
    if not isinstance(name, str) or name not in clips:
        _refuse(path, f"answers the unknown item {_quoted(name)}")
    if not (isinstance(left, str) and isinstance(right, str)) or left == right:
        _refuse(path, f"does not name two clips of item {name}")
    if left not in clips[name] or right not in clips[name]:
        _refuse(path, f"names clips that are not of item {name}")
    given = _table(path, table.get("choices"), f"the choices of item {name}")
    choices: dict[str, Choice] = {}
    for question in QUESTIONS:
        value = given.get(question.name)
        if value not in [*Choice]:
            _refuse(path, f"has the invalid answer {_quoted(value)} to {question.name}")
        choices[question.name] = Choice(value)
    return Answer(item=name, left=left, right=right, choices=choices)


def _table(path: Path, value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(path, f"is invalid: {what} is not an object")
    return cast("dict[str, Any]", value)


def _quoted(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _refuse(path: Path, problem: str, cause: Exception | None = None) -> NoReturn:
    raise InputRefused(
        f"{printable(path)} {problem}.",
        "Use files saved by the page of this study or by `pv study take`, unchanged.",
    ) from cause
