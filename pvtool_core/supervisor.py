"""Starts engines, follows and signals them. The only thing between the face and an engine is the engine's folder."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType

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
from pvtool_core.store.events import Event, events_end, read_events
from pvtool_core.store.liveness import LIVE, State
from pvtool_core.store.runs import Request, RunFolder
from pvtool_core.store.scratch import held_folder, keep

ENGINE = (sys.executable, "-P", "-m", "pvtool_core")
"""-P: Python files of the folder that one works in are not for the engine."""
POLL_SECONDS = 0.1
ANSWER_SECONDS = 600.0
"""A step of the largest models takes minutes, and a checkpoint comes after it."""
OnEvent = Callable[[Event], None]


def start(
    folder: RunFolder, engines: list[subprocess.Popen[bytes]] | None = None
) -> subprocess.Popen[bytes]:
    """Start an engine in a session of its own: a lost terminal does not end it, and Ctrl-C reaches it only through us.

    It is added to `engines` as soon as there is a process, and ended again if nobody can be told of it. What it says on
    its own goes to its log. An earlier engine's end is forgotten, so that it is not taken for this one's. Raises
    UnsafeRun before anything is written where a link, for example, leads out of the folder.
    """
    folder.check()
    idle = folder.state() not in LIVE  # else the one that lives will send this one away
    ended = folder.exit_mark()
    with os.fdopen(folder.open_log(), "ab") as log:
        engine = subprocess.Popen(
            [*ENGINE, str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )
    try:
        if engines is not None:
            engines.append(engine)
        if idle:
            folder.announce(engine.pid)
            if folder.exit_mark() == ended:  # else the new engine has ended already
                folder.clear_exit()
    except BaseException:
        _end([engine])
        raise
    return engine


def _end(engines: Sequence[subprocess.Popen[bytes]]) -> None:
    """Leave no engine behind that nobody knows of: each saves its state and goes."""
    for engine in engines:
        engine.terminate()
    for engine in engines:
        engine.wait()


def run_short_job(kind: str, job: Job, on_event: OnEvent) -> None:
    """Run a job in a temporary folder to its end. Raises what the engine reports.

    The folder is deleted, but kept for some days when the engine failed in an unforeseen way: its log says where.
    """
    with held_folder(jobs_dir(), f"{kind}-") as path:
        folder = RunFolder(path)
        try:
            write_job(folder.config, job)
            run_to_end(folder, on_event)
        except RunFailed:
            keep(path)
            raise
        except BaseException:
            shutil.rmtree(path)
            raise
        shutil.rmtree(path)


def run_to_end(folder: RunFolder, on_event: OnEvent) -> None:
    """Start an engine and follow it to its end. Raises what it reports.

    SIGINT and SIGTERM are handed on once, and the engine saves its state and goes; a second one ends it at once. A
    hang-up ends only us.
    """
    (error,) = run_together([folder], on_event)
    _raise_with_log(folder, error)


def run_together(folders: Sequence[RunFolder], on_event: OnEvent) -> list[PvError | None]:
    """Start an engine in each folder and follow them all to their ends; give back what each reports.

    Signals are handed on as `run_to_end` does.
    """
    begun = {folder.path: events_end(folder.events) for folder in folders}
    engines: list[subprocess.Popen[bytes]] = []
    try:
        with _signals_handed_to(engines) as received:
            for folder in folders:
                engine = start(folder, engines)
                if (
                    received
                ):  # while it was started; it may not have been among those that were told
                    engine.terminate()
            following = [
                _follow(folder, begun[folder.path], partial(_is_running, engine))
                for folder, engine in zip(folders, engines, strict=True)
            ]
            for event in _in_turn(following):
                on_event(event)
    except BaseException:  # whoever follows broke it off
        _end(engines)
        raise
    told = received[0] if received else None
    return [
        _outcome(folder, told, engine.returncode)
        for folder, engine in zip(folders, engines, strict=True)
    ]


def _is_running(engine: subprocess.Popen[bytes]) -> bool:
    return engine.poll() is None


def start_detached(folder: RunFolder) -> None:
    """Start an engine and leave it alone once its heart beats. Raises what it reports if it ends before."""
    engine = start(folder)
    announced = folder.read_status()
    while engine.poll() is None and folder.read_status() == announced:
        time.sleep(POLL_SECONDS)
    if engine.returncode is not None:
        raise_outcome(folder, returncode=engine.returncode)


def follow(folder: RunFolder, on_event: OnEvent, offset: int = 0) -> None:
    """Follow an engine started by anyone, until it ends."""
    for event in _in_turn([_follow(folder, offset, lambda: folder.state() in LIVE)]):
        on_event(event)


def ask(folder: RunFolder, request: Request) -> None:
    """Put a request to a live engine; it answers by an event. Raises UsageError if none lives."""
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
    """What is new each time one asks, until the engine is gone."""
    more = True
    while more:
        more = (
            lives()
        )  # asked before reading, so that what was written last is read once it is dead
        events, offset = read_events(folder.events, offset)
        yield events


def _in_turn(following: Sequence[Iterator[list[Event]]]) -> Iterator[Event]:
    """The events of several engines, until all are gone."""
    left = list(following)
    while left:
        for one in list(left):
            events = next(one, None)
            if events is None:
                left.remove(one)
            else:
                yield from events
        if left:
            time.sleep(POLL_SECONDS)


@contextmanager
def _signals_handed_to(
    engines: Sequence[subprocess.Popen[bytes]],
) -> Generator[list[signal.Signals]]:
    """Signals reach the main thread only: followed from another one, as the dashboard does, there are none to hand."""
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
    """What an engine said on its own, as the cause of the error that it ended with; `--debug` shows it."""


def raise_outcome(
    folder: RunFolder, received: signal.Signals | None = None, returncode: int | None = None
) -> None:
    """Raise what the engine reported, if it was no good; `received` is the signal by which we were told to end it.

    `returncode` is known only of an engine that is a child of ours.
    """
    _raise_with_log(folder, _outcome(folder, received, returncode))


def _raise_with_log(folder: RunFolder, error: PvError | None) -> None:
    if error:
        raise error from EngineLog(f"the engine's log:\n{_said(folder)}")


def _said(folder: RunFolder) -> str:
    try:
        return folder.read_log()
    except (PvError, OSError):  # it is about another error
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
            "Interrupted; what was reached is saved.",
            f"{resume} goes on.",
            terminated=received == signal.SIGTERM,
        )
    if ended is None:
        code = (
            ""
            if returncode is None
            else f" with {'signal' if returncode < 0 else 'status'} {abs(returncode)}"
        )
        return RunFailed(f"The engine ended{code} and left no word.", f"Its log is {folder.log}.")
    error = ended.error()
    if error and error.status == ExitStatus.FAILED:
        return RunFailed(error.message, f"{error.hint} The engine's log is {folder.log}.".lstrip())
    return error


def wait_for(folder: RunFolder, states: frozenset[State], seconds: float = ANSWER_SECONDS) -> State:
    """Wait until the run is in one of `states`, or its engine is gone; give back what it is in then.

    Raises NoAnswer if an engine lives so long and is in none of them.
    """
    latest = time.monotonic() + seconds
    while (state := folder.state()) not in states and state in LIVE:
        if time.monotonic() > latest:
            raise NoAnswer(folder.name, state, seconds)
        time.sleep(min(POLL_SECONDS, seconds))
    return state
