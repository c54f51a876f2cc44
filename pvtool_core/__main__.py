"""The engine process: `python -m pvtool_core DIR` runs the job in DIR/config.toml.

It holds the lock of the folder, writes its heartbeat to status.json, events to events.jsonl and its
outcome to exit.json and its exit status. Tracebacks go to stderr, which is engine.log when pv
starts it. SIGTERM and SIGINT mean: save the state and exit. A lost terminal is ignored.
"""

import faulthandler
import importlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtool_core.engine_server import SERVE, serve
from pvtool_core.errors import BrokenRun, Busy, ExitStatus, Interrupted, from_foreign
from pvtool_core.imports import hide_unused_libraries, quick_imports, without_cuda
from pvtool_core.models.locate import locate_faces, locate_rewards, locate_weights
from pvtool_core.permissions import tighten, use_umask_for
from pvtool_core.settings.families import FAMILIES
from pvtool_core.settings.jobs import (
    EnrollJob,
    EvaluateJob,
    Job,
    PlanJob,
    RenderJob,
    Setup,
    TrainJob,
    read_job,
)
from pvtool_core.settings.methods import METHODS
from pvtool_core.settings.references import load_named
from pvtool_core.settings.schema import Settings
from pvtool_core.store.event_log import EventWriter, drop_events_after
from pvtool_core.store.events import Event, Report, RunEvent, WarningEvent
from pvtool_core.store.liveness import Heartbeat, State
from pvtool_core.store.runs import ExitRecord, Request, RunFolder, checkpoint_step
from pvtool_core.store.summary import with_identity_here
from pvtool_core.store.telemetry import Telemetry
from pvtool_core.untrusted import JOB_BYTES, remove

if TYPE_CHECKING:
    from pvtool_core.evaluation.sample_judges import SampleJudges

_QUANTISER = "bitsandbytes.backends.cpu.ops"
_BALLAST_BYTES = 1 << 16
_users_umask: int | None = None  # set in a separate process only


def _is_not_kernel_message(record: logging.LogRecord) -> bool:
    """Filter out a message of bitsandbytes about an optional CPU kernel."""
    return "gemm_4bit_forward" not in record.msg


class SharedEvents(EventWriter):
    """An EventWriter that the engine and its gauges use at the same time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._turn = threading.Lock()

    def write(self, event: Event) -> None:
        with self._turn:
            super().write(event)


def main(words: list[str]) -> int:
    """Run the job in the folder that `words` name; return the exit status."""
    if len(words) != 1 or not Path(words[0]).is_dir():
        print("usage: python -m pvtool_core DIR", file=sys.stderr)  # noqa: T201 - not in the front end
        return ExitStatus.USAGE
    folder = RunFolder(Path(words[0]).absolute())
    logging.getLogger(_QUANTISER).addFilter(_is_not_kernel_message)
    try:
        folder.check()
        with folder.lock():
            return run(folder)
    except (
        Busy,
        BrokenRun,
        OSError,
    ) as error:  # the folder is in use, has unsafe links, or cannot be written to
        refusal = from_foreign(error)
        print(refusal.message, file=sys.stderr)  # noqa: T201 - no other place to report it
        return refusal.status


def run(folder: RunFolder) -> int:
    """Run the job, record its outcome in any case, and return the exit status.

    The caller holds the lock.
    """
    folder.clear_exit()
    folder.forget_requests()
    folder.sweep()
    tighten(folder.path)
    with (
        ballast(folder) as drop_ballast,
        Heartbeat(folder.status) as heartbeat,
        stop_on_signal(folder) as received,
    ):
        try:
            record = work(folder, heartbeat)
        except Interrupted as stopped:
            record = ExitRecord(status=ExitStatus.DONE, state=State.STOPPED, reason=stopped.message)
        except BaseException as error:
            drop_ballast()
            with suppress(OSError):  # the log may be on the full disk
                traceback.print_exc()
            record = ExitRecord.of_error(from_foreign(error))
        if record.state == State.STOPPED and received:
            record = ExitRecord(
                status=128 + received[0], state=State.STOPPED, reason=received[0].name
            )
        record_outcome(folder, heartbeat, record)
        notify(folder)
    return record.status


def work(folder: RunFolder, heartbeat: Heartbeat) -> ExitRecord:
    """Read the settings and run the job. Raises its errors."""
    known = folder.events.exists()
    checkpoint = folder.latest_checkpoint()
    step = checkpoint_step(checkpoint) if checkpoint else 0
    drop_events_after(
        folder.events, step
    )  # before the writer opens the file, since this may replace it
    with SharedEvents(folder.events) as events:
        job = read_job(folder.config, JOB_BYTES)
        events.write(RunEvent(state="resumed" if known else "started", step=step))
        if isinstance(job, TrainJob):
            job = with_identity_here(job, folder.path)
            heartbeat.update(step=step, total=job.training.iterations)
        JOBS[type(job)].check(job)
        device = next((each.model.device for each in JOBS[type(job)].setups(job)), "auto")
        with Telemetry(events.write, folder.path, device):
            return dispatch(job, Context(folder, events, heartbeat))


@dataclass(frozen=True)
class Context:
    """The folder, events and heartbeat of a running job."""

    folder: RunFolder
    events: EventWriter
    heartbeat: Heartbeat


@dataclass(frozen=True)
class JobKind:
    """How jobs of a class are run.

    Attributes:
        run: Runs the job and returns its outcome.
        check: Raises WeightsMissing or InputRefused if weights of the job do not exist any more.
        out: Returns the folder that the job writes to besides its own and the cache.
        setups: Returns the settings of the video models that the job loads.
        libraries: Modules that the job imports, some of them only when it uses them.
    """

    run: Callable[[Any, Context], ExitRecord]
    check: Callable[[Any], object] = lambda _: None
    out: Callable[[Any], Path | None] = lambda _: None
    setups: Callable[[Any], Iterable[TrainJob | Setup]] = lambda _: ()
    libraries: tuple[str, ...] = ()


def run_training(job: TrainJob, context: Context) -> ExitRecord:
    """Train, or continue training; the models that score samples are imported with the first."""
    with quick_imports():
        from pvtool_core.trainer import train

    def load_judge(job: TrainJob, report: Report) -> "SampleJudges":
        with quick_imports():
            from pvtool_core.evaluation.sample_judges import SampleJudges
        return SampleJudges(job, report)

    return train(job, context.folder, context.events, context.heartbeat, load_judge)


def short_job(function: str) -> Callable[[Job, Context], ExitRecord]:
    """Return how a job without checkpoints is run; `function` is named as `module:name`."""

    def run(job: Job, context: Context) -> ExitRecord:
        context.heartbeat.update(State.RUNNING)
        with quick_imports():
            work = load_named(function)
        work(job, reporter(context.folder, context.events))
        return ExitRecord(status=ExitStatus.DONE, state=State.FINISHED)

    return run


_FACES = ("insightface.model_zoo", "onnxruntime", "skimage.measure")
"""Libraries of the face models."""

JOBS: dict[type[Job], JobKind] = {
    TrainJob: JobKind(
        run_training,
        check=locate_weights,
        setups=lambda job: [job],
        libraries=(
            "pvtool_core.trainer",
            "pvtool_core.evaluation.sample_judges",
            "onnx2torch",
            *_FACES,
        ),
    ),
    EnrollJob: JobKind(
        short_job("pvtool_core.faces.enroll:enroll"),
        check=locate_faces,
        libraries=("pvtool_core.faces.enroll", *_FACES),
    ),
    PlanJob: JobKind(short_job("pvtool_core.estimate.counts:plan")),
    RenderJob: JobKind(  # each clip checks its weights
        short_job("pvtool_core.rendering.renderer:render"),
        out=lambda job: Path(job.out),
        setups=lambda job: job.setups,
        libraries=("pvtool_core.rendering.renderer", *_FACES),
    ),
    EvaluateJob: JobKind(
        short_job("pvtool_core.evaluation.evaluation_job:evaluate"),
        check=locate_rewards,
        out=lambda job: Path(job.out),
        libraries=("pvtool_core.evaluation.evaluation_job", *_FACES),
    ),
}


def import_libraries(folder: str) -> None:
    """Import what the job in a folder uses, for the engines that are forked afterwards."""
    with suppress(Exception):  # the engine will report it
        job = read_job(RunFolder(Path(folder)).config, JOB_BYTES)
        kind = JOBS[type(job)]
        hide_unused_libraries()
        drivers = (driver_of(setup) for setup in kind.setups(job))
        modules = [*kind.libraries, *(name.partition(":")[0] for name in drivers)]
        with quick_imports(), without_cuda():
            for module in modules:
                importlib.import_module(module)


def driver_of(setup: TrainJob | Setup) -> str:
    """Return the class of an encoder method or of a backbone, as `module:name`."""
    method = METHODS.get(setup.method.name)
    return method.driver if method else FAMILIES[setup.model.family].backbone


def run_forked(folder: str) -> int:
    """Run the job in a folder after a fork; return the exit status.

    If an import has initialised CUDA all the same, or XPU, the process starts again, without its
    imports.
    """
    torch = sys.modules.get("torch")
    if torch and (torch.cuda._is_in_bad_fork() or torch.xpu._is_in_bad_fork()):
        if _users_umask is not None:
            os.umask(_users_umask)
        command = [sys.executable, "-P", "-m", "pvtool_core", folder]
        os.execv(sys.executable, command)  # noqa: S606 - this program
    return main([folder])


def dispatch(job: Job, context: Context) -> ExitRecord:
    """Run the job as JOBS says; its modules, and torch, are imported here."""
    kind = JOBS[type(job)]
    if _users_umask is not None:
        use_umask_for(kind.out(job), _users_umask)
        hide_unused_libraries()
    use_threads(job.setups[0] if isinstance(job, RenderJob) else job)
    return kind.run(job, context)


def use_threads(settings: Settings | Setup) -> None:
    if settings.model.threads:
        import torch

        torch.set_num_threads(settings.model.threads)


def reporter(folder: RunFolder, events: EventWriter) -> Report:
    """Return the function to which short jobs report events.

    It raises Interrupted after a request to stop, in the main thread only: work of other threads is
    completed.
    """

    def report(event: Event) -> None:
        events.write(event)
        if (
            threading.current_thread() is threading.main_thread()
            and Request.STOP in folder.take_requests()
        ):
            raise Interrupted("asked to stop")

    return report


@contextmanager
def stop_on_signal(folder: RunFolder) -> Generator[list[signal.Signals]]:
    """Turn SIGTERM and SIGINT into a request to stop, and ignore a lost terminal.

    Yields the received signals.
    """
    received: list[signal.Signals] = []

    def ask(number: int, _: object) -> None:
        received.append(signal.Signals(number))
        folder.request(Request.STOP)

    handlers = {signal.SIGTERM: ask, signal.SIGINT: ask, signal.SIGHUP: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ballast(folder: RunFolder) -> Generator[Callable[[], None]]:
    """Reserve disk space, and release it when the disk is full, to record the outcome."""

    def drop() -> None:
        remove(folder.ballast)

    drop()  # left by a killed engine; an existing file is never written to
    with (
        suppress(OSError),
        folder.ballast.open("xb") as file,
    ):  # disk full: the job itself will fail
        file.write(bytes(_BALLAST_BYTES))

    try:
        yield drop
    finally:
        drop()


def record_outcome(folder: RunFolder, heartbeat: Heartbeat, record: ExitRecord) -> None:
    """Record the outcome: last event, exit.json, last heartbeat.

    On a full disk, those that do not fit are skipped.
    """
    with suppress(OSError):
        folder.write_exit(record)
    with suppress(OSError, BrokenRun), EventWriter(folder.events) as events:
        events.write(RunEvent(state=record.state, reason=record.reason))
    with suppress(OSError):
        heartbeat.update(State(record.state))


def notify(folder: RunFolder) -> None:
    """Notify the user of the end as their config.toml says; failures become warnings."""
    from pvtool_core.notifications.sending import notify_of_end  # imported here for a fast start

    problems = notify_of_end(folder)
    with suppress(OSError, BrokenRun), EventWriter(folder.events) as events:
        for problem in problems:
            events.write(WarningEvent(message=problem))


if __name__ == "__main__":
    faulthandler.enable()
    _users_umask = os.umask(0o077)
    os.environ.setdefault(
        "HF_HUB_OFFLINE", "1"
    )  # only `pv models` downloads weights, not other libraries
    os.environ.setdefault(
        "TQDM_DISABLE", "1"
    )  # progress bars of other libraries would fill the log
    os.environ.setdefault(
        "PYTHONSAFEPATH", "1"
    )  # subprocesses must not import modules of the current folder either
    if sys.argv[1:] == [SERVE]:
        sys.exit(serve(import_libraries, run_forked))
    sys.exit(main(sys.argv[1:]))
