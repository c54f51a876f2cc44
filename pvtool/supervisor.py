"""Starts engines, follows and signals them. The only thing between the face and an engine is the engine's folder."""

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from pvtool_core.config import Job, write_job
from pvtool_core.errors import Busy, ExitStatus, Interrupted, PvError, RunFailed, UsageError
from pvtool_core.paths import cache_dir
from pvtool_core.runs import Event, Request, RunFolder, State, read_events

ENGINE = (sys.executable, "-m", "pvtool_core")
POLL_SECONDS = 0.1
LIVE = frozenset({State.STARTING, State.RUNNING, State.PAUSED})
OnEvent = Callable[[Event], None]


def start(folder: RunFolder) -> subprocess.Popen[bytes]:
    """Start an engine in a session of its own: a lost terminal does not end it, and Ctrl-C reaches it only through us.

    What it says on its own goes to its log. An earlier engine's end is forgotten first, so that it is not taken for
    this one's.
    """
    with folder.log.open("ab") as log:
        engine = subprocess.Popen(
            [*ENGINE, str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    if folder.state() not in LIVE:  # else the one that lives will send this one away
        folder.announce(engine.pid)
        folder.clear_exit()
    return engine


def run_short_job(kind: str, job: Job, on_event: OnEvent) -> None:
    """Run a job in a temporary folder to its end. Raises what the engine reports.

    The folder is deleted, but kept when the engine failed in an unforeseen way: its log says where.
    """
    jobs = cache_dir() / "jobs"
    jobs.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=jobs)))
    try:
        write_job(folder.config, job)
        run_to_end(folder, on_event)
    except RunFailed:
        raise
    except BaseException:
        shutil.rmtree(folder.path)
        raise
    shutil.rmtree(folder.path)


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
    begun = {folder.path: read_events(folder.events)[1] for folder in folders}
    engines: list[subprocess.Popen[bytes]] = []
    try:
        for folder in folders:
            engines.append(start(folder))
        with _signals_handed_to(engines) as received:
            following = [
                _follow(folder, begun[folder.path], partial(_is_running, engine))
                for folder, engine in zip(folders, engines, strict=True)
            ]
            for event in _in_turn(following):
                on_event(event)
    except BaseException:  # whoever follows broke it off: leave no engine behind that nobody knows of
        for engine in engines:
            engine.terminate()
        for engine in engines:
            engine.wait()
        raise
    told = received[0] if received else None
    return [_outcome(folder, told, engine.returncode) for folder, engine in zip(folders, engines, strict=True)]


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
        hint = "Nothing is left to train." if finished else f"`pv runs resume {folder.name}` resumes it."
        raise UsageError(f"{folder.name} is not running: it is {state}.", hint)
    folder.request(request)


def _follow(folder: RunFolder, offset: int, lives: Callable[[], bool]) -> Iterator[list[Event]]:
    """What is new each time one asks, until the engine is gone."""
    more = True
    while more:
        more = lives()  # asked before reading, so that what was written last is read once it is dead
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
def _signals_handed_to(engines: Sequence[subprocess.Popen[bytes]]) -> Generator[list[signal.Signals]]:
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


def raise_outcome(folder: RunFolder, received: signal.Signals | None = None, returncode: int | None = None) -> None:
    """Raise what the engine reported, if it was no good; `received` is the signal by which we were told to end it.

    `returncode` is known only of an engine that is a child of ours.
    """
    _raise_with_log(folder, _outcome(folder, received, returncode))


def _raise_with_log(folder: RunFolder, error: PvError | None) -> None:
    if error:
        said = folder.log.read_text(encoding="utf-8", errors="replace") if folder.log.exists() else ""
        raise error from EngineLog(f"the engine's log:\n{said}")


def _outcome(folder: RunFolder, received: signal.Signals | None, returncode: int | None) -> PvError | None:
    if returncode == ExitStatus.BUSY:
        return Busy(folder.name)
    ended = folder.read_exit()
    if received and (ended is None or ended.state == State.STOPPED):
        resume = f"`pv runs resume {folder.name}`" if folder.checkpoints.exists() else "The same command"
        return Interrupted(
            "Interrupted; what was reached is saved.", f"{resume} goes on.", terminated=received == signal.SIGTERM
        )
    if ended is None:
        code = "" if returncode is None else f" with {'signal' if returncode < 0 else 'status'} {abs(returncode)}"
        return RunFailed(f"The engine ended{code} and left no word.", f"Its log is {folder.log}.")
    error = ended.error()
    if error and error.status == ExitStatus.FAILED:
        return RunFailed(error.message, f"Its log is {folder.log}.")
    return error


def wait_for(folder: RunFolder, states: frozenset[State]) -> State:
    """Wait until the run is in one of `states`, or its engine is gone; give back what it is in then."""
    while (state := folder.state()) not in states and state in LIVE:
        time.sleep(POLL_SECONDS)
    return state
