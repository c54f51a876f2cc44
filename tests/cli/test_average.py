"""`pv runs average`: the mean of checkpoints is a run like any other."""

import dataclasses
import json

import pytest

from pvtool_core.settings.jobs import write_job
from pvtool_core.store.identities import Library
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ADAPTER_FILE, BestCheckpoint, ExitRecord, RunFolder, new_run
from pvtool_core.store.summary import job_of
from tests.support.adapter_files import small_adapter
from tests.support.commands import Pv


@pytest.fixture
def trained(run: RunFolder) -> RunFolder:
    """Return Mara's run with two checkpoints, of which the first is the best."""
    for step in (400, 800):
        run.write_checkpoint(step, {ADAPTER_FILE: small_adapter(step)})
    run.write_best(BestCheckpoint(step=400, likeness=0.4))
    return run


def test_mean_of_checkpoints_is_a_run(pv: Pv, trained: RunFolder) -> None:
    made = pv("runs", "average", "mara-1@best", "mara-1", "--json").json
    assert (made["run"], made["identity"], made["step"]) == ("mara-avg-1", "mara", 800)
    assert [(each["run"], each["step"]) for each in made["averaged"]] == [
        ("mara-1", 400),
        ("mara-1", 800),
    ]
    assert 0 < made["relative_error"] < 1
    folder = RunFolder(trained.path.with_name("mara-avg-1"))
    manifest = json.loads((folder.checkpoints / "step-000800/manifest.json").read_text())
    assert manifest["averaged"] == made["averaged"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.path.rglob("*"))
    shown = pv("runs", "show", "mara-avg-1", "--json").json
    assert (shown["state"], shown["step"], shown["checkpoints"]) == ("finished", 800, [800])
    assert shown["averaged"] == ["mara-1@400", "mara-1@800"]
    assert not shown["effect"]["negligible"]
    rows = pv("render", "mara", "<V> runs", "--run", "mara-avg-1@800", "--dry-run", "--json")
    assert rows.status == 0, rows.err
    assert pv("runs", "export", "mara-avg-1").status == 0
    assert pv("runs", "average", "mara-1@400", "mara-avg-1").status == 0
    assert pv("runs", "remove", "mara-avg-1", "--yes").status == 0


def test_mean_renders_only_if_it_is_named(pv: Pv, trained: RunFolder) -> None:
    assert pv("runs", "average", "mara-1@400", "mara-1@800").status == 0
    assert "mara: using mara-1, step 800." in pv("render", "mara", "<V> runs", "--dry-run").err
    assert pv("runs", "remove", "mara-1", "--yes").status == 0
    refused = pv("render", "mara", "<V> runs", "--dry-run")
    assert (refused.status, "with --run: mara-avg-1." in refused.err) == (4, True), refused.err


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ("mara-1@400", 2, "A mean needs two checkpoints or more."),
        ("mara-1@800 mara-1", 2, "mara-1@800 is given twice."),
        ("mara-1@400 mara-1@7", 4, "No checkpoint of mara-1 named '7'."),
        ("mara-1@400 mara-1 --to mara-1", 3, "A run named 'mara-1' already exists."),
        ("mara-1@400 mara-1 --to ../x", 3, "Invalid name '../x' for a run."),
        ("mara-1 mara-2@1", 3, "another base model."),
        ("mara-1 mara-2@2", 3, "another rank."),
        ("mara-1 mara-2@3", 3, "another start."),
        ("mara-1 mara-2@4", 3, "cannot be averaged"),
        ("mara-1 nora-1", 2, "nora-1@800 was trained on another identity than mara-1@800."),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(
    words: str, status: int, sentence: str, pv: Pv, trained: RunFolder
) -> None:
    others = (
        small_adapter(base_model_fingerprint="other"),
        small_adapter(rank=3),
        small_adapter(adapter_start="0.5"),
        b"weights",
    )
    for name in ("mara", "nora"):
        other = new_run(trained.path.parent, name)
        ref = dataclasses.replace(Library().get("mara").ref, name=name)
        ref = ref if name == "mara" else dataclasses.replace(ref, fingerprint="another")
        write_job(other.config, dataclasses.replace(job_of(trained), run=other.name, identity=ref))
        other.write_exit(ExitRecord(status=0, state=State.FINISHED))
        adapters = dict(enumerate(others, 1)) if name == "mara" else {800: small_adapter()}
        for step, content in adapters.items():
            other.write_checkpoint(step, {ADAPTER_FILE: content})
    before = sorted(trained.path.parent.iterdir())
    answer = pv("runs", "average", *words.split())
    assert (answer.status, sentence in answer.err) == (status, True), answer.err
    assert sorted(trained.path.parent.iterdir()) == before


def test_mean_is_not_written_outside_the_data_folder(pv: Pv, trained: RunFolder) -> None:
    text = trained.config.read_text()
    trained.config.write_text(text.replace('name = "mara"', 'name = "../mara"'))
    before = sorted(trained.path.parents[1].iterdir())
    answer = pv("runs", "average", "mara-1@400", "mara-1@800")
    assert (answer.status, "identity.name: is '../mara'" in answer.err) == (2, True), answer.err
    assert sorted(trained.path.parents[1].iterdir()) == before
