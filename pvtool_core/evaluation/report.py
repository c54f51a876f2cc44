"""The report of an evaluation: means with intervals by method, and their differences."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import numpy as np

from pvtool_core.errors import PvError
from pvtool_core.evaluation.alarms import alarms
from pvtool_core.evaluation.intervals import UNLIMITED, Interval, Value, interval
from pvtool_core.evaluation.judges import Judges, Skipped
from pvtool_core.evaluation.metric import AnyMetric, Features, SetMetric
from pvtool_core.evaluation.metrics import METRICS, SET_METRICS
from pvtool_core.evaluation.scores import ClipScores
from pvtool_core.media.contact_sheet import SheetRow
from pvtool_core.media.decode import Pixels
from pvtool_core.settings.jobs import BASE_METHOD, STEP_METHOD, Subject
from pvtool_core.store.prompts import without_keyword

VERSION = 2
LIMITS = {metric.name: metric.limits for metric in METRICS}


class Evaluated(Protocol):
    """Part of the evaluator that the report uses; `digests` are by computed metric."""

    judges: Judges
    skipped: dict[str, Skipped]
    digests: dict[str, str]


Pair = tuple[str, str, int]
"""Identity, prompt and seed: equal for clips that are compared."""


def report(
    scored: Sequence[ClipScores],
    subjects: Sequence[Subject],
    evaluator: Evaluated,
    failed: Mapping[str, str],
    set_values: Mapping[str, Mapping[str, float]],
    fvd_reference: str,
) -> dict[str, Any]:
    """Return the report as JSON values; docs/evaluation.md describes them.

    `failed` are the reasons of clips that could not be scored, by file; `set_values` are the values
    of the metrics of sets by method, against the clips that `fvd_reference` names.
    """
    judges, by_method = evaluator.judges, grouped(scored)
    methods = _compared(by_method)
    for name, method in methods.items():
        method["sets"] = dict(set_values.get(name, {}))
    described = {
        each.name: definition(each, judges)
        for each in (*METRICS, *SET_METRICS)
        if each.name in evaluator.digests
    }
    empty = _without_values(methods, described)
    return {
        "version": VERSION,
        "reference": BASE_METHOD if BASE_METHOD in methods else None,
        "methods": methods,
        "identities": {
            subject.identity.name: {
                "methods": _means_of(by_method, subject.identity.name),
                "photos": {"ceiling": ceiling(judges, subject)},
                "alarms": alarms(_compared(_of_identity(by_method, subject.identity.name))),
            }
            for subject in subjects
        },
        "metrics": {name: each for name, each in described.items() if name not in empty},
        "skipped": {name: asdict(each) for name, each in {**evaluator.skipped, **empty}.items()},
        "alarms": alarms(methods),
        "fvd_reference": fvd_reference,
        "clips": [each.facts() for each in scored],
        "failed": [{"file": file, "reason": reason} for file, reason in failed.items()],
        "checkpoints": _checkpoints(methods),
    }


def _checkpoints(methods: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the means of methods that are steps of a training, in their order."""
    steps = {
        int(found[1]): method["means"]
        for name, method in methods.items()
        if (found := re.fullmatch(rf"{STEP_METHOD}(0|[1-9]\d{{0,8}})", name, re.ASCII))
    }
    return [{"step": step, "means": steps[step]} for step in sorted(steps)]


def grouped(scored: Sequence[ClipScores]) -> dict[str, list[ClipScores]]:
    """Return the clips by method, the base model first."""
    methods: dict[str, list[ClipScores]] = defaultdict(list)
    for each in scored:
        methods[each.clip.method].append(each)
    return dict(sorted(methods.items(), key=lambda item: item[0] != BASE_METHOD))


def _compared(by_method: Mapping[str, Sequence[ClipScores]]) -> dict[str, dict[str, Any]]:
    """Return the summary of each method, compared with the base model's clips."""
    base = by_method.get(BASE_METHOD, ())
    return {
        name: summary(clips, base if name != BASE_METHOD else ())
        for name, clips in by_method.items()
    }


def _of_identity(
    by_method: Mapping[str, Sequence[ClipScores]], identity: str
) -> dict[str, list[ClipScores]]:
    own = {
        method: [each for each in clips if each.clip.identity == identity]
        for method, clips in by_method.items()
    }
    return {method: clips for method, clips in own.items() if clips}


def summary(clips: Sequence[ClipScores], reference: Sequence[ClipScores]) -> dict[str, Any]:
    """Return the number of clips, their means, and the differences from the reference clips.

    Differences are over the pairs of equal identity, prompt and seed, and are absent without any.
    """
    found: dict[str, Any] = {"clips": len(clips), "means": {}}
    names = dict.fromkeys(name for each in clips for name in each.scores)
    other = {pair(each): each for each in reference}
    differences: dict[str, Any] = {}
    for name in names:
        own = [(each, value) for each in clips if (value := each.scores[name]) is not None]
        if not own:
            continue
        values = [Value(each.clip.identity, each.clip.prompt, value) for each, value in own]
        limits = LIMITS.get(name, UNLIMITED)
        found["means"][name] = {**asdict(interval(values, limits)), "clips": len(values)}
        pairs = [
            (each, value, before)
            for each, value in own
            if (base := other.get(pair(each))) and (before := base.scores.get(name)) is not None
        ]
        if pairs:
            differences[name] = _difference(pairs)
    return {**found, "differences": differences} if reference else found


def _difference(pairs: Sequence[tuple[ClipScores, float, float]]) -> dict[str, Any]:
    """Return the change of pairs (clip, value, value of the base model), and their base mean."""

    def of(kind: Callable[[float, float], float]) -> Interval:
        return interval(
            [
                Value(each.clip.identity, each.clip.prompt, kind(value, before))
                for each, value, before in pairs
            ]
        )

    change = of(lambda value, before: value - before)
    base = of(lambda _, before: before).mean
    return {
        **asdict(change),
        "base": base,
        "pairs": len(pairs),
        "significant": change.excludes_zero,
    }


def pair(scored: ClipScores) -> Pair:
    return scored.clip.identity, scored.clip.prompt, scored.clip.seed


def _means_of(by_method: Mapping[str, Sequence[ClipScores]], identity: str) -> dict[str, Any]:
    """Return the means of one identity's clips by method and metric."""
    means: dict[str, dict[str, float]] = {}
    for method, clips in _of_identity(by_method, identity).items():
        own = [each.scores for each in clips]
        names = dict.fromkeys(name for scores in own for name in scores)
        columns = {
            name: [value for scores in own if (value := scores.get(name)) is not None]
            for name in names
        }
        means[method] = {name: fmean(values) for name, values in columns.items() if values}
    return means


def definition(metric: type[AnyMetric], judges: Judges) -> dict[str, Any]:
    """Return the definition of a metric, to compare its values with those of other reports."""
    weights: dict[str, str] = {}
    for model in metric.models:
        weights |= judges.weights(model)
    return {
        "label": metric.label,
        "description": metric.description(),
        "better": metric.better,
        "limits": list(metric.limits) if all(map(math.isfinite, metric.limits)) else None,
        "reward": metric.rewarded,
        "weights": weights,
    }


def _without_values(
    methods: Mapping[str, Mapping[str, Any]], described: Mapping[str, Any]
) -> dict[str, Skipped]:
    """Return the metrics that no clip has, with their condition."""
    found = {name for each in methods.values() for name in (*each["means"], *each["sets"])}
    empty: dict[str, Skipped] = {}
    for metric in (*METRICS, *SET_METRICS):
        if metric.name in described and metric.name not in found:
            empty[metric.name] = Skipped(f"It needs {_condition(metric)}.", "")
    return empty


def _condition(metric: type[AnyMetric]) -> str:
    sizes = {each.name: each.fewest for each in SET_METRICS}
    if metric.name not in sizes:
        return metric.condition or "other clips"
    words = f"{sizes[metric.name]} clips of a method and as many of the reference"
    return f"{words}, {metric.condition}" if metric.condition else words


def ceiling(judges: Judges, subject: Subject) -> float | None:
    """Return the mean cosine between the person's own photos, by the held-out recogniser.

    More likeness than that means copying. None for a single photo.
    """
    try:
        known = judges.photos(subject, judges.held_out)
        photos = np.concatenate([known.photos, known.held_out])
    except PvError:  # of a damaged or removed identity; its clips are reported as failed
        return None
    if len(photos) < 2:
        return None
    return float((photos @ photos.T)[~np.eye(len(photos), dtype=bool)].mean())


def set_values(
    features: Mapping[str, Mapping[str, Sequence[Features]]],
    reference: Mapping[str, Sequence[Features]],
    metrics: Sequence[SetMetric],
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return the values of metrics of sets by method, and warnings about small sets.

    `features` are by method and metric; `reference` are those of the reference clips by metric.
    """
    values: dict[str, dict[str, float]] = defaultdict(dict)
    warnings: list[str] = []
    for metric in metrics:
        known = reference.get(metric.name, ())
        for method, own in features.items():
            size = min(len(own.get(metric.name, ())), len(known))
            if size < metric.fewest:
                continue
            values[method][metric.name] = metric.distance(own[metric.name], known)
            if size < metric.advised:
                warnings.append(
                    f"{metric.label} of {method} is from {size} clips; it is comparable from "
                    f"{metric.advised} on."
                )
    return dict(values), warnings


def sheet_rows(
    frames: Mapping[Pair, Mapping[str, Pixels]], photos: Mapping[str, Pixels]
) -> list[SheetRow]:
    """Return a row for each method of some clips, after the reference photo if there is one."""
    return [
        SheetRow(
            f"{identity}, {method}, seed {seed}: {without_keyword(prompt)}",
            [*([photos[identity]] if identity in photos else []), *pictures],
        )
        for (identity, prompt, seed), methods in frames.items()
        for method, pictures in methods.items()
    ]


def reference_photos(subjects: Sequence[Subject]) -> dict[str, Path]:
    """Return the first photo of each identity by its name."""
    return {
        subject.identity.name: Path(subject.identity.folder) / "references/000.png"
        for subject in subjects
    }
