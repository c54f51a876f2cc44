"""Commands on untrusted run folders: no file outside is changed, and valid runs stay visible."""

import json
import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from pvtool.dashboard.follow.all_runs import Runs
from pvtool.dashboard.run_actions import resume_run
from pvtool_core import supervisor
from pvtool_core.errors import UnsafeRun, UsageError
from pvtool_core.settings.jobs import EnrollJob, read_job, write_job
from pvtool_core.store.liveness import State, process_facts
from pvtool_core.store.runs import ADAPTER_FILE, ExitRecord, RunFolder
from tests.support.commands import Pv
from tests.support.hostile import DEEP_JSON, Outside, deadline

__all__ = ["deadline"]

pytestmark = pytest.mark.usefixtures("deadline")


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    return Outside(tmp_path / "outside")


@pytest.fixture
def stopped(run: RunFolder) -> RunFolder:
    run.write_exit(ExitRecord(status=0, state=State.STOPPED))
    return run


@pytest.mark.parametrize(
    "name", ["control", ".ballast", "engine.log", "engine.lock", "events.jsonl", "samples/step-1"]
)
def test_copied_run_with_links_outside_is_not_resumed(
    pv: Pv, stopped: RunFolder, outside: Outside, name: str
) -> None:
    outside.put_in_place_of(stopped.path / name)
    answer = pv("runs", "resume", stopped.name)
    assert answer.status == 3
    assert f"{name} is a symbolic link" in answer.err
    with pytest.raises(UnsafeRun):
        resume_run(stopped)
    outside.assert_untouched()
    assert stopped.state() == State.STOPPED


def test_only_training_runs_are_resumed(
    pv: Pv, stopped: RunFolder, mara: str, tmp_path: Path
) -> None:
    """Other jobs write files at any path in their settings."""
    training = read_job(stopped.config)
    sections = training.sections()  # pyright: ignore[reportAttributeAccessIssue]
    write_job(stopped.config, EnrollJob(**sections, identity=training.identity, pictures=()))  # pyright: ignore
    for words in ([], ["--detach"]):
        answer = pv("runs", "resume", stopped.name, *words)
        assert (answer.status, answer.err.splitlines()[0]) == (
            2,
            "Error: Wrong kind of job in this folder: identify.",
        )
    with pytest.raises(UsageError):
        resume_run(stopped)
    assert not stopped.log.exists()


def test_names_and_paths_with_line_breaks_are_refused(pv: Pv, stopped: RunFolder) -> None:
    """A traceback would write them to engine.log, line by line."""
    text = stopped.config.read_text()
    stopped.config.write_text(
        text.replace('base_model = "base"', r'base_model = "a\nssh-rsa AAAA\u001b[2J"')
    )
    answer = pv("runs", "show", stopped.name)
    assert answer.status == 2
    assert "model.base_model: is 'a\\nssh-rsa" in answer.err
    assert pv("train", "mara", "--preset", "tiny", "--set", "model.device=cpu\nx").status == 2


def test_removing_a_run_keeps_targets_of_its_links(
    pv: Pv, run: RunFolder, outside: Outside
) -> None:
    for name in ("control", "samples", "engine.lock", "checkpoints/step-000900"):
        outside.put_in_place_of(run.path / name)
    assert pv("runs", "remove", run.name, "--yes").status == 0
    assert not run.path.exists()
    outside.assert_untouched()


def test_a_run_that_is_itself_a_link_is_not_deleted(pv: Pv, run: RunFolder, tmp_path: Path) -> None:
    shutil.move(run.path, tmp_path / "elsewhere")
    run.path.symlink_to(tmp_path / "elsewhere")
    answer = pv("runs", "remove", run.name, "--yes")
    assert answer.status == 2
    assert "is a link to" in answer.err
    assert run.config.is_file()


def test_export_does_not_follow_links_outside_the_run(
    pv: Pv, run: RunFolder, outside: Outside
) -> None:
    (checkpoint,) = run.checkpoint_folders()
    (checkpoint / ADAPTER_FILE).unlink()
    (checkpoint / ADAPTER_FILE).symlink_to("/dev/zero")
    assert pv("runs", "export", run.name).status == 4
    (checkpoint / "manifest.json").write_text(json.dumps({"sha256": {"config.json": "0" * 64}}))
    assert pv("runs", "export", run.name).status == 4


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def deep(path: Path) -> None:
    path.write_bytes(b"kind = " + DEEP_JSON if path.suffix == ".toml" else DEEP_JSON)


def dotted(path: Path) -> None:
    path.write_bytes(b"a." * 50_000 + b"a = 1")


def endless(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 36)


@pytest.mark.parametrize("spoil", [pipe, device, deep, dotted, endless])
@pytest.mark.parametrize("name", ["status.json", "exit.json", "config.toml", "events.jsonl"])
def test_invalid_run_does_not_hide_others(pv: Pv, run: RunFolder, name: str, spoil: object) -> None:
    bad = RunFolder(run.path.with_name("bad-1"))
    shutil.copytree(run.path, bad.path)
    if spoil is endless and name == "events.jsonl":
        pytest.skip("a long log is not a corrupt one")
    spoil(bad.path / name)  # pyright: ignore[reportCallIssue]
    answer = pv("runs", "list", "--json")
    assert answer.status == 0
    found = {row["run"]: row for row in answer.json["runs"]}
    assert found[run.name] == {
        **found[run.name],
        "state": "finished",
        "step": 800,
        "identity": "mara",
        "problem": "",
    }
    if name == "events.jsonl" and spoil in (
        deep,
        dotted,
    ):  # one invalid line; the log shows it
        assert found["bad-1"]["problem"] == ""
    else:
        assert name in found["bad-1"]["problem"]
        assert f"bad-1: {found['bad-1']['problem']}" in pv("runs", "list").err
    assert {summary.run for summary in Runs(run.path.parent).summarize()} == {run.name, "bad-1"}
    assert pv("identity", "show", "mara").status == 0
    assert pv("render", "mara", "<V> woman runs", "--dry-run").status == 0
    for words in (["show"], ["logs"], ["logs", "--engine"], ["resume"], ["stop"]):
        assert "Traceback" not in pv("runs", *words, "bad-1").err


def test_waiting_for_an_unresponsive_engine_times_out(pv: Pv, run: RunFolder) -> None:
    run.clear_exit()
    facts = {
        **process_facts(os.getpid()),
        "state": "running",
        "step": 1,
        "total": 2,
        "time": time.time(),
    }
    run.status.write_text(json.dumps(facts))
    answer = pv("runs", "stop", run.name, "--wait", "0.2")
    assert answer.status == 75
    assert f"{run.name} is still running" in answer.err


def test_future_heartbeat_is_not_waited_for(pv: Pv, run: RunFolder) -> None:
    run.clear_exit()
    facts = {**process_facts(os.getpid()), "host": f"not-{socket.gethostname()}"}
    run.status.write_text(
        json.dumps({**facts, "state": "running", "step": 1, "total": 2, "time": time.time() + 9e6})
    )
    answer = pv("runs", "stop", run.name)
    assert answer.status == 2
    assert "is not running: it is lost" in answer.err


def test_exit_record_of_a_running_state_is_not_waited_for(pv: Pv, run: RunFolder) -> None:
    run.exit.write_text('{"status": 0, "state": "running"}')
    assert pv("runs", "stop", run.name).status == 2
    assert run.state() not in supervisor.LIVE
