"""Sweeps whose processes and engines are killed: every cell is complete and was trained once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from pvtool_core.store.event_log import read_records
from pvtool_core.store.runs import RunFolder, list_runs
from tests.support.engines import wait_until
from tests.support.sample_data import add_identity_of_noise
from tests.support.sweeps import write_sweep

VARIANTS = {"with": 0.5, "without": 0.0}
STEPS = 3


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    add_identity_of_noise("ann")
    return tmp_path / "home"


@pytest.fixture
def started() -> Generator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def start(file: Path, processes: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    words = [sys.executable, "-P", "-m", "pvtool.cli.main", "sweep", str(file), "--json"]
    pipe = subprocess.PIPE
    processes.append(subprocess.Popen(words, stdout=pipe, stderr=subprocess.DEVNULL, text=True))
    return processes[-1]


def steps_of(run: RunFolder) -> list[int]:
    return [each["step"] for each in read_records(run.events)[0] if each["type"] == "step"]


@pytest.mark.slow
def test_processes_that_are_killed_leave_a_sweep_that_others_complete(
    home: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    file = write_sweep(tmp_path / "one.toml", VARIANTS, training__iterations=STEPS)
    first, second = start(file, started), start(file, started)
    runs = home / "data/runs"
    wait_until(lambda: any(map(steps_of, list_runs(runs))), 240)
    hit = next(run for run in list_runs(runs) if steps_of(run))
    first.kill()
    if (status := hit.read_status()) is not None:
        os.kill(status.pid, signal.SIGKILL)
    output, _ = second.communicate(timeout=400)
    if second.returncode:  # it was its engine: the cell failed, and is repeated
        output, _ = start(file, started).communicate(timeout=400)
    results = json.loads(output.splitlines()[0])
    assert results["cells"] == {"done": 2, "total": 2}
    assert len(list_runs(runs)) == 2
    for run in list_runs(runs):
        assert steps_of(run)[-1] == STEPS
        assert len(set(steps_of(run))) == STEPS
    assert not list((home / "data/sweep-clips").glob(".*"))
