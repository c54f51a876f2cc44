"""Fixtures with run folders as an engine writes them."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pvtool.dashboard.widgets import headline
from pvtool_core.settings.jobs import IdentityRef, TrainJob, write_job
from pvtool_core.settings.presets import Presets
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ExitRecord, RunFolder
from tests.support import run_files
from tests.support.run_files import (
    PROMPTS,
    MakeRun,
    gpu_event,
    step_event,
    write_events,
    write_status,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set PV_HOME and the current folder, and ignore the terminal settings of the machine."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("NO_COLOR", "SSH_CONNECTION", "PV_IMAGES", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(headline, "time", SimpleNamespace(time=lambda: run_files.BEGAN + 350))
    return tmp_path / "home"


@pytest.fixture
def make_run(home: Path) -> MakeRun:
    """Return a function that creates a live or ended run with a number of steps."""

    def make(
        name: str = "ada-1", steps: int = 300, state: State = State.RUNNING, devices: int = 0
    ) -> RunFolder:
        folder = RunFolder(home / "data/runs" / name).create()
        identity = IdentityRef(
            name=name.split("-", maxsplit=1)[0],
            noun="woman",
            folder=str(home / "data/identities/ada"),
        )
        settings = Presets().get("tiny").settings({"training": {"iterations": 400}})
        created = datetime.fromtimestamp(
            run_files.BEGAN + len(list(folder.path.parent.iterdir())), UTC
        ).isoformat()
        details: dict[str, Any] = {
            "run": name,
            "preset": "tiny",
            "created": created,
            "identity": identity,
        }
        write_job(
            folder.config, TrainJob(**settings.sections(), **details, prompts=PROMPTS, versions={})
        )
        write_events(
            folder, [{"time": run_files.BEGAN, "type": "run", "state": "started", "step": 0}]
        )
        write_events(folder, [{"time": run_files.BEGAN, "type": "stage", "stage": "training"}])
        for step in range(1, steps + 1):
            write_events(
                folder,
                [step_event(step)]
                + ([gpu_event(run_files.BEGAN + step, devices)] if step % 5 == 1 else []),
            )
        write_status(folder, state, steps)
        if state in {State.FINISHED, State.STOPPED, State.FAILED}:
            failed = state == State.FAILED
            message, hint = (
                ("The loss is not finite.", "Lower training.learning_rate.") if failed else ("", "")
            )
            folder.write_exit(
                ExitRecord(status=int(failed), state=state, message=message, hint=hint)
            )
        return folder

    return make
