"""The run index: order of runs by recorded times, and each file read once."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pvtool_core.paths import run_index_file
from pvtool_core.settings.jobs import read_job
from pvtool_core.store import run_index, summary
from pvtool_core.store.event_log import EventWriter
from pvtool_core.store.events import StepEvent
from pvtool_core.store.identities import EMBEDDINGS_FILE, FACES_FILE, Library
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ADAPTER_FILE, ExitRecord
from tests.support.commands import Pv
from tests.support.run_files import finished_run


@pytest.fixture
def mara(home: Path) -> str:
    return add_identity("mara")


def add_identity(name: str) -> str:
    library = Library()
    with library.staging() as staging:
        (staging / FACES_FILE).write_text("[]")
        (staging / EMBEDDINGS_FILE).write_bytes(name.encode())
        library.adopt(staging, name, "woman", "yes")
    return name


def listed(pv: Pv) -> list[Any]:
    return pv("runs", "list", "--json").json["runs"]


def names(pv: Pv) -> list[str]:
    return [run["run"] for run in listed(pv)]


def rendered_by(pv: Pv, name: str = "mara") -> str:
    (clip,) = pv("render", name, "<V> runs", "--dry-run", "--json").lines
    return f"{clip['run']}@{clip['step']}"


def test_touching_or_copying_a_run_changes_neither_the_order_nor_the_run_that_renders(
    pv: Pv, mara: str
) -> None:
    first, second = finished_run(mara), finished_run(mara)
    before = listed(pv)
    assert [run["run"] for run in before] == [first.name, second.name]
    assert rendered_by(pv) == f"{second.name}@400"
    os.utime(first.config)
    assert listed(pv) == before
    assert rendered_by(pv) == f"{second.name}@400"
    shutil.copytree(first.path, first.path.with_name("kept"))
    shutil.rmtree(first.path)
    os.utime(second.config, (0, 0))
    assert names(pv) == ["kept", second.name]
    assert rendered_by(pv) == f"{second.name}@400"
    assert listed(pv)[0]["started"] == before[0]["started"]


def test_a_run_of_an_older_version_was_created_at_its_first_event(pv: Pv, mara: str) -> None:
    old, new = finished_run(mara, created=""), finished_run(mara)
    old.events.write_text(
        json.dumps({"time": 1_700_000_000.5, "type": "run", "state": "started", "step": 0}) + "\n"
    )
    os.utime(old.config, (4e9, 4e9))
    assert names(pv) == [old.name, new.name]
    assert listed(pv)[0]["started"].startswith("2023-11-1")


def test_a_renamed_identity_keeps_the_order_of_its_runs(pv: Pv, mara: str) -> None:
    runs = [
        finished_run(mara, created=created) for created in ("", "2020-01-01T00:00:00+00:00", "")
    ]
    for number, run in enumerate(runs):
        os.utime(run.config, (1e9 + number, 1e9 + number))
    order = names(pv)
    started = [run["started"] for run in listed(pv)]
    assert pv("identity", "rename", mara, "nora").status == 0
    assert names(pv) == order
    assert [run["started"] for run in listed(pv)] == started
    assert {run["identity"] for run in listed(pv)} == {"nora"}


@pytest.mark.parametrize(
    "created", ["yesterday", "2026-11-27T12:00:00", "0001-01-01T00:00:00+00:00"]
)
def test_invalid_creation_time_is_reported_and_other_runs_are_listed(
    pv: Pv, mara: str, created: str
) -> None:
    good, bad = finished_run(mara), finished_run(mara, created=created)
    rows = {run["run"]: run for run in listed(pv)}
    assert "created" in rows[bad.name]["problem"]
    assert rows[good.name]["problem"] == ""
    assert rendered_by(pv) == f"{good.name}@400"


def test_render_prints_its_run_and_warns_if_another_was_trained_longer(pv: Pv, mara: str) -> None:
    long, short = finished_run(mara, steps=400), finished_run(mara, steps=8)
    answer = pv("render", mara, "<V> runs", "--dry-run")
    assert f"mara: using {short.name}, step 8." in answer.err
    assert f"Warning: {long.name} was trained longer (400 steps)." in answer.err
    assert f"--run {long.name}" in answer.err
    chosen = pv("render", mara, "<V> runs", "--dry-run", "--run", long.name)
    assert f"mara: using {long.name}, step 400." in chosen.err
    assert "Warning" not in chosen.err
    assert (
        short.name
        not in pv("render", mara, "<V> runs", "--dry-run", "--run", f"{long.name}@400").err
    )


def test_a_longer_run_that_is_older_or_equal_or_unfinished_gives_no_warning(
    pv: Pv, mara: str
) -> None:
    finished_run(mara, steps=8)
    finished_run(mara, steps=900, state=State.STOPPED)
    finished_run(mara, steps=8)
    assert "Warning" not in pv("render", mara, "<V> runs", "--dry-run").err


def test_corrupt_checkpoint_is_skipped_with_a_warning_and_refused_if_selected(
    pv: Pv, mara: str
) -> None:
    older, newer = finished_run(mara, steps=400), finished_run(mara, steps=400)
    newer.write_checkpoint(800, {ADAPTER_FILE: b"later"})
    (newer.checkpoint_folders()[-1] / ADAPTER_FILE).write_bytes(b"other")
    answer = pv("render", mara, "<V> runs", "--dry-run")
    assert f"mara: using {newer.name}, step 400." in answer.err
    assert f"Warning: the checkpoint {newer.name}@800 is corrupt and not used." in answer.err
    refused = pv("render", mara, "<V> runs", "--dry-run", "--run", f"{newer.name}@800")
    assert (refused.status, f"The checkpoint {newer.name}@800 is damaged." in refused.err) == (
        3,
        True,
    )
    (newer.checkpoint_folders()[0] / ADAPTER_FILE).unlink()
    answer = pv("render", mara, "<V> runs", "--dry-run")
    assert f"mara: using {older.name}, step 400." in answer.err
    assert [f"{newer.name}@{step} is corrupt" in answer.err for step in (800, 400)] == [True, True]


def test_clips_of_the_base_model_name_no_run(pv: Pv, mara: str) -> None:
    finished_run(mara)
    clips = pv("render", mara, "<V> runs", "--base", "--dry-run", "--json").lines
    assert {(clip["identity"], clip["run"], clip["step"]) for clip in clips} == {
        ("base", "", 0),
        ("mara", "mara-1", 400),
    }


def test_rendering_many_identities_reads_each_run_once(
    pv: Pv, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [add_identity(f"p{number}") for number in range(25)]
    runs = [finished_run(name) for name in people for _ in range(2)]
    reads: Counter[Path] = Counter()

    def counted(path: Path) -> Any:
        reads[path] += 1
        return read_job(path)

    monkeypatch.setattr(summary, "read_job", counted)
    answer = pv("render", "--all", "<V> runs", "--dry-run")
    assert len(answer.out.splitlines()) == 25
    assert [line for line in answer.err.splitlines() if line.startswith("… and 5 more")]
    assert max(reads[run.config] for run in runs) == 1


def test_finished_runs_are_read_again_only_after_a_change(
    pv: Pv, mara: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_index, "_FEW", 1)
    run = finished_run(mara)
    before = listed(pv)
    with monkeypatch.context() as patched:
        patched.setattr(run_index, "summarize_run", read_again)
        patched.setattr(run_index, "run_origin", read_again)
        assert listed(pv) == before
    run.write_exit(ExitRecord(status=1, state=State.FAILED))
    assert listed(pv)[0]["state"] == "failed"
    assert run_index_file().stat().st_mode & 0o077 == 0


def read_again(*_: object) -> None:
    pytest.fail("a run was read again")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"format": 1}',
        b'{"format": 4, "origins": [], "facts": 3}',
        b"[" * 100_000,
    ],
)
def test_corrupt_index_is_rebuilt(pv: Pv, mara: str, content: bytes) -> None:
    run = finished_run(mara)
    run_index_file().parent.mkdir(parents=True, exist_ok=True)
    run_index_file().write_bytes(content)
    assert names(pv) == [run.name]


def test_index_that_cannot_be_written_causes_no_error(
    pv: Pv, home: Path, mara: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_index, "_FEW", 1)
    run = finished_run(mara)
    shutil.rmtree(home / "cache", ignore_errors=True)
    (home / "cache").write_text("a file where the folder should be")
    assert names(pv) == [run.name]


def test_long_log_is_read_in_blocks(pv: Pv, mara: str) -> None:
    run = finished_run(mara)
    padding = "x" * 2000
    with EventWriter(run.events) as events:
        for step in range(1, 1501):  # more than one block
            events.write(StepEvent(step=step, prompt=padding, face_found=step % 3 != 0))
    with run.events.open("ab") as file:
        file.write(b'{"time": 1.0, "type": "step", "step": 9')
    shown = pv("runs", "show", run.name, "--json").json
    assert (shown["iterations_without_face"], shown["newest"]["step"]) == (500, 1500)
    assert [event["step"] for event in pv("runs", "logs", run.name, "--json").lines] == list(
        range(1, 1501)
    )


def test_runs_of_one_identity_are_listed_in_natural_order_where_times_are_equal(
    pv: Pv, mara: str
) -> None:
    for _ in range(11):
        finished_run(mara, created="2026-11-27T12:00:00+00:00")
    assert names(pv) == [f"mara-{number}" for number in range(1, 12)]


def test_truncated_prompt_is_a_warning_and_truncated_keyword_an_error(pv: Pv, mara: str) -> None:
    finished_run(mara)
    long = "<V> woman " + "dancing in the rain at night " * 10 + "in a blue coat"
    answer = pv("render", mara, long, "--dry-run")
    assert answer.status == 0
    assert "cut off" in answer.err
    assert "in a blue coat'" in answer.err
    refused = pv("render", mara, "dancing in the rain at night " * 10 + "<V> woman", "--dry-run")
    assert refused.status == 3
    assert "The keyword <V> is cut off" in refused.err


def test_training_with_truncated_keyword_is_refused_before_a_run_is_created(
    pv: Pv, home: Path, mara: str
) -> None:
    Path("bank.txt").write_text("dancing in the rain at night " * 10 + "<V> {noun}\n")
    assert pv("prompts", "import", "late", "bank.txt").status == 0
    refused = pv("train", mara, "--prompts", "late")
    assert (refused.status, "is cut off" in refused.err) == (3, True)
    assert list((home / "data").glob("runs/*")) == []


def test_broken_identity_does_not_affect_others(pv: Pv, home: Path, mara: str) -> None:
    finished_run(mara)
    for name, file in (("nora", EMBEDDINGS_FILE), ("rosa", "identity.toml")):
        add_identity(name)
        (home / "data/identities" / name / file).write_text("[" * 100_000)
    (home / "data/identities/nora" / EMBEDDINGS_FILE).unlink()
    rows = {row["name"]: row for row in pv("identity", "list", "--json").json["identities"]}
    assert sorted(rows) == ["mara", "nora", "rosa"]
    assert (rows["mara"]["problem"], "identity.toml" in rows["rosa"]["problem"]) == ("", True)
    assert pv("identity", "list").status == 0
    answer = pv("render", "--all", "<V> runs", "--dry-run", "--json")
    assert answer.status == 6
    assert [clip["identity"] for clip in answer.lines if "identity" in clip] == ["mara"]
    assert "embeddings.safetensors of nora is missing" in answer.err
    assert "identity.toml of rosa" in answer.err
    shown = pv("identity", "show", "nora")
    assert (shown.status, "Traceback" in shown.err) == (1, False)
    assert "embeddings.safetensors of nora" in shown.err


def test_losses_of_a_run_are_means_of_20_steps_with_a_trend(pv: Pv, mara: str) -> None:
    run = finished_run(mara)
    with EventWriter(run.events) as events:
        for step in range(1, 61):
            noise = 0.5 if step % 2 else -0.5
            icr = 1.0 + noise if step <= 40 else 0.6 + noise
            events.write(StepEvent(step=step, scalars={"icr": icr, "scr": float("nan")}))
    (row,) = listed(pv)
    assert row["icr"] == pytest.approx(0.6)
    assert row["icr_trend"] == "↓"
    assert (row["scr"], row["scr_trend"]) == (None, "")
    shown = pv("runs", "show", run.name, "--json").json
    assert shown["icr"] == row["icr"]
    assert shown["newest"]["icr"] == pytest.approx(0.1)
