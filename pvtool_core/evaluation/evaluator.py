"""Score clips with every metric of the table, and write a report and a contact sheet.

The clips are those of a render job, with and without adapter. Evaluation shares no code with the
rewards except model loading. Identity is measured with a held-out recogniser; the reward's
recogniser is reported beside it, to detect reward hacking.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from pvtool_core.errors import NotFinite
from pvtool_core.evaluation.clip import Clip, read_clip
from pvtool_core.evaluation.judges import Judges
from pvtool_core.evaluation.metrics import METRICS, SET_METRICS
from pvtool_core.evaluation.report import Scores, gap_alarm, left_out, sheet_rows, summary
from pvtool_core.files import replace_file
from pvtool_core.media.contact_sheet import write_contact_sheet
from pvtool_core.settings.jobs import EvaluateJob, Subject
from pvtool_core.store.events import Report, StageEvent, WarningEvent

SCORERS = "Check the face recognisers and the image-text model: `pv models verify`."


class Evaluator:
    """The models that score clips, and the metrics that use them."""

    def __init__(self, job: EvaluateJob) -> None:
        self.judges = Judges(job)
        self._metrics = [entry.make(self.judges) for entry in METRICS]
        self._set_metrics = [(entry.make(self.judges), entry.fewest) for entry in SET_METRICS]

    def scores(self, clip: Clip, subject: Subject) -> Scores:
        """Return the value of each metric by its name.

        Raises NotFinite if one is NaN or infinite.
        """
        scores = {metric.name: metric.measure(clip, subject) for metric in self._metrics}
        _check_finite("scores of a clip", scores)
        return scores

    def set_scores(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, float]:
        """Return the value of each metric for which both sets are large enough.

        Raises NotFinite.
        """
        size = min(len(clips), len(reference))
        scores = {
            metric.name: metric.measure(clips, reference)
            for metric, fewest in self._set_metrics
            if size >= fewest
        }
        _check_finite("scores of a set of clips", scores)
        return scores


def _check_finite(what: str, scores: Scores) -> None:
    bad = [name for name, value in scores.items() if value is not None and not math.isfinite(value)]
    if bad:
        raise NotFinite(f"{what} ({', '.join(bad)})", SCORERS)


def evaluate(job: EvaluateJob, report: Report) -> None:
    """Score the clips of the job; write its report and its contact sheet."""
    report(StageEvent(stage="loading"))
    evaluator = Evaluator(job)
    subjects = {subject.identity.name: subject for subject in job.subjects}
    scored: list[tuple[Clip, Scores]] = []
    for number, sidecar in enumerate(map(Path, job.sidecars)):
        report(StageEvent(stage="scoring", done=number, total=len(job.sidecars)))
        clip = read_clip(sidecar)
        scored.append((clip, evaluator.scores(clip, subjects[clip.record["identity"]])))
    report(StageEvent(stage="scoring", done=len(job.sidecars), total=len(job.sidecars)))
    clips = [clip for clip, _ in scored]
    if cut := evaluator.judges.reader.cut_prompts(clip.record["prompt"] for clip in clips):
        message = (
            f"prompt_score ignores the end of {len(cut)} prompts: the image-text model truncates it"
        )
        report(WarningEvent(message=f"{message}; the first is {cut[0]!r}."))
    found = summary(scored, evaluator.set_scores)
    if lonely := left_out(clips):
        report(WarningEvent(message=f"Clips without a counterpart, not in the means: {lonely}."))
    for name, stages in found["identities"].items():
        if alarm := gap_alarm(stages):
            report(WarningEvent(message=f"{name}: {alarm}"))
    if job.report:
        replace_file(Path(job.report), json.dumps(found, indent=1, ensure_ascii=False).encode())
    if job.sheet:
        write_contact_sheet(Path(job.sheet), sheet_rows(clips, job.subjects))
