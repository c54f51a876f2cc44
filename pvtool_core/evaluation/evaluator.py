"""Score clips with every metric of the table, and write a report and a contact sheet.

Evaluation shares no code with the rewards except model loading, and its models must have other
weights than theirs. The rewards' own models are reported beside them, to detect reward hacking.
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import cast

import numpy as np

from pvtool_core.batches.rates import note_scoring
from pvtool_core.errors import NotFinite, PvError, UsageError
from pvtool_core.evaluation.clip import Clip, read_clip
from pvtool_core.evaluation.judges import Judges, Skipped
from pvtool_core.evaluation.metric import AnyMetric, Features
from pvtool_core.evaluation.metrics import METRICS, SET_METRICS
from pvtool_core.evaluation.report import (
    CLIPS_ON_SHEET,
    Pair,
    pair,
    reference_photos,
    report,
    set_values,
    sheet_rows,
)
from pvtool_core.evaluation.scores import ClipScores, ScoreFiles, WorstFrame
from pvtool_core.files import replace_file
from pvtool_core.media.contact_sheet import write_contact_sheet
from pvtool_core.media.decode import Pixels
from pvtool_core.report_page.page import write_page
from pvtool_core.report_page.report_format import EvaluationReport
from pvtool_core.settings.jobs import (
    BASE_METHOD,
    PAGE,
    REPORT,
    SHEET,
    ClipFile,
    EvaluateJob,
    Subject,
)
from pvtool_core.store.events import Report, StageEvent, WarningEvent

SCORERS = "Check the face recognisers and the image-text model: `pv models verify`."


class Evaluator:
    """The models that score clips, and the metrics that use them.

    Attributes:
        skipped: Metrics that are not computed, with the reason.
    """

    def __init__(self, job: EvaluateJob) -> None:
        """Select the metrics of the job whose models are available.

        Raises UsageError for an unknown metric, InputRefused if a judge is a reward.
        """
        self.judges = Judges(job)
        self.skipped: dict[str, Skipped] = {}
        known = [each.name for each in (*METRICS, *SET_METRICS)]
        if unknown := [name for name in job.metrics if name not in known]:
            raise UsageError(f"Unknown metric {unknown[0]!r}.", f"Metrics: {', '.join(known)}.")
        self._metrics = [each(self.judges) for each in METRICS if self._is_wanted(each, job)]
        self.set_metrics = [each(self.judges) for each in SET_METRICS if self._is_wanted(each, job)]
        rewards = job.identity_reward
        common = [rewards.detector, rewards.detection_size, rewards.detection_threshold]
        self.digests = {
            each.name: self._digest(each, common) for each in (*self._metrics, *self.set_metrics)
        }

    def _is_wanted(self, metric: type[AnyMetric], job: EvaluateJob) -> bool:
        if job.metrics and metric.name not in job.metrics:
            return False
        for model in metric.models:
            if missing := self.judges.missing(model):
                self.skipped[metric.name] = missing
                return False
        return True

    def _digest(self, metric: AnyMetric, common: Sequence[object]) -> str:
        """Return a hash of how the values of a metric are computed."""
        weights = [self.judges.weights(model) for model in metric.models]
        facts = json.dumps([metric.description(), weights, *common])
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def score(self, clip: Clip, subject: Subject, known: ClipScores | None = None) -> ClipScores:
        """Return the value of each metric, and features for metrics of sets.

        Values of `known` are not computed again. Raises NotFinite if one is NaN or infinite.
        """
        self.judges.forget_clip()
        scored = known or ClipScores(clip.about, clip.fps, len(clip.frames), notes=clip.notes)
        for metric in self._metrics:
            if metric.name not in scored.scores:
                value = metric.measure(clip, subject)
                if value is not None and not math.isfinite(value):
                    raise NotFinite(f"{metric.name} of {clip.name}", SCORERS)
                scored.scores[metric.name] = value
        if scored.worst_frame is None and "likeness_min" in scored.scores:
            scored.worst_frame = self._worst_frame(clip, subject)
        return self._with_features(clip, scored)

    def score_reference(self, clip: Clip, known: ClipScores | None = None) -> ClipScores:
        """Return the features of a clip that others are compared with."""
        self.judges.forget_clip()
        scored = known or ClipScores(clip.about, clip.fps, len(clip.frames), notes=clip.notes)
        return self._with_features(clip, scored)

    def _with_features(self, clip: Clip, scored: ClipScores) -> ClipScores:
        for metric in self.set_metrics:
            if metric.name not in scored.features:
                features = metric.features(clip)
                if features is not None and not np.isfinite(features).all():
                    raise NotFinite(f"features of {clip.name} for {metric.name}", SCORERS)
                scored.features[metric.name] = [] if features is None else features.tolist()
        return scored

    def _worst_frame(self, clip: Clip, subject: Subject) -> WorstFrame:
        judges = self.judges
        likeness = np.nan_to_num(judges.likeness(clip, subject, judges.held_out))
        index = int(likeness.argmin())
        return WorstFrame(index, round(index / clip.fps, 4), float(likeness[index]))

    def is_complete(self, scored: ClipScores, of_a_set: bool = False) -> bool:
        """Return whether there is nothing left to compute; `of_a_set`: for a reference clip."""
        names = {metric.name for metric in self._metrics}
        features = {metric.name for metric in self.set_metrics}
        return features <= scored.features.keys() and (of_a_set or names <= scored.scores.keys())


def evaluate(job: EvaluateJob, report_event: Report) -> None:
    """Score the clips of the job or of its shard; the whole job gets a report.

    A clip that cannot be scored is named in the report. Raises the error if none can.
    """
    report_event(StageEvent(stage="loading"))
    evaluator, out = Evaluator(job), Path(job.out)
    files = ScoreFiles(out, evaluator.digests)
    subjects = {subject.identity.name: subject for subject in job.subjects}
    run = _Run(evaluator, files, subjects, report_event)
    wanted = (*job.clips, *job.fvd_reference)
    run.score(wanted[job.shard - 1 :: job.shards])
    if run.seconds and not job.metrics:
        note_scoring(job, fmean(run.seconds))
    if job.shards > 1:
        return
    scored = [run.scored[clip] for clip in job.clips if clip in run.scored]
    reference = [run.scored[clip] for clip in job.fvd_reference if clip in run.scored]
    if not reference:
        reference = [each for each in scored if each.clip.method == BASE_METHOD]
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
    found = report(scored, job.subjects, evaluator, run.failed, values)
    for alarm in found["alarms"]:
        report_event(WarningEvent(message=alarm))
    replace_file(out / REPORT, json.dumps(found, indent=1, ensure_ascii=False).encode())
    write_contact_sheet(out / SHEET, sheet_rows(_sheet_frames(scored), job.subjects))
    if job.page:
        report_event(StageEvent(stage="writing the page"))
        write_page(cast("EvaluationReport", found), reference_photos(job.subjects), out / PAGE)


def _features(scored: Sequence[ClipScores]) -> dict[str, list[Features]]:
    """Return the features of clips by metric of sets, of the clips that have any."""
    found: dict[str, list[Features]] = {}
    for each in scored:
        for name, values in each.features.items():
            if values:
                found.setdefault(name, []).append(np.asarray(values, np.float32))
    return found


def _sheet_frames(scored: Sequence[ClipScores]) -> dict[Pair, dict[str, Pixels]]:
    """Return the frames of the first clips of each identity, by what they show and by method."""
    chosen: dict[Pair, dict[str, ClipFile]] = {}
    counts: dict[str, int] = {}
    for each in sorted(scored, key=lambda each: each.clip.method != BASE_METHOD):
        key, identity = pair(each), each.clip.identity
        if key not in chosen and counts.get(identity, 0) < CLIPS_ON_SHEET:
            counts[identity] = counts.get(identity, 0) + 1
            chosen[key] = {}
        if key in chosen:
            chosen[key][each.clip.method] = each.clip
    return {
        key: {method: read_clip(clip).frames for method, clip in methods.items()}
        for key, methods in chosen.items()
    }


def _warn_of_cut_prompts(evaluator: Evaluator, job: EvaluateJob, report_event: Report) -> None:
    if "clip_t" not in evaluator.digests:
        return
    reader = evaluator.judges.reader("text_model")
    if cut := reader.cut_prompts(clip.prompt for clip in job.clips):
        message = f"clip_t ignores the end of {len(cut)} prompts: the image-text model truncates it"
        report_event(WarningEvent(message=f"{message}; the first is {cut[0]!r}."))


class _Run:
    """Scores clips one after the other, and keeps the scores and the reasons of failed ones."""

    def __init__(
        self,
        evaluator: Evaluator,
        files: ScoreFiles,
        subjects: Mapping[str, Subject],
        report_event: Report,
    ) -> None:
        self._evaluator, self._files = evaluator, files
        self._subjects, self._report = subjects, report_event
        self.scored: dict[ClipFile, ClipScores] = {}
        self.failed: dict[str, str] = {}
        self.seconds: list[float] = []

    def score(self, clips: Sequence[ClipFile]) -> None:
        """Score clips. Raises the last error if none can be scored."""
        error: PvError | None = None
        for number, clip in enumerate(clips):
            self._report(StageEvent(stage="scoring", done=number, total=len(clips)))
            try:
                self.scored[clip] = self._score_one(clip)
            except (PvError, OSError) as refused:
                if isinstance(refused, NotFinite):
                    raise
                error = refused if isinstance(refused, PvError) else None
                self.failed[clip.file] = str(refused)
                self._report(WarningEvent(message=f"Not scored: {clip.file}: {refused}"))
        self._report(StageEvent(stage="scoring", done=len(clips), total=len(clips)))
        if clips and not self.scored:
            raise error or UsageError("No clip could be scored.", "See the warnings above.")

    def _score_one(self, clip: ClipFile) -> ClipScores:
        subject = self._subjects.get(clip.identity)
        identity = subject.identity if subject else None
        path = self._files.path(clip, identity)
        known = self._files.read(path, clip)
        if known and self._evaluator.is_complete(known, of_a_set=subject is None):
            return known
        began = time.monotonic()
        frames = read_clip(clip)
        for note in frames.notes:
            self._report(WarningEvent(message=f"{clip.file}: {note}"))
        if subject:
            scored = self._evaluator.score(frames, subject, known)
        else:
            scored = self._evaluator.score_reference(frames, known)
        self._files.write(path, scored)
        self.seconds.append(time.monotonic() - began)
        return scored
