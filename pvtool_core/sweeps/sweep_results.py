"""The table of a sweep: means with intervals by variant, and differences from a reference row.

Intervals are those of `pv eval`: a bootstrap over identities, then prompts. Differences are over
pairs of equal identity, training seed, prompt and seed of the clip.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from pvtool_core.evaluation.intervals import Interval, Value, interval
from pvtool_core.sweeps.cell_scores import (
    UNLIMITED,
    CellScores,
    SetGroup,
    SetValue,
    read_scores,
    read_sets,
    set_groups,
)
from pvtool_core.sweeps.cells import Cell
from pvtool_core.sweeps.sweep_file import BASE_ROW, PaperFigures, Sweep

VERSION = 1
Place = tuple[str, int | None, str, int]
"""Identity, seed of training, prompt, and seed of the clip: equal for clips that are compared.

Clips of the base model and of encoder methods have no seed of training: they are compared with
those of each seed.
"""
Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class Row:
    """The scores of the clips of a row of the table; `trained` if they have a seed of training."""

    name: str
    trained: bool
    scores: dict[Place, Scores] = field(default_factory=dict[Place, Scores])


def results_of(sweep: Sweep, cells: Sequence[Cell], out: Path) -> dict[str, Any]:
    """Return the results of a sweep as JSON values; docs/sweeps.md describes them.

    Cells without scores are listed as missing.
    """
    scored = {cell.key: read_scores(out, cell) for cell in cells}
    found = [(cell, each) for cell in cells if (each := scored[cell.key])]
    rows = _rows(sweep, found)
    reference = rows[sweep.about.reference]
    labels = {name: label for _, each in found for name, label in each.labels.items()}
    limits = {name: each.limits[name] for _, each in found for name in each.limits}
    better = {name: way for _, each in found for name, way in each.better.items()}
    sets = _set_values(set_groups(out, cells))
    labels |= {name: own[0].label for each in sets.values() for name, own in each.items()}
    measured = {name for values in sets.values() for name in values}
    measured |= {name for row in rows.values() for each in row.scores.values() for name in each}
    metrics = [name for name in sweep.evaluation.metrics if name in measured]
    return {
        "version": VERSION,
        "sweep": sweep.name,
        "description": sweep.about.description,
        "reference": sweep.about.reference,
        "cells": {"done": len(found), "total": len(cells)},
        "alarms": {cell.label: list(each.alarms) for cell, each in found if each.alarms},
        "missing": [cell.label for cell in cells if not scored[cell.key]],
        "metrics": {
            name: {"label": labels.get(name, name), "better": better.get(name, "")}
            for name in metrics
        },
        "skipped": {
            name: reason
            for _, each in found
            for name, reason in each.skipped.items()
            if name not in metrics
        },
        "rows": [
            {
                "name": name,
                "clips": len(row.scores),
                "means": _means(row, {name: limits.get(name, UNLIMITED) for name in metrics})
                | _set_means(sets.get(name, {})),
                "differences": _differences(row, reference, metrics)
                if row is not reference
                else {},
                "identities": _of_identities(row, metrics),
                "paper": dict(sweep.paper.rows.get(name, {})),
            }
            for name, row in rows.items()
        ],
        "paper": _paper(sweep.paper, rows),
    }


def _rows(sweep: Sweep, found: Iterable[tuple[Cell, CellScores]]) -> dict[str, Row]:
    """Return the row of the base model and of each variant, in the order of the file."""
    rows = {BASE_ROW: Row(BASE_ROW, trained=False)}
    rows |= {each.name: Row(each.name, trained=not each.method) for each in sweep.variants}
    for cell, scores in found:
        for clip in scores.clips:
            row = rows[BASE_ROW if clip.base else cell.variant]
            seed = cell.seed if row.trained else None
            row.scores[cell.identity.name, seed, clip.prompt, clip.seed] = clip.scores
    return rows


def _means(row: Row, limits: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Return the mean of each metric with its interval and the number of clips."""
    means: dict[str, Any] = {}
    for name in limits:
        values = [
            Value(place[0], place[2], value)
            for place, scores in row.scores.items()
            if (value := scores.get(name)) is not None
        ]
        if values:
            means[name] = {**asdict(interval(values, limits[name])), "clips": len(values)}
    return means


def _set_values(groups: Iterable[SetGroup]) -> dict[str, dict[str, list[SetValue]]]:
    """Return the metrics of sets by variant and name, a value for each training seed."""
    found: dict[str, dict[str, list[SetValue]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        for name, value in read_sets(group).items():
            found[group.variant][name].append(value)
    return found


def _set_means(values: Mapping[str, Sequence[SetValue]]) -> dict[str, Any]:
    """Return the means over training seeds, which have no intervals."""
    return {
        name: {
            "mean": fmean(each.value for each in own),
            "low": None,
            "high": None,
            "clips": sum(each.clips for each in own),
        }
        for name, own in values.items()
    }


def _differences(row: Row, reference: Row, metrics: Iterable[str]) -> dict[str, Any]:
    """Return the mean difference of each metric over pairs of clips."""
    found: dict[str, Any] = {}
    for name in metrics:
        if pairs := _pairs(row, reference, name):
            change = interval(pairs)
            significant = change.excludes_zero
            found[name] = {**asdict(change), "pairs": len(pairs), "significant": significant}
    return found


def _pairs(row: Row, other: Row, metric: str) -> list[Value]:
    """Return the differences of two rows at equal places."""
    if other.trained and not row.trained:
        return [replace(each, value=-each.value) for each in _pairs(other, row, metric)]
    found: list[Value] = []
    for place, scores in row.scores.items():
        identity, seed, prompt, clip_seed = place
        compared = other.scores.get((identity, seed if other.trained else None, prompt, clip_seed))
        value, before = scores.get(metric), compared.get(metric) if compared else None
        if value is not None and before is not None:
            found.append(Value(identity, prompt, value - before))
    return found


def _of_identities(row: Row, metrics: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return the means of each identity."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for place, scores in row.scores.items():
        for name in metrics:
            if (value := scores.get(name)) is not None:
                values[place[0]][name].append(value)
    return {
        identity: {name: fmean(each) for name, each in own.items()}
        for identity, own in values.items()
    }


def _paper(paper: PaperFigures, rows: Mapping[str, Row]) -> dict[str, Any]:
    """Return the paper's figures, those of rows without a variant, and the agreement of orders."""
    columns = dict.fromkeys(column for cells in paper.rows.values() for column in cells)
    return {
        "source": paper.source,
        "columns": {column: paper.columns.get(column) for column in columns},
        "other_rows": {name: dict(each) for name, each in paper.rows.items() if name not in rows},
        "order": {
            column: _agreement(paper, rows, column) for column in columns if column in paper.columns
        },
    }


def _agreement(paper: PaperFigures, rows: Mapping[str, Row], column: str) -> list[dict[str, Any]]:
    """Return for each pair of rows whether ours differ as the paper's do.

    `agrees` is None if our difference is not significant, or the paper's figures are equal.
    """
    metric = paper.columns[column]
    known = [name for name in rows if column in paper.rows.get(name, {})]
    found: list[dict[str, Any]] = []
    for first, second in combinations(known, 2):
        pairs = _pairs(rows[first], rows[second], metric)
        if not pairs:
            continue
        theirs, ours = paper.rows[first][column] - paper.rows[second][column], interval(pairs)
        found.append(
            {
                "rows": [first, second],
                "paper": theirs,
                **asdict(ours),
                "agrees": _agrees(theirs, ours),
            }
        )
    return found


def _agrees(theirs: float, ours: Interval) -> bool | None:
    if not ours.excludes_zero or not theirs:
        return None
    return (theirs > 0) == (ours.mean > 0)
