"""`pv sweep` as a user runs it: the table of a grid, shared runs, failures, plans."""

import json
from pathlib import Path
from typing import Any

import pytest

from pvtool_core import supervisor
from pvtool_core.engine_server import EngineProcess
from pvtool_core.paths import runs_dir, sweeps_dir
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ExitRecord, RunFolder, list_runs
from pvtool_core.store.summary import job_of
from tests.support.commands import Answer, Pv
from tests.support.in_process import EndedEngine, start_engine
from tests.support.sample_data import add_identity_of_noise
from tests.support.sweeps import write_sweep


def runs() -> dict[str, tuple[str, ...]]:
    """Return the sweeps of each run by its name."""
    return {run.name: job_of(run).sweeps for run in list_runs(runs_dir())}


def row(answer: Answer, name: str) -> dict[str, Any]:
    (found,) = (each for each in answer.json["rows"] if each["name"] == name)
    return found


@pytest.mark.slow
def test_a_sweep_is_tabulated_and_its_cells_are_shared(
    pv: Pv, engines_in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_identity_of_noise("ann")
    file = write_sweep(tmp_path / "one.toml", {"with": 0.5, "without": 0.0})
    plan = pv("sweep", str(file), "--plan", "--json")
    assert plan.json["runs"] == 2
    assert plan.json["clips"] == 6
    assert not runs()
    assert not sweeps_dir().exists()

    answer = pv("sweep", str(file), "--json")
    assert answer.status == 0, answer.err
    assert answer.json["cells"] == {"done": 2, "total": 2}
    assert [each["name"] for each in answer.json["rows"]] == ["base model", "with", "without"]
    assert row(answer, "with")["clips"] == row(answer, "base model")["clips"] == 2
    assert row(answer, "without")["differences"]["likeness"]["pairs"] == 2
    assert answer.json["paper"]["other_rows"] == {"theirs": {"Face": 40.0}}
    out = sweeps_dir() / "one"
    assert json.loads((out / "results.json").read_bytes())["rows"] == answer.json["rows"]
    assert "| with |" in (out / "results.md").read_text()
    assert {name.partition("-s0-")[0] for name in runs()} == {"one-with-ann", "one-without-ann"}
    assert (runs_dir() / next(iter(runs())) / "evaluation/report.json").is_file()

    second = write_sweep(tmp_path / "two.toml", {"with": 0.5})
    assert pv("sweep", str(second), "--plan", "--json").json["runs"] == 0
    shared = pv("sweep", str(second), "--json")
    assert "training" not in shared.err
    assert "rendering" not in shared.err
    assert row(shared, "with")["means"] == row(answer, "with")["means"]
    assert sorted(runs().values()) == [("one",), ("one", "two")]

    table = pv("sweep", str(file), "--table")
    assert "Differences from with" in table.out
    assert "scoring" not in table.err

    monkeypatch.setattr(supervisor, "start", start_or_fail)
    third = write_sweep(tmp_path / "three.toml", {"with": 0.5, "broken": 0.7})
    partial = pv("sweep", str(third), "--json")
    assert partial.status == 6
    (first, error) = partial.lines
    assert first["cells"] == {"done": 1, "total": 2}
    assert first["failed"][0]["cell"] == "broken · ann · seed 0"
    assert "Out of luck." in first["failed"][0]["error"]
    assert error["error"]["message"] == "1 of 2 failed."


def start_or_fail(
    folder: RunFolder, engines: list[EngineProcess] | None = None, stop: object = None
) -> EngineProcess:
    """Run an engine in this process; that of a run with the name `broken` fails."""
    if "broken" not in folder.name:
        return start_engine(folder, engines, stop)
    folder.write_exit(ExitRecord(status=1, state=State.FAILED, message="Out of luck."))
    ended = EndedEngine(0, 1)
    if engines is not None:
        engines.append(ended)
    return ended
