"""The report of a study: raters and their checks, then win rates, scores and agreement by question.

A rater is excluded who failed half of the answered checks or more, or answered no check. The check
with two identical clips is failed by more than one answer other than a tie; the one with a wrong
person by any answer other than the right person to Identity Fidelity. Repeats are listed, and count
neither as votes nor for the exclusion.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtool_core.errors import InputRefused
from pvtool_core.study.agreement import alpha
from pvtool_core.study.answers import Answer, Answers
from pvtool_core.study.questions import QUESTIONS
from pvtool_core.study.rao_kupper import scores
from pvtool_core.study.study_key import CHECKS, Item, Kind, StudyKey
from pvtool_core.study.win_rates import DRAWS, LEVEL, Votes, sign_test, win_rate

_IDENTITY = QUESTIONS[0].name
_FAILED_SHARE = 0.5
NOTE = (
    "15 raters × 50 sets are 750 votes: ±3.5 points if all votes were independent, and ±5 to ±7 "
    "with the usual correlation of votes within a set and of a rater."
)
DEFINITIONS = {
    "win_rate": "Mean vote for the first method: 1 win, 1/2 tie, 0 loss.",
    "interval": f"{LEVEL:.0%}: two-way cluster bootstrap of raters, then sets ({DRAWS} draws), "
    "studentised by the two-way cluster-robust variance on the logit scale.",
    "sign_test_p": "Exact two-sided sign test over sets, by the majority of votes in each.",
    "scores": "Rao-Kupper log-strengths with mean 0, for three or more methods.",
    "alpha": "Krippendorff's alpha with squared differences of votes.",
    "exclusion": "Raters who failed half of the answered checks or more, or answered none.",
}


@dataclass(frozen=True)
class Rater:
    """Results of a rater in checks and repeats."""

    name: str
    answered: int
    checks: int
    failed: tuple[str, ...]
    repeats: int
    equal_repeats: float

    @property
    def excluded(self) -> bool:
        return not self.checks or len(self.failed) >= _FAILED_SHARE * self.checks


def study_report(key: StudyKey, answers: Sequence[Answers], seed: int = 0) -> dict[str, Any]:
    """Return the report as a table for JSON.

    Raises InputRefused if every rater is excluded or none answered a set.
    """
    items = key.by_name()
    raters = [_rater(items, each) for each in answers]
    included = [each for each, rater in zip(answers, raters, strict=True) if not rater.excluded]
    votes = {question.name: _votes(key, included, question.name, items) for question in QUESTIONS}
    if all(np.isnan(each).all() for table in votes.values() for each in table.values()):
        raise InputRefused(
            f"No votes are left: {len(raters) - len(included)} of {len(raters)} raters are "
            "excluded by the attention checks.",
            "Ask more raters.",
        )
    return {
        "study": key.study,
        "methods": list(key.methods),
        "definitions": DEFINITIONS,
        "note": NOTE,
        "raters": [_rater_row(rater) for rater in raters],
        "questions": {name: _question(key.methods, table, seed) for name, table in votes.items()},
    }


def _rater(items: Mapping[str, Item], answers: Answers) -> Rater:
    by_item = {answer.item: answer for answer in answers.answers}
    kinds = {name: items[name].kind for name in by_item}
    checks = [name for name, kind in kinds.items() if kind in CHECKS]
    failed = [name for name in checks if _failed(items[name], by_item[name])]
    repeats = [
        (by_item[name], by_item[items[name].again])
        for name, kind in kinds.items()
        if kind is Kind.REPEAT and items[name].again in by_item
    ]
    equal = [
        again.preferred(question.name) == first.preferred(question.name)
        for again, first in repeats
        for question in QUESTIONS
    ]
    return Rater(
        answers.rater,
        sum(kind is Kind.SET for kind in kinds.values()),
        len(checks),
        tuple(failed),
        len(repeats),
        float(np.mean(equal)) if equal else math.nan,
    )


def _failed(item: Item, answer: Answer) -> bool:
    if item.kind is Kind.WRONG_PERSON:
        return answer.preferred(_IDENTITY) != item.right
    return sum(answer.preferred(question.name) is not None for question in QUESTIONS) > 1


def _rater_row(rater: Rater) -> dict[str, Any]:
    return {
        "rater": rater.name,
        "sets": rater.answered,
        "checks": rater.checks,
        "failed_checks": list(rater.failed),
        "repeats": rater.repeats,
        "equal_repeats": None if math.isnan(rater.equal_repeats) else rater.equal_repeats,
        "excluded": rater.excluded,
    }


def _votes(
    key: StudyKey, answers: Sequence[Answers], question: str, items: Mapping[str, Item]
) -> dict[tuple[str, str], Votes]:
    """Return votes of raters × sets for each pair of methods: for the first one, or NaN."""
    sets = [item.name for item in key.items if item.kind is Kind.SET]
    columns = {name: column for column, name in enumerate(sets)}
    found = {
        pair: np.full((len(answers), len(sets)), np.nan) for pair in combinations(key.methods, 2)
    }
    for row, each in enumerate(answers):
        for answer in each.answers:
            if answer.item not in columns:
                continue
            clips = items[answer.item].clips
            shown = {clips[answer.left], clips[answer.right]}
            (pair,) = [pair for pair in found if set(pair) == shown]
            chosen = answer.preferred(question)
            vote = 0.5 if chosen is None else float(clips[chosen] == pair[0])
            found[pair][row, columns[answer.item]] = vote
    return found


def _question(
    methods: Sequence[str], votes: Mapping[tuple[str, str], Votes], seed: int
) -> dict[str, Any]:
    units = np.concatenate([*votes.values()], axis=1)
    return {
        "pairs": [_pair(pair, table, seed) for pair, table in votes.items()],
        "scores": _scores(methods, votes) if len(methods) > 2 else None,
        "alpha": alpha(units),
    }


def _pair(pair: tuple[str, str], votes: Votes, seed: int) -> dict[str, Any]:
    rate = win_rate(votes, seed)
    there = ~np.isnan(votes)
    return {
        "a": pair[0],
        "b": pair[1],
        "win_rate": rate.value if rate else None,
        "low": rate.low if rate else None,
        "high": rate.high if rate else None,
        "wins": int((votes == 1).sum()),
        "ties": int((votes == 0.5).sum()),
        "losses": int((votes == 0).sum()),
        "raters": int(there.any(1).sum()),
        "sets": int(there.any(0).sum()),
        "sign_test_p": sign_test(votes),
    }


def _scores(
    methods: Sequence[str], votes: Mapping[tuple[str, str], Votes]
) -> dict[str, float] | None:
    """Return the Rao-Kupper scores by method; None if no maximum exists."""
    place = {name: number for number, name in enumerate(methods)}
    wins: NDArray[np.float64] = np.zeros((len(methods), len(methods)))
    ties = np.zeros_like(wins)
    for (first, second), table in votes.items():
        a, b = place[first], place[second]
        wins[a, b], wins[b, a] = (table == 1).sum(), (table == 0).sum()
        ties[a, b] = ties[b, a] = (table == 0.5).sum()
    found = scores(wins, ties)
    return dict(zip(methods, map(float, found[0]), strict=True)) if found else None
