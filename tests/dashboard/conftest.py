"""Run folders as an engine leaves them, written in an instant: what the dashboard reads is files."""

import json
import math
import socket
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pvtool.dashboard.widgets import headline
from pvtool_core.settings.jobs import IdentityRef, TrainJob, write_job
from pvtool_core.settings.presets import Presets
from pvtool_core.store.liveness import State, boot_id
from pvtool_core.store.runs import ExitRecord, RunFolder

BEGAN = 1_790_000_000.0
PROMPTS = (
    "<V> woman is dancing in the rain, wearing a blue coat",
    "<V> woman reads in a café",
    "<V> woman runs",
)


def step_event(step: int, **changes: Any) -> dict[str, Any]:
    """What training reports of one iteration: rewards that fall, with some noise."""
    noise = math.sin(step * 12.9898) * 0.5
    icr, scr = 0.9 * math.exp(-step / 120) + 0.05 + 0.03 * noise, 0.02 + 0.01 * abs(noise)
    values = {
        "loss": icr + scr,
        "icr": icr,
        "scr": scr,
        "score_gap": 0.01 * noise,
        "face_found": True,
    }
    about = {
        "grad_norm": 1 + 0.3 * noise,
        "lr": 1e-4,
        "prompt": PROMPTS[step % 3],
        "seed": 1_000_000 + step % 6,
    }
    return {
        "time": BEGAN + step,
        "type": "step",
        "step": step,
        **values,
        **about,
        "seconds": 0.4,
        "eta": 1.0,
    } | changes


def gpu_event(time: float, devices: int = 0) -> dict[str, Any]:
    """What the gauges report."""
    gauges = {"memory_used": 41.5 * 2**30, "memory_total": 80 * 2**30, "utilisation": 97.0}
    facts = [
        {"index": i, "name": "NVIDIA H100", **gauges, "temperature": 61.0, "power": 412.0}
        for i in range(devices)
    ]
    return {
        "time": time,
        "type": "gpu",
        "devices": facts,
        "process_memory": 3 * 2**30,
        "cpu": 101.0,
    }


def write_events(folder: RunFolder, events: Iterable[dict[str, Any]]) -> None:
    """Append events, one line each."""
    with folder.events.open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def write_status(folder: RunFolder, state: State, step: int, **changes: Any) -> None:
    """A heartbeat of this very process, so that the run counts as alive."""
    process = psutil.Process()
    facts = {
        "pid": process.pid,
        "started": process.create_time(),
        "boot": boot_id(),
        "host": socket.gethostname(),
    }
    status = {"state": state, "step": step, "total": 400, "time": BEGAN + step, **facts} | changes
    folder.status.write_text(json.dumps(status))


MakeRun = Callable[..., RunFolder]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PV_HOME, and a current folder beside it; no colours or pictures of the machine that tests run on."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("NO_COLOR", "SSH_CONNECTION", "PV_IMAGES", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(headline, "time", SimpleNamespace(time=lambda: BEGAN + 350))
    return tmp_path / "home"


@pytest.fixture
def make_run(home: Path) -> MakeRun:
    """A run of so many steps: live, of this process, or ended."""

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
            BEGAN + len(list(folder.path.parent.iterdir())), UTC
        ).isoformat()
        about: dict[str, Any] = {
            "run": name,
            "preset": "tiny",
            "created": created,
            "identity": identity,
        }
        write_job(
            folder.config, TrainJob(**settings.sections(), **about, prompts=PROMPTS, versions={})
        )
        write_events(folder, [{"time": BEGAN, "type": "run", "state": "started", "step": 0}])
        write_events(folder, [{"time": BEGAN, "type": "stage", "stage": "training"}])
        for step in range(1, steps + 1):
            write_events(
                folder,
                [step_event(step)] + ([gpu_event(BEGAN + step, devices)] if step % 5 == 1 else []),
            )
        write_status(folder, state, steps)
        if state in {State.FINISHED, State.STOPPED, State.FAILED}:
            bad = state == State.FAILED
            message, hint = (
                ("The loss is no number.", "Lower training.learning_rate.") if bad else ("", "")
            )
            folder.write_exit(ExitRecord(status=int(bad), state=state, message=message, hint=hint))
        return folder

    return make
