"""Render a batch on a Ray cluster: one task for each group of clips that share a prefix.

The clips and all input files are in folders that all machines share. A task leases its group like
any engine, so clusters, shards and single machines may render the same batch. Ray repeats the tasks
of dead workers, and a worker keeps its model loaded between tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from pvtool_core.batches.folder import Group
from pvtool_core.errors import PvError, RunFailed, from_foreign
from pvtool_core.ray_session import ray_session, remote, slots
from pvtool_core.rendering.leases import FOLDER, Leases
from pvtool_core.rendering.loaded_models import Models
from pvtool_core.rendering.pipeline import render_groups
from pvtool_core.rendering.results import Results
from pvtool_core.settings.jobs import RenderJob
from pvtool_core.store.events import Event, StageEvent
from pvtool_core.store.runs import ExitRecord


def render_on_ray(job: RenderJob, groups: Sequence[Group], results: Results) -> None:
    """Render every clip of the groups on the job's cluster."""
    try:
        with ray_session(job.address):
            _Driver(job, results).run(groups)
    finally:
        with Leases(Path(job.out) / FOLDER) as leases:
            leases.clear_expired()


class _Driver:
    """Keeps the cluster busy with one task per slot, and records the tasks' reports."""

    def __init__(self, job: RenderJob, results: Results) -> None:
        self._job, self._results = ray.put(job), results
        self._prompts: dict[tuple[str, ...], Any] = {}
        self._running: dict[Any, Group] = {}

    def run(self, groups: Sequence[Group]) -> None:
        """Render the groups.

        After a request to stop, start no more tasks and wait for running ones.
        """
        waiting = list(groups[::-1])
        while waiting or self._running:
            if self._is_stopped():
                waiting.clear()
            while waiting and len(self._running) < slots():
                self._start(waiting.pop())
            if self._running:
                self._collect()

    def _is_stopped(self) -> bool:
        try:
            self._results.progress()
        except PvError:  # recorded in the results
            return True
        return False

    def _start(self, group: Group) -> None:
        if group.prompts not in self._prompts:  # stored once for all tasks
            self._prompts[group.prompts] = ray.put(group.prompts)
        prompts = self._prompts[group.prompts]
        task = remote(render_group).remote(self._job, prompts, replace(group, prompts=()))
        self._running[task] = group

    def _collect(self) -> None:
        for task in ray.wait(list(self._running), num_returns=1, timeout=1.0)[0]:
            group = self._running.pop(task)
            try:
                self._record(group, ray.get(task))
            except RayError as lost:
                message = f"The Ray task failed: {type(lost).__name__}."
                self._results.take_over(group.items, RunFailed(message, "See the logs of Ray."))

    def _record(self, group: Group, result: "GroupResult") -> None:
        for event in result.events:
            self._results.pass_on(event)
        for item in group.items:
            if item.clip in result.failed and (error := result.failed[item.clip].error()):
                self._results.failed(item, error)
        if result.ended and (error := result.ended.error()):
            self._results.take_over(group.items, error)


@dataclass(frozen=True)
class GroupResult:
    """Result of a task: its events, the errors of failed clips by path, and its own error."""

    events: Sequence[Event]
    failed: Mapping[str, ExitRecord]
    ended: ExitRecord | None


class _Worker:
    """State of a Ray worker between tasks: its model, and the events of the current task."""

    def __init__(self, cache_gigabytes: float) -> None:
        self.events: list[Event] = []
        self.models = Models(self.report, cache_gigabytes)

    def report(self, event: Event) -> None:
        if not isinstance(event, StageEvent):
            self.events.append(event)


@cache
def _worker(cache_gigabytes: float) -> _Worker:
    return _Worker(cache_gigabytes)


def render_group(job: RenderJob, prompts: tuple[str, ...], group: Group) -> GroupResult:
    """Render a group in a Ray worker, with a model loaded for `prompts`."""
    worker = _worker(job.cache_gigabytes)
    worker.events.clear()
    results = Results(job, worker.report, len(group.items), job.retries)
    ended: ExitRecord | None = None
    try:
        with Leases(Path(job.out) / FOLDER) as leases:
            groups = [replace(group, prompts=prompts)]
            render_groups(job, groups, leases, worker.models, results)
    except Exception as error:
        ended = ExitRecord.of_error(from_foreign(error))
    failed = {one.item.clip: ExitRecord.of_error(one.error) for one in results.failures}
    return GroupResult(list(worker.events), failed, ended)
