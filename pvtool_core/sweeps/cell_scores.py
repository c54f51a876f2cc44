"""The scores of the cells of a sweep, in its output folder.

    OUT/cells/KEY/report.json  contact-sheet.png    as `pv eval` writes them
    OUT/cells/KEY/cell.json                         written last: the evaluation that was asked for
    OUT/sets/KEY/report.json                        metrics of all clips of a variant and a seed

An evaluation without cell.json, or of another request, is repeated; the scores of single clips are
kept, so that only new ones are computed.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pvtool_core.files import replace_file
from pvtool_core.models.locate import locate_judges
from pvtool_core.paths import exists
from pvtool_core.settings.jobs import ADAPTER_METHOD, BASE_METHOD, REPORT, ClipFile
from pvtool_core.settings.schema import EvaluationConfig
from pvtool_core.settings.toml import from_table
from pvtool_core.sweeps.cells import Cell
from pvtool_core.untrusted import SMALL_BYTES, parse_json, read_regular

MARK = "cell.json"
SET_METRICS = ("fvd", "kvd")
"""Metrics of all clips of a variant and a training seed together."""
UNLIMITED = (-math.inf, math.inf)
_REPORT_BYTES = 1 << 27
_CLIP_KEYS = {"prompt": str, "seed": int, "method": str, "scores": dict}


@dataclass(frozen=True)
class ClipValues:
    """The scores of one clip by metric; `base` is true for a clip of the base model."""

    prompt: str
    seed: int
    base: bool
    scores: Mapping[str, float | None]


@dataclass(frozen=True)
class CellScores:
    """The scores of a cell's clips, and of the base model's clips of its identity.

    `labels`, `better` and `limits` are those of the metrics, and `skipped` the reasons of metrics
    without values. `alarms` are signs of reward hacking.
    """

    clips: tuple[ClipValues, ...]
    alarms: tuple[str, ...]
    labels: Mapping[str, str]
    better: Mapping[str, str]
    limits: Mapping[str, tuple[float, float]]
    skipped: Mapping[str, str]


def cell_folder(out: Path, cell: Cell) -> Path:
    """Return the folder of the evaluation of a cell."""
    return out / "cells" / cell.key


def mark_evaluated(out: Path, cell: Cell, run: str) -> None:
    """Record that the evaluation of a cell is complete."""
    facts = {
        "request": cell.request(),
        "judges": _judges(cell.settings.evaluation),
        "variant": cell.variant,
        "identity": cell.identity.name,
        "seed": cell.seed,
        "run": run,
    }
    content = json.dumps(facts, indent=1, ensure_ascii=False).encode()
    replace_file(cell_folder(out, cell) / MARK, content)


def is_evaluated(out: Path, cell: Cell) -> bool:
    """Return whether the cell was evaluated as the sweep asks, by all models now installed."""
    try:
        facts = parse_json(read_regular(cell_folder(out, cell) / MARK, SMALL_BYTES))
        same = facts["request"] == cell.request()
        return same and facts["judges"] == _judges(cell.settings.evaluation)
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _judges(evaluation: EvaluationConfig) -> list[str]:
    """Return the names of the settings whose optional models are installed."""
    found = locate_judges(evaluation)
    return [
        field.name
        for field in fields(found)
        if field.metadata.get("optional")
        and (path := getattr(found, field.name))
        and exists(Path(path))
    ]


def read_scores(out: Path, cell: Cell) -> CellScores | None:
    """Return the scores of a cell; None if it is not evaluated as the sweep asks.

    Models that judge and were installed since do not matter.
    """
    folder = cell_folder(out, cell)
    try:
        mark = parse_json(read_regular(folder / MARK, SMALL_BYTES))
        if mark["request"] != cell.request():
            return None
        return _parse(parse_json(read_regular(folder / REPORT, _REPORT_BYTES)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


@dataclass(frozen=True)
class SetGroup:
    """All cells of a variant with one training seed, whose clips set metrics compare with the base.

    `folder` has the report on these clips; its name changes with them.
    """

    variant: str
    cells: tuple[Cell, ...]
    folder: Path


def set_groups(out: Path, cells: Iterable[Cell]) -> list[SetGroup]:
    """Return the groups of cells that are all evaluated; empty without set metrics."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        if set(SET_METRICS) & set(cell.metrics):
            groups.setdefault((cell.variant, cell.seed), []).append(cell)
    found: list[SetGroup] = []
    for (variant, _), own in groups.items():
        marks = [cell_folder(out, cell) / MARK for cell in own]
        if all(read_scores(out, cell) for cell in own):
            digest = hashlib.sha256(b" ".join(map(Path.read_bytes, marks))).hexdigest()
            found.append(SetGroup(variant, tuple(own), out / "sets" / digest[:32]))
    return found


def clips_of(out: Path, cell: Cell) -> list[ClipFile]:
    """Return the clips in the report of an evaluated cell. Raises what `from_table` raises."""
    report = parse_json(read_regular(cell_folder(out, cell) / REPORT, _REPORT_BYTES))
    names = [field.name for field in fields(ClipFile)]
    return [
        from_table(ClipFile, {name: clip[name] for name in names}, REPORT)
        for clip in report["clips"]
    ]


@dataclass(frozen=True)
class SetValue:
    """The value of a metric of sets, of so many clips, and its label."""

    value: float
    clips: int
    label: str


def read_sets(group: SetGroup) -> dict[str, SetValue]:
    """Return the values of set metrics of a group; empty if they were not computed."""
    try:
        report = parse_json(read_regular(group.folder / REPORT, _REPORT_BYTES))
        method = report["methods"][group.cells[0].method or ADAPTER_METHOD]
        return {
            name: SetValue(
                float(value), int(method["clips"]), str(report["metrics"][name]["label"])
            )
            for name, value in method["sets"].items()
            if name in SET_METRICS
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _parse(report: Mapping[str, Any]) -> CellScores:
    """Check and return a report. Raises ValueError, TypeError, KeyError or AttributeError."""
    clips: list[ClipValues] = []
    for each in report["clips"]:
        numbers = list(each["scores"].values())
        if not all(type(each[key]) is kind for key, kind in _CLIP_KEYS.items()) or not all(
            number is None or type(number) in (int, float) for number in numbers
        ):
            raise ValueError(each)
        base = each["method"] == BASE_METHOD
        clips.append(ClipValues(each["prompt"], each["seed"], base, each["scores"]))
    metrics = dict(report["metrics"])
    return CellScores(
        clips=tuple(clips),
        alarms=tuple(map(str, report["alarms"])),
        labels={str(name): str(metric["label"]) for name, metric in metrics.items()},
        better={str(name): str(metric["better"]) for name, metric in metrics.items()},
        limits={
            str(name): (float(low), float(high))
            for name, metric in metrics.items()
            for low, high in [metric["limits"] or UNLIMITED]
        },
        skipped={
            str(name): f"{each['reason']} {each['command']}".rstrip()
            for name, each in report["skipped"].items()
        },
    )
