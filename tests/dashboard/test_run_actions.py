"""Actions on runs with real processes."""

import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from pvtool.dashboard.run_actions import resume_run, toggle_pause
from pvtool_core import supervisor
from pvtool_core.errors import UsageError
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ExitRecord, Request, RunFolder

SCRIPT = Path(__file__).parents[1] / "support/scripted_engine.py"


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[RunFolder]:
    """Create a stopped run whose next engine is a scripted one."""
    monkeypatch.setattr(supervisor, "ENGINE", (sys.executable, str(SCRIPT)))
    folder = RunFolder(tmp_path / "ada-1").create()
    folder.config.write_text("works")
    folder.write_exit(ExitRecord(status=0, state=State.STOPPED))
    yield folder
    if folder.state() in supervisor.LIVE:
        folder.request(Request.STOP)
        supervisor.wait_for(folder, frozenset({State.STOPPED, State.FINISHED}))


def test_resumed_run_is_starting_and_cannot_be_resumed_twice(
    stopped: RunFolder,
) -> None:
    resume_run(stopped)
    assert stopped.state() in {State.STARTING, State.RUNNING}
    first = stopped.read_status()
    with pytest.raises(UsageError, match="already"):
        resume_run(stopped)
    second = stopped.read_status()
    assert first
    assert second
    assert first.pid == second.pid


def test_engine_that_dies_before_its_heartbeat_is_lost(stopped: RunFolder) -> None:
    stopped.config.write_text("broken")
    resume_run(stopped)
    while stopped.state() == State.STARTING:
        time.sleep(0.05)
    assert stopped.state() == State.LOST


def test_same_key_pauses_and_resumes_a_run(stopped: RunFolder) -> None:
    resume_run(stopped)
    supervisor.wait_for(stopped, frozenset({State.RUNNING}))
    toggle_pause(stopped)
    assert supervisor.wait_for(stopped, frozenset({State.PAUSED})) == State.PAUSED
    toggle_pause(stopped)
    assert supervisor.wait_for(stopped, frozenset({State.RUNNING})) == State.RUNNING
