"""A batch on a Ray cluster: one task for each group of clips that share a trajectory.

The clips, and what they are made from, lie in folders that all machines share. A task claims its group as any engine
does, so clusters, shards and single machines may work at the same batch. Ray repeats the tasks of workers that die, and
a worker keeps its model loaded from one task to the next.
"""

import os
import secrets
import shutil
import signal
import stat
import tempfile
from collections.abc import Generator, Sequence
from contextlib import chdir, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from ray.exceptions import RayError

from pvtool_core.batches.clips import Names
from pvtool_core.batches.folder import Group, grouped
from pvtool_core.errors import Interrupted, RunFailed, UsageError, from_foreign
from pvtool_core.rendering.denoise import LoadedModel
from pvtool_core.rendering.leases import Leases
from pvtool_core.rendering.pipeline import PROMPTS_AT_ONCE, Batch, prompts_of
from pvtool_core.rendering.results import Report, Results
from pvtool_core.settings.jobs import RenderItem, RenderJob
from pvtool_core.store.runs import ExitRecord

_TRIES = 5
_SESSION = "pv-ray-"
_LONGEST_FOLDER = 20
_PASSED_ON = ("PV_HOME", "HF_HUB_OFFLINE", "TQDM_DISABLE")


def render_on_ray(job: RenderJob, items: Sequence[RenderItem], report: Report) -> None:
    """Make every clip of the job, as `renderer.render` does, on the cluster that the job names."""
    report("stage", stage="loading")
    tally = Results(job, report, len(items))
    session = connect(job.address)
    try:
        _Driver(job, tally).run(items)
    finally:
        ray.shutdown()
        if session:
            shutil.rmtree(session, ignore_errors=True)
        with Leases(Path(job.out) / ".claims") as claims:
            claims.clear_up()
    tally.finish()


def connect(address: str) -> Path | None:
    """Connect to a cluster, or start Ray here if `address` is empty; return the folder of that session.

    Raises UsageError if there is no cluster there.
    """
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        # Workers import modules from the current folder. `uv run` must not make Ray copy that folder to them.
        with chdir("/"), _without("RAY_ENABLE_UV_RUN_RUNTIME_ENV"):
            if not address:
                return _start_here()
            environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            ray.init(address, runtime_env={"env_vars": environment}, log_to_driver=False)
    except (ConnectionError, RayError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"There is no Ray cluster at {address}: {why}", "`ray status` shows whether it runs."
        ) from error
    finally:
        signal.signal(
            signal.SIGTERM, on_sigterm
        )  # Ray's own would end us at once, with clips in our hands
    return None


def _start_here() -> Path:
    """Start Ray for this process alone: on the loopback interface, with a token and a private folder of its own.

    Ray replaces 127.0.0.1 by an address of the network wherever clusters are possible, and opens the folder that it
    is given to all users; hence a folder in a private one.
    """
    sweep_sessions()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_AUTH_TOKEN", secrets.token_hex(32)
    )  # else Ray keeps one in the user's home
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
    """Switch off a flag of Ray, which reads its environment variable only once, when it is imported."""
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
    """Keeps the cluster busy, one task for each of its slots, and hears what became of the clips."""

    def __init__(self, job: RenderJob, tally: Results) -> None:
        self._job, self._tally = ray.put(job), tally
        self._names = [Names(setup, job.encoding.upscale) for setup in job.setups]
        self._running: dict[Any, Group] = {}

    def run(self, items: Sequence[RenderItem]) -> None:
        """To the end, or until asked to stop: then those that run end, and no others begin."""
        waiting = grouped(items, self._names)[::-1]
        prompts = {
            (setup, prompt): place
            for setup, texts in prompts_of(items).items()
            for place, prompt in enumerate(texts)
        }
        blocks = self._blocks(items)
        while waiting or self._running:
            self._check()
            while waiting and not self._tally.fatal and len(self._running) < slots():
                group = waiting.pop()
                setup, prompt = group.items[0].setup, group.items[0].prompt
                block = blocks[setup, prompts[setup, prompt] // PROMPTS_AT_ONCE]
                self._running[_task().remote(self._job, block, group.items)] = group
            if self._tally.fatal:
                waiting.clear()
            if self._running:
                self._hear()

    def _check(self) -> None:
        try:
            self._tally.progress()
        except Interrupted as error:
            self._tally.fatal = error

    def _blocks(self, items: Sequence[RenderItem]) -> dict[tuple[int, int], Any]:
        """The prompts that a model is loaded for at once, put where all tasks find them."""
        return {
            (setup, start // PROMPTS_AT_ONCE): ray.put(texts[start : start + PROMPTS_AT_ONCE])
            for setup, texts in prompts_of(items).items()
            for start in range(0, len(texts), PROMPTS_AT_ONCE)
        }

    def _hear(self) -> None:
        for task in ray.wait(list(self._running), num_returns=1, timeout=1.0)[0]:
            group = self._running.pop(task)
            try:
                told, ended = ray.get(task)
                error = ended and ended.error()
            except RayError as lost:
                told, error = (
                    [],
                    RunFailed(
                        f"Ray gave it up: {type(lost).__name__}.", "Ray's own logs say more."
                    ),
                )
            for event in told:
                self._tally.pass_on(event)
            if error:
                self._tally.take_over(group.items, error)


def slots() -> int:
    """How many tasks the cluster can do at once, now: it may grow and shrink."""
    resources = ray.cluster_resources()
    return max(1, int(resources.get("GPU", 0) or resources.get("CPU", 1)))


def _task() -> Any:
    return _remote(on_gpu=ray.cluster_resources().get("GPU", 0) > 0)


@cache
def _remote(on_gpu: bool) -> Any:
    needs: dict[str, Any] = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
    return ray.remote(max_retries=_TRIES, **needs)(render_group)


@cache
def _shelf() -> LoadedModel:
    """This worker's model, kept from task to task."""
    return LoadedModel()


def render_group(
    job: RenderJob, prompts: Sequence[str], items: Sequence[RenderItem]
) -> tuple[list[dict[str, Any]], ExitRecord | None]:
    """What a worker does: the events of a group, and what ended it if that was more than one clip's failure."""
    told: list[dict[str, Any]] = []

    def report(type: str, **values: Any) -> None:
        if type != "stage":
            told.append({"type": type, **values})

    try:
        with Leases(Path(job.out) / ".claims") as claims:
            Batch(job, claims, report, _shelf()).render(items, prompts)
    except Exception as error:
        return told, ExitRecord.of_error(from_foreign(error))
    return told, None
