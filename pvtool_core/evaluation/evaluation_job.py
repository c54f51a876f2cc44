"""The job of `pv eval`: score clips, and write a report, a contact sheet and a page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import cast

import numpy as np

from pvtool_core.batches.rates import note_scoring
from pvtool_core.errors import PvError, UsageError
from pvtool_core.evaluation.clip import read_clip
from pvtool_core.evaluation.clip_scorer import ClipScorer, Results
from pvtool_core.evaluation.evaluator import Evaluator
from pvtool_core.evaluation.metric import Features
from pvtool_core.evaluation.report import (
    Pair,
    pair,
    reference_photos,
    report,
    set_values,
    sheet_rows,
)
from pvtool_core.evaluation.scores import ClipScores
from pvtool_core.files import replace_file
from pvtool_core.media.contact_sheet import FRAMES, TILE, write_contact_sheet
from pvtool_core.media.decode import Pixels
from pvtool_core.media.photos import read_picture
from pvtool_core.report_page.page import write_page
from pvtool_core.report_page.report_format import EvaluationReport
from pvtool_core.settings.jobs import (
    BASE_METHOD,
    PAGE,
    REPORT,
    SHEET,
    ClipFile,
    EvaluateJob,
)
from pvtool_core.store.events import Report, StageEvent, WarningEvent

CLIPS_ON_SHEET, MOST_ON_SHEET = 8, 40
"""Number of clips on the contact sheet, of an identity and in all, each by every method."""


def evaluate(job: EvaluateJob, report_event: Report) -> None:
    """Score the clips of the job or of its shard; the whole job gets a report.

    A clip that cannot be scored is named in the report. Raises the error if none can.
    """
    report_event(StageEvent(stage="loading"))
    evaluator = Evaluator(job)
    clips = (*job.clips, *job.fvd_reference)[job.shard - 1 :: job.shards]
    if job.on == "ray":
        from pvtool_core.evaluation.ray_scores import score_on_ray

        results = score_on_ray(job, clips, report_event)
    else:
        results = ClipScorer(job, evaluator, report_event).score(clips)
    if clips and not results.scored:
        raise results.error or UsageError("No clip could be scored.", "See the warnings above.")
    if results.seconds and not job.metrics:
        note_scoring(job, fmean(results.seconds))
    if job.shards == 1:
        _write_report(job, evaluator, results, report_event)


def _write_report(
    job: EvaluateJob, evaluator: Evaluator, results: Results, report_event: Report
) -> None:
    out = Path(job.out)
    scored = [results.scored[clip] for clip in job.clips if clip in results.scored]
    if job.fvd_reference:
        reference = [results.scored[clip] for clip in job.fvd_reference if clip in results.scored]
        named = f"{len(reference)} videos of --fvd-reference"
    else:
        reference = [each for each in scored if each.clip.method == BASE_METHOD]
        named = BASE_METHOD
    values, warnings = set_values(
        {
            method: _features([each for each in scored if each.clip.method == method])
            for method in dict.fromkeys(each.clip.method for each in scored)
            if method != BASE_METHOD or job.fvd_reference
        },
        _features(reference),
        evaluator.set_metrics,
    )
    _warn_of_cut_prompts(evaluator, job, report_event)
    for warning in warnings:
        report_event(WarningEvent(message=warning))
    found = report(scored, job.subjects, evaluator, results.failed, values, named)
    for alarm in found["alarms"]:
        report_event(WarningEvent(message=alarm))
    replace_file(out / REPORT, json.dumps(found, indent=1, ensure_ascii=False).encode())
    photos = reference_photos(job.subjects)
    write_contact_sheet(out / SHEET, sheet_rows(_sheet_frames(scored), _read(photos, report_event)))
    if job.page:
        report_event(StageEvent(stage="writing the page"))
        write_page(cast("EvaluationReport", found), photos, out / PAGE)


def _read(photos: Mapping[str, Path], report_event: Report) -> dict[str, Pixels]:
    """Return the photos that can be read, and warn of the others."""
    found: dict[str, Pixels] = {}
    for name, path in photos.items():
        try:
            found[name] = np.asarray(read_picture(path))
        except (PvError, OSError) as error:
            report_event(WarningEvent(message=f"No photo of {name} on the sheet: {error}"))
    return found


def _features(scored: Sequence[ClipScores]) -> dict[str, list[Features]]:
    """Return the features of clips by metric of sets, of the clips that have any."""
    found: dict[str, list[Features]] = {}
    different = {each.clip.file: each for each in scored}  # identities share base clips
    for each in different.values():
        for name, values in each.features.items():
            if values:
                found.setdefault(name, []).append(np.asarray(values, np.float32))
    return found


def _sheet_frames(scored: Sequence[ClipScores]) -> dict[Pair, dict[str, Pixels]]:
    """Return some frames of the first clips of each identity, by what they show and by method."""
    chosen: dict[Pair, dict[str, ClipFile]] = {}
    counts: dict[str, int] = {}
    for each in sorted(scored, key=lambda each: each.clip.method != BASE_METHOD):
        key, identity = pair(each), each.clip.identity
        room = counts.get(identity, 0) < CLIPS_ON_SHEET and len(chosen) < MOST_ON_SHEET
        if key not in chosen and room:
            counts[identity] = counts.get(identity, 0) + 1
            chosen[key] = {}
        if key in chosen:
            chosen[key][each.clip.method] = each.clip
    return {
        key: {method: _spaced(read_clip(clip).frames) for method, clip in methods.items()}
        for key, methods in chosen.items()
    }


def _spaced(frames: Pixels) -> Pixels:
    """Return FRAMES evenly spaced frames, in the size of the sheet's tiles or up to twice that."""
    places = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
    every = max(1, min(frames.shape[1:3]) // TILE)
    return frames[places, ::every, ::every].copy()


def _warn_of_cut_prompts(evaluator: Evaluator, job: EvaluateJob, report_event: Report) -> None:
    if "clip_t" not in evaluator.digests:
        return
    reader = evaluator.judges.reader("text_model")
    if cut := reader.cut_prompts(clip.prompt for clip in job.clips):
        message = f"clip_t ignores the end of {len(cut)} prompts: the image-text model truncates it"
        report_event(WarningEvent(message=f"{message}; the first is {cut[0]!r}."))
