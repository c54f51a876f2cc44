"""The report of an evaluation: means with and without adapter, their comparison, warnings.

Also the rows of its contact sheet.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metrics import METRICS
from pvtool_core.media.contact_sheet import SheetRow
from pvtool_core.media.photos import read_picture
from pvtool_core.settings.jobs import Subject
from pvtool_core.store.prompts import without_keyword

GAP_ALARM = 0.2
CLIPS_ON_SHEET = 8
STAGES = ("before", "after")

Scores = Mapping[str, float | None]
"""The value of each metric of one clip; None if it cannot be measured."""
Means = dict[str, float]
Stages = dict[str, Means]
"""Means of the clips before (of the base model) and after (with the adapter)."""
MeasureSets = Callable[[Sequence[Clip], Sequence[Clip]], Mapping[str, float]]
Groups = Mapping[str, Sequence[tuple[Clip, Scores]]]


def no_sets(clips: Sequence[Clip], reference: Sequence[Clip]) -> Mapping[str, float]:
    """Measure nothing on sets of clips."""
    return {}


def summary(
    scored: Sequence[tuple[Clip, Scores]], measure_sets: MeasureSets = no_sets
) -> dict[str, Any]:
    """Return the report: means by identity and stage, their mean over identities, and all clips.

    If an identity has clips of both stages, its means are over the prompts and seeds of both.
    Metrics of sets compare its clips after with those before, and in the mean over identities all
    clips after with all before.
    """
    groups: dict[str, dict[str, list[tuple[Clip, Scores]]]] = defaultdict(lambda: defaultdict(list))
    pairs = comparable([clip for clip, _ in scored])
    for clip, scores in scored:
        if clip.pair in pairs[clip.record["identity"]]:
            groups[clip.record["identity"]][clip.stage].append((clip, scores))
    identities = {name: _stages(group, measure_sets) for name, group in groups.items()}
    overall = {
        stage: mean_numbers([by[stage] for by in identities.values() if stage in by])
        for stage in STAGES
        if any(stage in by for by in identities.values())
    }
    if "after" in overall:
        together = {
            stage: [each for group in groups.values() for each in group[stage]] for stage in STAGES
        }
        overall["after"] |= _of_sets(together, measure_sets)
    clips = [{**facts_of(clip), **scores} for clip, scores in scored]
    return {"identities": identities, "mean": overall, "clips": clips}


def _stages(group: Groups, measure_sets: MeasureSets) -> Stages:
    """Return the means of one identity's clips before and after, compared."""
    means = {
        stage: mean([scores for _, scores in group[stage]]) for stage in STAGES if group.get(stage)
    }
    if "after" in means:
        means["after"] |= changes(means) | dict(_of_sets(group, measure_sets))
    return means


def _of_sets(group: Groups, measure_sets: MeasureSets) -> Mapping[str, float]:
    """Return the values of the metrics of sets, clips after against clips before."""
    before, after = ([clip for clip, _ in group.get(stage, ())] for stage in STAGES)
    return measure_sets(after, before)


def comparable(clips: Sequence[Clip]) -> dict[str, set[tuple[str, int]]]:
    """Return for each identity the prompts and seeds of both stages.

    If one stage is missing, they are all of the other stage.
    """
    found: dict[str, dict[str, set[tuple[str, int]]]] = defaultdict(
        lambda: {"before": set(), "after": set()}
    )
    for clip in clips:
        found[clip.record["identity"]][clip.stage].add(clip.pair)
    return {
        name: by["before"] & by["after"] or by["before"] | by["after"] for name, by in found.items()
    }


def left_out(clips: Sequence[Clip]) -> int:
    """Return the number of clips that are in no mean, for lack of a counterpart."""
    pairs = comparable(clips)
    return sum(clip.pair not in pairs[clip.record["identity"]] for clip in clips)


def facts_of(clip: Clip) -> dict[str, Any]:
    """Return stage, identity, prompt and seed of a clip."""
    return {
        "stage": clip.stage,
        **{key: clip.record[key] for key in ("identity", "prompt", "seed")},
    }


def mean(scores: Sequence[Scores]) -> Means:
    """Return the mean of each metric over clips, or its other summary in the table of metrics."""
    summaries = {entry.make.name: entry.over_clips for entry in METRICS}
    return {name: summaries.get(name, fmean)(column) for name, column in _columns(scores).items()}


def mean_numbers(rows: Sequence[Scores]) -> Means:
    """Return the mean of each key over the rows that have a number for it."""
    return {name: fmean(column) for name, column in _columns(rows).items()}


def _columns(rows: Sequence[Scores]) -> dict[str, list[float]]:
    """Return the numbers of each key, for keys that have any."""
    keys = dict.fromkeys(key for row in rows for key in row)
    columns = {key: [value for row in rows if (value := row.get(key)) is not None] for key in keys}
    return {key: column for key, column in columns.items() if column}


def changes(stages: Mapping[str, Means]) -> Means:
    """Return the comparisons of before and after in the table of metrics."""
    before, after = (stages.get(stage, {}) for stage in STAGES)
    found: Means = {}
    for entry in METRICS:
        name = entry.make.name
        if entry.change and name in before and name in after:
            value = entry.change.of(before[name], after[name])
            found |= {} if value is None else {entry.change.key: value}
    return found


def gap_alarm(stages: Mapping[str, Mapping[str, float]]) -> str | None:
    """Return a warning if similarity rose far more by the reward's recogniser.

    It is compared with the held-out recogniser.
    """
    if not set(STAGES) <= stages.keys():
        return None
    grown = stages["after"]["gap"] - stages["before"]["gap"]
    if grown < GAP_ALARM:
        return None
    return (
        f"possible reward hacking: similarity rose {grown:.2f} more by the reward recogniser "
        "than by the held-out one. Check the contact sheet."
    )


def sheet_rows(clips: Sequence[Clip], subjects: Sequence[Subject]) -> list[SheetRow]:
    """Return two rows, before and after, for each identity's first prompts and seeds.

    The first picture is a reference photo.
    """
    rows: list[SheetRow] = []
    for subject in subjects:
        own = [clip for clip in clips if clip.record["identity"] == subject.identity.name]
        photo = Path(subject.identity.folder) / "references/000.png"
        reference = np.asarray(read_picture(photo))
        for pair in list(dict.fromkeys(clip.pair for clip in own))[:CLIPS_ON_SHEET]:
            both = sorted(
                (clip for clip in own if clip.pair == pair), key=lambda clip: clip.stage != "before"
            )
            rows += [SheetRow(label(clip), [reference, *clip.frames]) for clip in both]
    return rows


def label(clip: Clip) -> str:
    """Return the label of a clip's row on the contact sheet."""
    prompt, seed = clip.pair
    return f"{clip.record['identity']}, {clip.stage}, seed {seed}: {without_keyword(prompt)}"
