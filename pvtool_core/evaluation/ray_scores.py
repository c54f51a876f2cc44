"""Score clips on a Ray cluster.

Clips, identities and weights are in folders that all machines share.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import ray
from ray.exceptions import RayError

from pvtool_core.errors import PvError, RunFailed, from_foreign
from pvtool_core.evaluation.clip_scorer import ClipScorer, Results
from pvtool_core.evaluation.evaluator import Evaluator
from pvtool_core.ray_session import ray_session, remote
from pvtool_core.settings.jobs import ClipFile, EvaluateJob
from pvtool_core.store.events import Event, Report, StageEvent, WarningEvent

PART = 8
"""Number of clips of a task."""


def score_on_ray(job: EvaluateJob, clips: Sequence[ClipFile], report: Report) -> Results:
    """Return the scores of clips by the tasks of the job's cluster.

    Scores of tasks that ended before a request to stop are kept in their files.
    """
    results = Results()
    with ray_session(job.address):
        stored = ray.put(job)
        task = remote(score_part)
        parts = [clips[first : first + PART] for first in range(0, len(clips), PART)]
        running = {task.remote(stored, part): part for part in parts}
        done = 0
        while running:
            report(StageEvent(stage="scoring", done=done, total=len(clips)))
            for ended in ray.wait(list(running), num_returns=1, timeout=1.0)[0]:
                part = running.pop(ended)
                done += len(part)
                _collect(part, ended, results, report)
    report(StageEvent(stage="scoring", done=done, total=len(clips)))
    return results


def _collect(part: Sequence[ClipFile], task: Any, results: Results, report: Report) -> None:
    """Add the results of a task. Raises the error that ended it."""
    try:
        found, warnings, error = ray.get(task)
    except RayError as lost:
        error = RunFailed(f"The Ray task failed: {type(lost).__name__}.", "See the logs of Ray.")
        for clip in part:
            results.fail(clip, error)
            report(WarningEvent(message=f"Not scored: {clip.file}: {error.message}"))
        return
    for warning in warnings:
        report(warning)
    if error:
        raise error
    results.add(found)


@cache
def _evaluator(job: EvaluateJob) -> Evaluator:
    """Return the evaluator of a job; a worker keeps its models between tasks."""
    return Evaluator(job)


def score_part(
    job: EvaluateJob, clips: Sequence[ClipFile]
) -> tuple[Results, list[WarningEvent], PvError | None]:
    """Score clips in a Ray worker; return the results, warnings, and the error that ended it."""
    warnings: list[WarningEvent] = []

    def keep(event: Event) -> None:
        if isinstance(event, WarningEvent):
            warnings.append(event)

    try:
        return ClipScorer(job, _evaluator(job), keep).score(clips), warnings, None
    except Exception as error:
        return Results(), warnings, from_foreign(error)
