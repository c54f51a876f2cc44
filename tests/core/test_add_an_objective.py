"""Tests of docs/add-an-objective.md: an objective is one file and one row of the table."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pvtool.cli.main import main
from pvtool_core.errors import SettingsError
from pvtool_core.settings.jobs import TrainJob, read_job, write_job
from pvtool_core.settings.objectives import OBJECTIVES
from pvtool_core.store.event_log import read_records
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import RunFolder
from tests.support import extended_engine
from tests.support.screen_text import dashboard, until_seen
from tests.support.small_models import with_settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/add-an-objective.md"
NUMBERS = {"loss", "brightness", "darkest"}


@pytest.fixture
def folder(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines_in_process: None
) -> RunFolder:
    """Return a new run with the objective of the guide."""
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(OBJECTIVES, "grey", OBJECTIVES["personalvideo"])  # removed afterwards
    extended_engine.add_objective()
    folder = RunFolder(tmp_path / "home/data/runs/ann-1").create()
    short = {"iterations": 2, "checkpoint_every": 1, "sample_every": 0, "objective": "grey"}
    job = dataclasses.replace(with_settings(job, "training", **short), run="ann-1")
    write_job(folder.config, job)
    return folder


def pv(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """Run a command in this process and return its stdout and stderr."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(words)
    shown = capfd.readouterr()
    assert not ended.value.code, shown.err
    return shown.out, shown.err


async def test_new_objective_trains_and_its_losses_are_shown(
    folder: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    _, progress = pv(capfd, "runs", "resume", folder.name)
    assert re.search(r"training 1/2 .* loss 0\.\d{3}", progress)
    assert folder.state() is State.FINISHED
    steps = [each for each in read_records(folder.events)[0] if each["type"] == "step"]
    assert [step["step"] for step in steps] == [1, 2]
    assert all(step.keys() > NUMBERS and "icr" not in step for step in steps)
    first, last = (load_file(path / "adapter.safetensors") for path in folder.checkpoint_folders())
    assert any(not torch.equal(first[name], last[name]) for name in first)

    (listed,) = json.loads(pv(capfd, "runs", "list", "--json")[0])["runs"]
    assert listed["loss"] == pytest.approx(sum(step["loss"] for step in steps) / 2)
    assert "loss_trend" in listed and "icr" not in listed

    async with dashboard(folder).run_test(size=(130, 60)) as pilot:
        await until_seen(pilot, "Distance from grey 0.", "grey 0.")
        await pilot.press("right_square_bracket")
        await until_seen(pilot, "Brightness of the first frame 0.", "darkest 0.", "Gradient norm")


def test_default_objective_is_not_written_to_settings(
    folder: RunFolder, job: TrainJob, tmp_path: Path
) -> None:
    assert 'objective = "grey"' in folder.config.read_text()
    read = read_job(folder.config)
    assert isinstance(read, TrainJob)
    assert read.training.objective == "grey"
    write_job(tmp_path / "config.toml", job)
    assert "objective" not in (tmp_path / "config.toml").read_text()
    assert read_job(tmp_path / "config.toml") == job


def test_error_for_unknown_objective_lists_known_ones(job: TrainJob, tmp_path: Path) -> None:
    write_job(tmp_path / "config.toml", with_settings(job, "training", objective="gray"))
    with pytest.raises(SettingsError) as refused:
        read_job(tmp_path / "config.toml")
    assert "training.objective: is 'gray', not one of personalvideo" in refused.value.message


def test_guide_shows_the_tested_objective() -> None:
    page = PAGE.read_text()
    assert (ROOT / "tests/support/grey.py").read_text() in page
    source = Path(extended_engine.__file__).read_text()
    row = source[source.index("ObjectiveInfo(\n") : source.index("\n\n\ndef add_family")]
    assert f'"grey": {row.replace("tests.support", "pvtool_core.objectives")},' in page
