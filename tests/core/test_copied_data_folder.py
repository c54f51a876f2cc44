"""A data folder that was copied or moved: everything in it is found beside it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pvtool.dashboard.follow.batch import take_snapshot
from pvtool_core import supervisor
from pvtool_core.api.repeat import repeat_batch
from pvtool_core.batches.folder import BatchFolder, Relocation, read_items, write_items
from pvtool_core.batches.listing import read_listing
from pvtool_core.paths import batches_dir, identities_dir, runs_dir
from pvtool_core.settings.jobs import IdentityRef, TrainJob, write_job
from pvtool_core.settings.presets import Presets
from pvtool_core.store.identities import EMBEDDINGS_FILE
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import job_of
from tests.support.batches import clip_event, draw_clip, make_batch, write_worker

Copy = Callable[[str], None]


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    """Return a function that copies the home to another path, which becomes the home."""
    monkeypatch.setenv("PV_HOME", str(tmp_path / "first"))
    monkeypatch.setattr(supervisor, "ENGINE", ("true",))

    def copy(name: str) -> None:
        shutil.copytree(tmp_path / "first", tmp_path / name)
        monkeypatch.setenv("PV_HOME", str(tmp_path / name))

    return copy


@pytest.mark.parametrize(
    ("recorded", "now", "path", "found"),
    [
        ("/a/data/batches/b/i", "/z/data/batches/b/i", "/a/clips/x", "/z/clips/x"),
        ("/a/data/batches/b/i", "/z/q/batches/b/i", "/a/data/clips/x", "/z/q/clips/x"),
        ("/a/data/batches/b/i", "/z/q/batches/b/i", "/a/clips/x", "/a/clips/x"),
        ("/a/b/i", "/a/b/i", "/a/x", "/a/x"),
        ("/a/b/i", "/z/b/i", "/a/../etc/x", "/a/../etc/x"),
        ("i", "/z/b/i", "/x", "/x"),
    ],
)
def test_what_was_copied_together_is_found_together(
    recorded: str, now: str, path: str, found: str
) -> None:
    assert Relocation.of(Path(recorded), Path(now)).find(path) == found


def test_clips_of_a_copied_batch_are_those_of_the_copy(copied: Copy, tmp_path: Path) -> None:
    batch = make_batch("20261127-101500-aaaa", clips=2)
    event = clip_event(1, 0)
    draw_clip(event)
    write_worker(batch.worker(0), State.STOPPED, [event])
    copied("second")
    copy = BatchFolder(batches_dir() / batch.name)
    snapshot = take_snapshot(copy)
    assert snapshot.out == str(tmp_path / "second/data/clips")
    clip = next(iter(read_listing(copy.items).clips.values()))
    path = Path(snapshot.located(clip).path).with_suffix(".gif")
    assert path.is_file()
    assert path.is_relative_to(tmp_path / "second")


def test_missing_clips_of_a_copied_batch_are_rendered_into_the_copy(
    copied: Copy, tmp_path: Path
) -> None:
    batch = make_batch("20261127-101500-aaaa", clips=2)
    adapter = tmp_path / "first/data/runs/ada-1/adapter.safetensors"
    adapter.parent.mkdir(parents=True)
    adapter.write_bytes(b"")
    write_items(
        batch.items, [replace(item, adapter=str(adapter)) for item in read_items(batch.items)]
    )
    write_worker(batch.worker(0), State.STOPPED, [])
    copied("second")
    shutil.rmtree(tmp_path / "first")
    repeated = repeat_batch(BatchFolder(batches_dir() / batch.name))
    assert repeated.job().out == str(tmp_path / "second/data/clips")
    for item in read_items(repeated.items):
        assert Path(item.clip).is_relative_to(tmp_path / "second/data/clips")
        assert item.adapter == str(tmp_path / "second/data/runs/ada-1/adapter.safetensors")


def test_clips_that_stayed_outside_are_still_found(copied: Copy, tmp_path: Path) -> None:
    batch = make_batch("20261127-101500-aaaa")
    outside = str(tmp_path / "clips")
    config = batch.worker(0).config
    config.write_text(config.read_text().replace(str(tmp_path / "first/data/clips"), outside))
    copied("second")
    assert take_snapshot(BatchFolder(batches_dir() / batch.name)).out == outside


def test_photos_of_a_run_are_those_of_the_same_identity_in_the_copy(
    copied: Copy, tmp_path: Path
) -> None:
    identity = identities_dir() / "ada"
    identity.mkdir(parents=True)
    (identity / EMBEDDINGS_FILE).write_bytes(b"embeddings")
    fingerprint = "302049d75567a9b3"
    run = RunFolder(runs_dir() / "ada-1").create()
    settings = Presets().get("tiny").settings({})
    job = TrainJob(
        **settings.sections(),
        run="ada-1",
        identity=IdentityRef(name="ada", folder=str(identity), fingerprint=fingerprint),
        prompts=("<V> woman runs",),
    )
    write_job(run.config, job)
    copied("second")
    copy = RunFolder(runs_dir() / "ada-1")
    assert job_of(copy).identity.folder == str(tmp_path / "second/data/identities/ada")
    copied("third")
    (identities_dir() / "ada" / EMBEDDINGS_FILE).write_bytes(b"another person")
    assert job_of(RunFolder(runs_dir() / "ada-1")) == job
