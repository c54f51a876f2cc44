"""The supervisor starts, follows and stops engines, using run folders only."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pvtool_core import supervisor
from pvtool_core.errors import Busy, ExitStatus, Interrupted, NoAnswer, PvError, RunFailed
from pvtool_core.store.events import Event, StepEvent
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import Request, RunFolder
from tests.support.hostile import to_end

SCRIPT = Path(__file__).parents[1] / "support/scripted_engine.py"


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ENGINE", (sys.executable, str(SCRIPT)))


def prepared(tmp_path: Path, script: str) -> RunFolder:
    folder = RunFolder(tmp_path / "mara-1").create()
    folder.config.write_text(script)
    return folder


def ignore(event: Event) -> None:
    """Ignore an event, for tests that check the end only."""


def wait_until_running(folder: RunFolder) -> int:
    end = time.monotonic() + 60
    while not ((status := folder.read_status()) and status.state == State.RUNNING):
        assert time.monotonic() < end, "the engine does not run after 60 seconds"
        time.sleep(0.01)
    return status.pid


def test_every_event_is_reported_once(tmp_path: Path) -> None:
    told: list[Event] = []
    supervisor.run_to_end(prepared(tmp_path, "ends"), told.append)
    assert [event.type for event in told] == ["stage", "step"]


def test_events_of_an_earlier_engine_are_not_reported(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "ends")
    supervisor.run_to_end(folder, ignore)
    told: list[Event] = []
    supervisor.run_to_end(folder, told.append)
    assert len(told) == 2


def test_error_of_an_engine_is_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(PvError) as caught:
        supervisor.run_to_end(prepared(tmp_path, "refuses"), ignore)
    assert (caught.value.status, caught.value.kind) == (ExitStatus.REFUSED, "FaceRefused")
    assert caught.value.message == "No face found in photo.png."


def test_hint_of_a_failed_engine_precedes_the_path_of_its_log(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "diverges")
    with pytest.raises(RunFailed, match="no longer a number") as caught:
        supervisor.run_to_end(folder, ignore)
    assert caught.value.hint.startswith("Lower training.learning_rate. ")
    assert str(folder.log) in caught.value.hint


@pytest.mark.parametrize(("script", "how"), [("broken", "status 1"), ("killed", "signal 9")])
def test_engine_without_exit_record_is_a_failure_with_its_log(
    tmp_path: Path, script: str, how: str
) -> None:
    folder = prepared(tmp_path, script)
    with pytest.raises(RunFailed, match=how) as caught:
        supervisor.run_to_end(folder, ignore)
    assert str(folder.log) in caught.value.hint


def test_vanished_engine_of_another_process_has_no_status(
    tmp_path: Path,
) -> None:
    with pytest.raises(RunFailed) as caught:
        supervisor.raise_outcome(prepared(tmp_path, "killed"))
    assert caught.value.message == "The engine ended unexpectedly."


def test_detached_engine_that_cannot_start_is_reported_immediately(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="status 1"):
        supervisor.start_detached(prepared(tmp_path, "broken"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_is_forwarded_and_the_engine_saves(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    folder = prepared(tmp_path, "works")

    def interrupt() -> None:
        wait_until_running(folder)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        supervisor.run_to_end(folder, ignore)
    assert (caught.value.status, folder.state()) == (status, State.STOPPED)
    assert signal.getsignal(number) == before


def test_a_lost_terminal_leaves_the_engine_running(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "works")
    code = (
        # nohup would set its own handler
        "import sys, pathlib, signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
        "from pvtool_core import supervisor; from pvtool_core.store.runs import RunFolder; "
        f"supervisor.ENGINE = (sys.executable, {str(SCRIPT)!r}); "
        "supervisor.run_to_end(RunFolder(pathlib.Path(sys.argv[1])), print)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], stdout=subprocess.DEVNULL
    ) as face:
        engine = psutil.Process(wait_until_running(folder))
        face.send_signal(signal.SIGHUP)
    assert face.returncode == -signal.SIGHUP
    assert engine.is_running()
    folder.request(Request.STOP)
    assert supervisor.wait_for(folder, frozenset({State.STOPPED})) == State.STOPPED


def test_detached_engine_can_be_paused_and_stopped(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "works")
    supervisor.start_detached(folder)
    pid = wait_until_running(folder)
    assert os.getsid(pid) == pid
    with pytest.raises(Busy):
        supervisor.run_to_end(folder, ignore)
    for request, state in (
        (Request.PAUSE, State.PAUSED),
        (Request.RESUME, State.RUNNING),
        (Request.STOP, State.STOPPED),
    ):
        folder.request(request)
        assert supervisor.wait_for(folder, frozenset({state})) == state


def test_another_process_can_follow_a_run(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "works")
    supervisor.start_detached(folder)
    told: list[Event] = []

    def stop_after_ten(event: Event) -> None:
        told.append(event)
        if len(told) == 10:
            folder.request(Request.STOP)

    supervisor.follow(folder, stop_after_ten)
    steps = [event.step for event in told if isinstance(event, StepEvent)]
    assert steps == list(range(1, len(told) + 1))
    assert folder.state() == State.STOPPED


REAL_ENGINE = (sys.executable, "-P", "-m", "pvtool_core")


@pytest.fixture
def slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Create a run whose engine ends before our files about it are written."""
    folder = prepared(tmp_path, "kind = 'nothing'")
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        end = time.monotonic() + 60
        while not folder.exit.exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return folder


@pytest.mark.parametrize("begin", [to_end, supervisor.start_detached])
def test_all_events_of_a_fast_engine_are_reported(
    slow_disk: RunFolder, monkeypatch: pytest.MonkeyPatch, begin: Callable[[RunFolder], None]
) -> None:
    monkeypatch.setattr(supervisor, "ENGINE", REAL_ENGINE)
    with pytest.raises(PvError, match="kind: is 'nothing', not one of") as caught:
        begin(slow_disk)
    assert caught.value.status == ExitStatus.USAGE
    status = slow_disk.read_status()
    assert status
    assert status.state == State.FAILED


@pytest.mark.parametrize("begin", [to_end, supervisor.start_detached])
def test_engine_is_stopped_if_its_start_cannot_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: Callable[[RunFolder], None]
) -> None:
    pids: list[int] = []

    def full(_: RunFolder, pid: int) -> None:
        pids.append(pid)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "announce", full)
    with pytest.raises(OSError, match="No space"):
        begin(prepared(tmp_path, "works"))
    (pid,) = pids
    assert not psutil.pid_exists(pid)


def test_signal_during_start_reaches_all_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce, pids = RunFolder.announce, list[int]()

    def interrupted(folder: RunFolder, pid: int) -> None:
        announce(folder, pid)
        pids.append(pid)
        if len(pids) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunFolder, "announce", interrupted)
    folders = [prepared(tmp_path / name, "works") for name in ("one", "two")]
    errors = supervisor.run_together(folders, ignore)
    assert [error and error.status for error in errors] == [ExitStatus.TERMINATED] * 2
    assert not any(map(psutil.pid_exists, pids))


def test_waiting_for_an_unresponsive_engine_times_out(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "works")
    supervisor.start_detached(folder)
    with pytest.raises(NoAnswer, match="mara-1 is still running"):
        supervisor.wait_for(folder, frozenset({State.PAUSED}), seconds=0.1)
    folder.request(Request.STOP)
    assert supervisor.wait_for(folder, frozenset({State.STOPPED})) == State.STOPPED
