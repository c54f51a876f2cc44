"""Runs of other machines: mounted data folders and ssh."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pvtool_core.store.liveness import State
from pvtool_core.store.runs import RunFolder
from tests.support.commands import Pv
from tests.support.run_files import write_status


@pytest.fixture
def mounted(run: RunFolder, tmp_path: Path) -> RunFolder:
    """Return a live run of another machine, whose process id does not exist here."""
    folder = RunFolder(tmp_path / "mnt/gpu2/data/runs" / run.name).create()
    folder.config.write_bytes(run.config.read_bytes())
    write_status(folder, State.RUNNING, 7, host="gpu2", pid=2**22 + 1, time=time.time())
    return folder


def fake_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def listed(pv: Pv, *words: str) -> list[tuple[str, str, str]]:
    rows: list[dict[str, Any]] = pv("runs", "list", "--json", *words).json["runs"]
    return [(row["machine"], row["run"], row["state"]) for row in rows]


def test_runs_of_a_mounted_data_folder_are_listed_and_alive(
    pv: Pv, mounted: RunFolder, tmp_path: Path
) -> None:
    data = str(tmp_path / "mnt/gpu2/data")
    both = [("", "mara-1", "finished"), ("gpu2", "mara-1", "running")]
    assert listed(pv, "--data", data) == both
    assert listed(pv, "--data", f"{data}/runs") == both
    assert listed(pv, "--data", f"big={data}", "state:running") == [("big", "mara-1", "running")]
    lines = pv("runs", "list", "--data", data).out.splitlines()
    assert lines[0].split()[:2] == ["MACHINE", "RUN"]
    assert lines[2].split()[:2] == ["gpu2", "mara-1"]
    answer = pv("runs", "list", "--data", str(tmp_path / "mnt"))
    assert (answer.status, "No data folder named" in answer.err) == (4, True)


def test_runs_of_a_host_are_listed_by_ssh(
    pv: Pv, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pv("runs", "list", "--json").json
    rows["runs"][0] |= {"run": "far-1", "state": "running", "icr": 0.25, "icr_trend": "↓", "new": 1}
    (tmp_path / "rows").write_text(json.dumps(rows))
    fake_ssh(monkeypatch, tmp_path, f'echo "$@" > {tmp_path}/words; cat {tmp_path}/rows')
    here = ("", "mara-1", "finished")
    assert listed(pv, "--host", "ann@gpu2:/opt/my pv") == [here, ("ann@gpu2", "far-1", "running")]
    words = (tmp_path / "words").read_text().strip()
    assert words.endswith("-- ann@gpu2 '/opt/my pv' runs list --json")
    assert "0.250 ↓" in pv("runs", "list", "--host", "gpu2").out


@pytest.mark.parametrize(
    ("script", "host", "status", "sentence"),
    [
        ("echo Permission denied. >&2; exit 255", "gpu2", 4, "of gpu2: Permission denied."),
        ("echo '{\"runs\": [{}]}'", "gpu2", 4, "Unexpected answer of pv on gpu2."),
        ("echo hello", "gpu2", 4, "Unexpected answer of pv on gpu2."),
        ("touch called", "-oProxyCommand=x", 2, "Invalid host '-oProxyCommand=x'."),
    ],
)
def test_failures_of_ssh_are_reported_beside_the_other_runs(
    pv: Pv,
    run: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    host: str,
    status: int,
    sentence: str,
) -> None:
    fake_ssh(monkeypatch, tmp_path, script)
    answer = pv("runs", "list", "--host", host)
    assert answer.status == status
    assert sentence in answer.err
    assert not Path("called").exists()
    answer = pv("runs", "list", "--host", host, "--host", "")
    assert "mara-1" in answer.out
