"""A rater's session in a terminal: the order of items and their sides, and the answers so far.

The order is random, but reproducible from the rater's name, so that a session can continue. The
page has its own random numbers, and the same rules.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from pvtool_core.errors import InputRefused
from pvtool_core.study.answers import Answer, Answers, read_answers, write_answers
from pvtool_core.study.questions import Choice
from pvtool_core.study.study_items import Shown, Study
from pvtool_core.untrusted import exists

_DISTANCE = 5
"""Least number of items between a set and its repeat, where the study is long enough."""


@dataclass(frozen=True)
class Screen:
    """An item, and the files of the clips on both sides."""

    item: Shown
    left: str
    right: str


def screens(items: Sequence[Shown], rater: str) -> list[Screen]:
    """Return the screens of a rater, in order.

    Of three or more methods, a rater compares one pair in each set, and all pairs about equally
    often. A repeat shows the same pair with the sides swapped, a few items after the first time.
    """
    draw = random.Random(rater)  # noqa: S311 - reproducible, not secret
    firsts = [item for item in items if not item.again]
    draw.shuffle(firsts)
    start = draw.randrange(1 << 16)
    shown = [_screen(item, start + number, draw) for number, item in enumerate(firsts)]
    by_item = {screen.item.name: screen for screen in shown}
    for item in (item for item in items if item.again):
        first = by_item[item.again]
        again = replace(first, item=item, left=first.right, right=first.left)
        earliest = min(shown.index(first) + 1 + _DISTANCE, len(shown))
        shown.insert(draw.randint(earliest, len(shown)), again)
    return shown


def _screen(item: Shown, number: int, draw: random.Random) -> Screen:
    pairs = list(combinations(item.clips, 2))
    pair = list(pairs[number % len(pairs)])
    draw.shuffle(pair)
    return Screen(item, *pair)


class Session:
    """A rater's answers to a study, kept in a file after each item.

    An existing file of the rater continues. Raises InputRefused if it is invalid or of another
    rater.
    """

    def __init__(self, study: Study, rater: str, file: Path) -> None:
        self.study, self.rater, self.file = study, rater, file
        self.screens = screens(study.items, rater)
        self._answers: dict[str, Answer] = {}
        if exists(file):
            clips = {item.name: item.clips for item in study.items}
            kept = read_answers(file, study.name, clips)
            if kept.rater != rater:
                raise InputRefused(
                    f"{file.name} has the answers of rater {kept.rater}.",
                    f"Use --rater {kept.rater} to continue, or another file.",
                )
            self._answers = {answer.item: answer for answer in kept.answers}

    @property
    def position(self) -> int:
        """Number of the first item without an answer; the number of items at the end."""
        open_items = (
            number
            for number, screen in enumerate(self.screens)
            if screen.item.name not in self._answers
        )
        return next(open_items, len(self.screens))

    def answer(self, screen: Screen, choices: Mapping[str, Choice]) -> None:
        """Keep the choices for all questions about a pair."""
        name = screen.item.name
        self._answers[name] = Answer(
            item=name, left=screen.left, right=screen.right, choices=dict(choices)
        )
        answers = Answers(
            study=self.study.name, rater=self.rater, answers=tuple(self._answers.values())
        )
        write_answers(self.file, answers)
