"""Steering with real processes: what is begun is begun once, and readers know of it at once."""

import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from pvtool.dashboard.run_actions import go_on, pause_or_go_on
from pvtool_core import supervisor
from pvtool_core.errors import UsageError
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ExitRecord, Request, RunFolder

SCRIPT = Path(__file__).parents[1] / "support/scripted_engine.py"


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[RunFolder]:
    """A run that was stopped, whose next engine is a scripted one."""
    monkeypatch.setattr(supervisor, "ENGINE", (sys.executable, str(SCRIPT)))
    folder = RunFolder(tmp_path / "ada-1").create()
    folder.config.write_text("works")
    folder.write_exit(ExitRecord(status=0, state=State.STOPPED))
    yield folder
    if folder.state() in supervisor.LIVE:
        folder.request(Request.STOP)
        supervisor.wait_for(folder, frozenset({State.STOPPED, State.FINISHED}))


def test_a_run_is_starting_as_soon_as_it_was_resumed_and_cannot_be_resumed_twice(
    stopped: RunFolder,
) -> None:
    go_on(stopped)
    assert stopped.state() in {State.STARTING, State.RUNNING}
    first = stopped.read_status()
    with pytest.raises(UsageError, match="already"):
        go_on(stopped)
    second = stopped.read_status()
    assert first
    assert second
    assert first.pid == second.pid


def test_an_engine_that_dies_before_its_heart_beats_is_lost_and_not_new(stopped: RunFolder) -> None:
    stopped.config.write_text("broken")
    go_on(stopped)
    while stopped.state() == State.STARTING:
        time.sleep(0.05)
    assert stopped.state() == State.LOST


def test_the_same_key_holds_a_run_and_lets_it_go_on(stopped: RunFolder) -> None:
    go_on(stopped)
    supervisor.wait_for(stopped, frozenset({State.RUNNING}))
    pause_or_go_on(stopped)
    assert supervisor.wait_for(stopped, frozenset({State.PAUSED})) == State.PAUSED
    pause_or_go_on(stopped)
    assert supervisor.wait_for(stopped, frozenset({State.RUNNING})) == State.RUNNING
