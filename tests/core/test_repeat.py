"""Repeat a batch: its failed and missing clips are rendered in a new batch."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pvtool_core import supervisor
from pvtool_core.api.repeat import repeat_batch
from pvtool_core.batches.folder import BatchFolder, list_batches, read_items, write_items
from pvtool_core.errors import UsageError
from pvtool_core.paths import batches_dir
from pvtool_core.store.liveness import State
from tests.support.batches import clip_event, make_batch, write_worker


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchFolder:
    """Create a failed batch of three clips on two workers; engines end at once."""
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(supervisor, "ENGINE", ("true",))
    made = make_batch("20261127-101500-aaaa", clips=3, workers=2)
    for worker in made.workers():
        write_worker(worker, State.FAILED, [], "The disk is full.")
    return made


def test_missing_clips_are_rendered_in_a_new_batch(batch: BatchFolder) -> None:
    repeated = repeat_batch(batch)
    assert {each.name for each in list_batches(batches_dir())} == {batch.name, repeated.name}
    assert read_items(repeated.items) == read_items(batch.items)
    assert [worker.name for worker in repeated.workers()] == ["worker-0"]  # of one device
    assert repeated.job() == replace(batch.job(), items=str(repeated.items))


def test_overwritten_clips_are_not_rendered_a_second_time(batch: BatchFolder) -> None:
    for worker in batch.workers():
        text = worker.config.read_text()
        worker.config.write_text(text.replace("overwrite = false", "overwrite = true"))
    items = read_items(batch.items)
    events = [
        clip_event(1, 0, path=items[0].clip),
        clip_event(2, 1, "failed", path=items[1].clip),
    ]
    write_worker(batch.worker(0), State.STOPPED, events)
    assert read_items(repeat_batch(batch).items) == items[1:]


def _run_it(batch: BatchFolder) -> None:
    batch.worker(1).exit.unlink()
    write_worker(batch.worker(1), State.RUNNING, [])


def _point_outside(batch: BatchFolder) -> None:
    item = read_items(batch.items)[0]
    write_items(batch.items, [replace(item, clip=f"{batch.job().out}/../../seed-0")])


def _use_an_unknown_setup(batch: BatchFolder) -> None:
    write_items(batch.items, [replace(read_items(batch.items)[0], setup=7)])


def _write_no_text(batch: BatchFolder) -> None:
    batch.items.write_text('{"identity": "ada", "prompt": 3, "seed": 1, "clip": "/x"}\n')


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_run_it, "is running"),
        (_point_outside, "is outside"),
        (_use_an_unknown_setup, "unknown setup 7"),
        (_write_no_text, "prompt"),
    ],
)
def test_other_batches_are_refused(
    batch: BatchFolder, change: Callable[[BatchFolder], None], problem: str
) -> None:
    change(batch)
    with pytest.raises(UsageError, match=problem):
        repeat_batch(batch)
    assert len(list_batches(batches_dir())) == 1


def test_copy_of_a_batch_elsewhere_is_refused(batch: BatchFolder, tmp_path: Path) -> None:
    copied = shutil.copytree(batch.path, tmp_path / "elsewhere" / batch.name)
    with pytest.raises(UsageError, match="is not in"):
        repeat_batch(BatchFolder(copied))
