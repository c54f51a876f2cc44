"""Score clips one after the other, and keep the scores in files and the reasons of failures."""

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pvtool_core.errors import (
    InputRefused,
    Interrupted,
    NotFinite,
    OutOfResources,
    PvError,
    from_foreign,
)
from pvtool_core.evaluation.clip import read_clip
from pvtool_core.evaluation.evaluator import Evaluator
from pvtool_core.evaluation.scores import ClipScores, ScoreFiles
from pvtool_core.settings.jobs import ClipFile, EvaluateJob
from pvtool_core.store.events import Report, StageEvent, WarningEvent
from pvtool_core.untrusted import exists


@dataclass
class Results:
    """Scores by clip, reasons of failures by file, and the seconds of newly scored clips.

    `error` is the last failure.
    """

    scored: dict[ClipFile, ClipScores] = field(default_factory=dict[ClipFile, ClipScores])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    seconds: list[float] = field(default_factory=list[float])
    error: PvError | None = None

    def add(self, other: "Results") -> None:
        """Add the results of other clips."""
        self.scored |= other.scored
        self.failed |= other.failed
        self.seconds += other.seconds
        self.error = other.error or self.error

    def fail(self, clip: ClipFile, error: PvError) -> None:
        self.failed[clip.file] = error.message
        self.error = error


class ClipScorer:
    """Scores the clips of a job, except those with valid scores in its folder."""

    def __init__(self, job: EvaluateJob, evaluator: Evaluator, report: Report) -> None:
        self._evaluator, self._report = evaluator, report
        self._files = ScoreFiles(Path(job.scores or job.out), evaluator.digests)
        self._subjects = {subject.identity.name: subject for subject in job.subjects}

    def score(self, clips: Sequence[ClipFile]) -> Results:
        """Return the scores of clips; a clip that cannot be scored is a warning.

        Raises NotFinite.
        """
        results = Results()
        for number, clip in enumerate(clips):
            self._report(StageEvent(stage="scoring", done=number, total=len(clips)))
            try:
                results.scored[clip] = self._score_one(clip, results.seconds)
            except (NotFinite, Interrupted):
                raise
            except Exception as error:  # a hostile file makes decoders raise anything
                problem = from_foreign(error)
                if isinstance(problem, OutOfResources):
                    raise
                if problem is not error:
                    traceback.print_exc()
                results.fail(clip, problem)
                self._report(WarningEvent(message=f"Not scored: {clip.file}: {problem.message}"))
        self._report(StageEvent(stage="scoring", done=len(clips), total=len(clips)))
        return results

    def _score_one(self, clip: ClipFile, seconds: list[float]) -> ClipScores:
        subject = self._subjects.get(clip.identity)
        if not exists(Path(clip.file)):
            raise InputRefused(f"{clip.file} does not exist.", "Check the path.")
        path = self._files.path(clip, subject.identity if subject else None)
        known = self._files.read(path, clip)
        if known and self._evaluator.is_complete(known, of_a_set=subject is None):
            self._say(clip, known.notes)
            return known
        began = time.monotonic()
        decoded = read_clip(clip)
        self._say(clip, decoded.notes)
        if subject:
            scored = self._evaluator.score(decoded, subject, known)
        else:
            scored = self._evaluator.score_reference(decoded, known)
        self._files.write(path, scored)
        seconds.append(time.monotonic() - began)
        return scored

    def _say(self, clip: ClipFile, notes: Sequence[str]) -> None:
        for note in notes:
            self._report(WarningEvent(message=f"{clip.file}: {note}"))
