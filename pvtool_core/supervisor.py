"""Start, follow and signal engines. The run folder is the only connection to an engine."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import FrameType
from typing import Self

from pvtool_core.engine_server import UNKNOWN_STATUS, EngineProcess, EngineServer
from pvtool_core.errors import (
    Busy,
    ExitStatus,
    Interrupted,
    NoAnswer,
    PvError,
    RunFailed,
    UsageError,
)
from pvtool_core.paths import jobs_dir
from pvtool_core.settings.jobs import Job, write_job
from pvtool_core.store.event_log import events_end, read_events
from pvtool_core.store.events import Event
from pvtool_core.store.liveness import LIVE, State
from pvtool_core.store.runs import Request, RunFolder
from pvtool_core.store.scratch import held_folder, keep

ENGINE = (sys.executable, "-P", "-m", "pvtool_core")
"""With -P the engine does not import Python files of the current folder."""
POLL_SECONDS = 0.1
ANSWER_SECONDS = 600.0
"""A step of the largest models takes minutes, and a checkpoint follows."""
OnEvent = Callable[[Event], None]


class _SharedServer:
    """The engine server of a block: started with the first engine, again if it was killed."""

    def __init__(self) -> None:
        self._server: EngineServer | None = None
        self._environment = _environment()

    def start(self, folder: RunFolder, log: int) -> EngineProcess | None:
        """Start an engine; None if the environment has changed since the begin of the block."""
        if self._environment != _environment():
            return None
        if self._server is None or not self._server.is_running():
            self._server = EngineServer(ENGINE, self._environment, log)
        return self._server.start(folder.path.absolute(), log)

    def close(self) -> None:
        if self._server:
            self._server.close()


_shared: ContextVar[_SharedServer | None] = ContextVar("shared", default=None)


@contextmanager
def shared_engines() -> Generator[None]:
    """Let the engines that this thread starts in the block share their imports.

    For jobs that follow each other. Each engine is forked from a server that imports libraries
    once; it is a process of its own like any other, and continues if it is running at the end of
    the block. Only on Linux: libraries of other systems may not work after a fork.
    """
    if _shared.get() or sys.platform != "linux":
        yield
        return
    server = _SharedServer()
    token = _shared.set(server)
    try:
        yield
    finally:
        _shared.reset(token)
        server.close()


def start(
    folder: RunFolder,
    engines: list[EngineProcess] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> EngineProcess:
    """Start an engine in its own session and add it to `engines`; it is stopped if `stop` is true.

    A closed terminal does not end it, and Ctrl-C reaches it only through this process. It is added
    as soon as the process exists, and ended again if that fails. Its output goes to its log. The
    exit record of an earlier engine is removed. Raises UnsafeRun, before anything is written, if
    for example a link leads out of the folder.
    """
    folder.check()
    idle = folder.state() not in LIVE  # otherwise the live engine will refuse this one
    ended = folder.exit_mark()
    with os.fdopen(folder.open_log(), "ab") as log:
        engine = _launch(folder, log.fileno())
    try:
        if engines is not None:
            engines.append(engine)
        if stop():  # before its process id is known, as a server may import for long
            engine.terminate()
        if idle:
            folder.announce(engine.pid)
            if folder.exit_mark() == ended:  # otherwise the new engine has already ended
                folder.clear_exit()
    except BaseException:
        _end([engine])
        raise
    return engine


def _launch(folder: RunFolder, log: int) -> EngineProcess:
    shared = _shared.get()
    return (shared and shared.start(folder, log)) or subprocess.Popen(
        [*ENGINE, str(folder.path)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONSAFEPATH": "1"}


def _end(engines: Sequence[EngineProcess]) -> None:
    """Stop the engine of a failed start: it saves its state and exits."""
    for engine in engines:
        engine.terminate()
    for engine in engines:
        engine.wait()


def _never() -> bool:
    return False


def run_short_job(
    kind: str, job: Job, on_event: OnEvent, stop: Callable[[], bool] = _never
) -> None:
    """Run a job in a temporary folder to its end. Raises the engine's error.

    Once `stop` is true, the engine is ended and Interrupted is raised.

    The folder is deleted, but kept for some days after an unexpected failure, for its log.
    """
    with held_folder(jobs_dir(), f"{kind}-") as path:
        folder = RunFolder(path)
        try:
            write_job(folder.config, job)
            run_to_end(folder, on_event, stop)
        except RunFailed:
            keep(path)
            raise
        except BaseException:
            shutil.rmtree(path)
            raise
        shutil.rmtree(path)


def run_to_end(folder: RunFolder, on_event: OnEvent, stop: Callable[[], bool] = _never) -> None:
    """Start an engine and follow it to its end. Raises its error, or Interrupted by `stop`.

    SIGINT and SIGTERM are forwarded once, and the engine saves its state and exits; a second one
    ends it immediately. A hang-up ends this process only.
    """
    (error,) = run_together([folder], on_event, stop)
    _raise_with_log(folder, error)


class Engines:
    """Engines that this process starts together, one in each folder."""

    def __init__(self, folders: Sequence[RunFolder]) -> None:
        self.folders = tuple(folders)
        self.processes: list[EngineProcess] = []
        self._offsets = [events_end(folder.events) for folder in folders]

    def start(self, stop: Callable[[], bool] = lambda: False) -> Self:
        """Start all engines; those that start once `stop` is true are stopped again.

        Raises what `start` raises, after the engines already started have ended.
        """
        try:
            for folder in self.folders:
                engine = start(folder, self.processes, stop)
                if stop():
                    engine.terminate()
        except BaseException:
            _end(self.processes)
            raise
        return self

    def events(self, stop: Callable[[], bool] = _never) -> Iterator[Event]:
        """Yield the events of all engines as they come, until all have ended.

        Raises Interrupted once `stop` is true.
        """
        return _in_turn(
            [
                _follow(folder, offset, partial(_is_running, process))
                for folder, offset, process in zip(
                    self.folders, self._offsets, self.processes, strict=True
                )
            ],
            stop,
        )

    def stop(self) -> None:
        """Ask all engines to save their state and exit."""
        for folder, process in zip(self.folders, self.processes, strict=True):
            if _is_running(process):
                folder.request(Request.STOP)

    def errors(self, received: signal.Signals | None = None) -> list[PvError | None]:
        """Return the error of each engine once all have ended; `received` is a forwarded signal."""
        return [
            _outcome(folder, received, process.wait())
            for folder, process in zip(self.folders, self.processes, strict=True)
        ]


def run_together(
    folders: Sequence[RunFolder], on_event: OnEvent, stop: Callable[[], bool] = _never
) -> list[PvError | None]:
    """Start an engine in each folder and follow all to their ends; return their outcomes.

    Signals are forwarded as in `run_to_end`. Raises Interrupted once `stop` is true.
    """
    engines = Engines(folders)
    try:
        with _forwarded_signals(engines.processes) as received:
            engines.start(stop=lambda: bool(received))
            for event in engines.events(stop):
                on_event(event)
    except BaseException:  # the caller stopped following
        _end(engines.processes)
        raise
    return engines.errors(received[0] if received else None)


def _is_running(engine: EngineProcess) -> bool:
    return engine.poll() is None


def start_detached(folder: RunFolder) -> None:
    """Start an engine and return after its first heartbeat.

    Raises the engine's error if it ends before.
    """
    engine = start(folder)
    announced = folder.read_status()
    while engine.poll() is None and (
        folder.read_status() == announced or folder.exit.exists()  # ended but for its process
    ):
        time.sleep(POLL_SECONDS)
    if engine.returncode is not None:
        raise_outcome(folder, returncode=engine.returncode)


def follow(folder: RunFolder, on_event: OnEvent, offset: int = 0) -> None:
    """Follow an engine started by anyone, until it ends."""
    for event in _in_turn([_follow(folder, offset, lambda: folder.state() in LIVE)]):
        on_event(event)


def ask(folder: RunFolder, request: Request) -> None:
    """Send a request to a live engine, which answers by an event.

    Raises UsageError if it is not running.
    """
    state = folder.state()
    if state not in LIVE:
        finished = state == State.FINISHED
        hint = (
            "Nothing is left to train."
            if finished
            else f"`pv runs resume {folder.name}` resumes it."
        )
        raise UsageError(f"{folder.name} is not running: it is {state}.", hint)
    folder.request(request)


def _follow(folder: RunFolder, offset: int, lives: Callable[[], bool]) -> Iterator[list[Event]]:
    """Yield the new events at each poll, until the engine has ended."""
    more = True
    while more:
        more = lives()  # checked before reading, to read the last events of a dead engine
        events, offset = read_events(folder.events, offset)
        yield events


def _in_turn(
    following: Sequence[Iterator[list[Event]]], stop: Callable[[], bool] = _never
) -> Iterator[Event]:
    """Yield the events of several engines, until all have ended or `stop` is true."""
    left = list(following)
    while left:
        if stop():
            raise Interrupted("The job was cancelled.")
        for one in list(left):
            events = next(one, None)
            if events is None:
                left.remove(one)
            else:
                yield from events
        if left:
            time.sleep(POLL_SECONDS)


@contextmanager
def _forwarded_signals(
    engines: Sequence[EngineProcess],
) -> Generator[list[signal.Signals]]:
    """Forward signals.

    They reach the main thread only: in another thread, as in the dashboard, nothing is forwarded.
    """
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def hand_on(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))
        for engine in engines:
            engine.send_signal(signal.SIGTERM if len(received) == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class EngineLog(Exception):
    """The log of an engine, as the cause of its error; `--debug` shows it."""


def raise_outcome(
    folder: RunFolder, received: signal.Signals | None = None, returncode: int | None = None
) -> None:
    """Raise the error that the engine reported, if any.

    `received` is the signal that this process forwarded; `returncode` is known for child processes
    only.
    """
    _raise_with_log(folder, _outcome(folder, received, returncode))


def _raise_with_log(folder: RunFolder, error: PvError | None) -> None:
    if error:
        raise error from EngineLog(f"the engine's log:\n{_log_text(folder)}")


def _log_text(folder: RunFolder) -> str:
    try:
        return folder.read_log()
    except (PvError, OSError):  # the log is shown for another error
        return ""


def _outcome(
    folder: RunFolder, received: signal.Signals | None, returncode: int | None
) -> PvError | None:
    if returncode == ExitStatus.BUSY:
        return Busy(folder.name)
    ended = folder.read_exit()
    if received and (ended is None or ended.state == State.STOPPED):
        resume = (
            f"`pv runs resume {folder.name}`" if folder.checkpoints.exists() else "The same command"
        )
        return Interrupted(
            "Interrupted; the state is saved.",
            f"{resume} continues.",
            terminated=received == signal.SIGTERM,
        )
    if ended is None:
        code = (
            ""
            if returncode is None or returncode == UNKNOWN_STATUS
            else f" with {'signal' if returncode < 0 else 'status'} {abs(returncode)}"
        )
        return RunFailed(f"The engine ended unexpectedly{code}.", f"See its log: {folder.log}.")
    error = ended.error()
    if error and error.status == ExitStatus.FAILED:
        return RunFailed(error.message, f"{error.hint} The engine's log is {folder.log}.".lstrip())
    return error


def wait_for(folder: RunFolder, states: frozenset[State], seconds: float = ANSWER_SECONDS) -> State:
    """Wait until the run is in one of `states` or its engine has ended; return its state.

    Raises NoAnswer if the engine is alive and in another state when the time is over.
    """
    latest = time.monotonic() + seconds
    while (state := folder.state()) not in states and state in LIVE:
        if time.monotonic() > latest:
            raise NoAnswer(folder.name, state, seconds)
        time.sleep(min(POLL_SECONDS, seconds))
    return state
