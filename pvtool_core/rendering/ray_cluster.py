"""Render a batch on a Ray cluster: one task for each group of clips that share a prefix.

The clips and all input files are in folders that all machines share. A task leases its group like
any engine, so clusters, shards and single machines may render the same batch. Ray repeats the tasks
of dead workers, and a worker keeps its model loaded between tasks.
"""

import os
import secrets
import shutil
import signal
import stat
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from ray.exceptions import RayError

from pvtool_core.batches.folder import Group
from pvtool_core.errors import PvError, RunFailed, UsageError, from_foreign
from pvtool_core.rendering.denoise import Models
from pvtool_core.rendering.leases import FOLDER, Leases
from pvtool_core.rendering.pipeline import render_groups
from pvtool_core.rendering.results import Results
from pvtool_core.settings.jobs import RenderJob
from pvtool_core.store.events import Event, StageEvent
from pvtool_core.store.runs import ExitRecord

_TRIES = 5
_SESSION = "pv-ray-"
_LONGEST_FOLDER = 20
_PASSED_ON = ("PV_HOME", "HF_HUB_OFFLINE", "TQDM_DISABLE")


def render_on_ray(job: RenderJob, groups: Sequence[Group], results: Results) -> None:
    """Render every clip of the groups on the job's cluster."""
    session = connect(job.address)
    try:
        _Driver(job, results).run(groups)
    finally:
        ray.shutdown()
        if session:
            shutil.rmtree(session, ignore_errors=True)
        with Leases(Path(job.out) / FOLDER) as leases:
            leases.clear_expired()


def connect(address: str) -> Path | None:
    """Connect to a cluster, or start Ray here if `address` is empty; return its session folder.

    Raises UsageError if no cluster is found.
    """
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        # Workers import modules from the current folder; `uv run` must not make Ray copy it.
        with chdir("/"), _without("RAY_ENABLE_UV_RUN_RUNTIME_ENV"):
            if not address:
                return _start_here()
            environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            ray.init(address, runtime_env={"env_vars": environment}, log_to_driver=False)
    except (ConnectionError, RayError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"No Ray cluster found at {address}: {why}", "Check it with `ray status`."
        ) from error
    finally:
        # Ray's handler would end this process immediately, with incomplete clips.
        signal.signal(signal.SIGTERM, on_sigterm)
    return None


def _start_here() -> Path:
    """Start Ray for this process only: on the loopback interface, with a token.

    It has a private folder. Ray replaces 127.0.0.1 by a network address if it supports clusters,
    and opens its folder to all users; hence a folder in a private one.
    """
    sweep_sessions()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise Ray stores a token in the user's home.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    session = Path(tempfile.mkdtemp(prefix=f"{_SESSION}{os.getpid()}-", dir=_short_folder()))
    try:
        with _without("ENABLE_RAY_CLUSTER"):
            ray.init(
                "local",
                log_to_driver=False,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(session / "ray"),
            )
    except BaseException:
        ray.shutdown()
        shutil.rmtree(session, ignore_errors=True)
        raise
    return session


@contextmanager
def _without(flag: str) -> Generator[None]:
    """Disable a flag of Ray, which reads its environment variable only once, at import."""
    before = getattr(ray_constants, flag)
    setattr(ray_constants, flag, False)
    try:
        yield
    finally:
        setattr(ray_constants, flag, before)


def _short_folder() -> str:
    """Return the folder for Ray's sockets, whose paths may have 107 bytes at most."""
    return found if len(found := tempfile.gettempdir()) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108


def sweep_sessions() -> None:
    """Delete the session folders of this user's engines that were killed."""
    for folder in Path(_short_folder()).glob(f"{_SESSION}*-*"):
        number = folder.name.removeprefix(_SESSION).partition("-")[0]
        with suppress(OSError):
            about = folder.lstat()
            ours = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid()
            if ours and number.isdecimal() and not psutil.pid_exists(int(number)):
                shutil.rmtree(folder, ignore_errors=True)


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
        task = _task().remote(self._job, prompts, replace(group, prompts=()))
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


def slots() -> int:
    """Return the number of tasks that the cluster can run now; it may grow and shrink."""
    resources = ray.cluster_resources()
    return max(1, int(resources.get("GPU", 0) or resources.get("CPU", 1)))


def _task() -> Any:
    return _remote(on_gpu=ray.cluster_resources().get("GPU", 0) > 0)


@cache
def _remote(on_gpu: bool) -> Any:
    needs: dict[str, Any] = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
    return ray.remote(max_retries=_TRIES, **needs)(render_group)


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
