"""Batches as the face runs them: their folders, and what several engines say of the same clips."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pvtool.cli import progress
from pvtool.cli.progress import ClipProgress
from pvtool.jobs import render
from pvtool.jobs.render import KEPT_BATCHES, ClipResults, Outcome, drop_old_batches, run_batch
from pvtool_core.batches.folder import BatchFolder, list_batches, new_batch, write_items
from pvtool_core.errors import DiskFull, InputRefused, PvError, RunFailed
from pvtool_core.paths import batches_dir
from pvtool_core.settings.jobs import RenderItem
from pvtool_core.store.runs import ExitRecord


def begun(age: float = 0.0) -> BatchFolder:
    """A batch whose engines have not begun yet."""
    batch = new_batch(batches_dir())
    write_items(batch.items, [])
    batch.worker(0).create()
    os.utime(batch.items, (time.time() - age, time.time() - age))
    return batch


def test_of_old_batches_the_newest_are_kept_however_many_commands_begin_at_once(home: Path) -> None:
    for _ in range(KEPT_BATCHES + 30):
        begun(age=86_400)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(drop_old_batches) for _ in range(8)]:
            done.result()
    assert len(list_batches(batches_dir())) == KEPT_BATCHES - 1


def test_a_batch_that_is_only_just_begun_is_not_dropped_by_the_others_of_its_array(
    home: Path,
) -> None:
    array = [begun() for _ in range(KEPT_BATCHES + 10)]
    drop_old_batches()
    assert all(batch.items.exists() for batch in array)


def clip(status: str, path: str = "clip") -> dict[str, Any]:
    reason = {"reason": "no room"} if status == "failed" else {}
    return {"time": 1.0, "type": "clip", "path": path, "status": status, **reason}


@pytest.mark.parametrize("said", ["done", "skipped", "elsewhere"])
def test_what_one_engine_could_not_make_and_another_did_has_not_failed(said: str) -> None:
    heard: list[str] = []
    told = ClipResults(lambda facts: heard.append(facts["status"]))
    for status in ("failed", "failed", said, "failed"):
        told.hear(clip(status))
    told.close()
    assert heard == ["failed", "skipped" if said == "elsewhere" else said]
    assert told.failed == []


def ended(
    monkeypatch: pytest.MonkeyPatch,
    statuses: dict[str, str],
    *engines: PvError | None,
    killed: bool = False,
    more: int = 0,
) -> Outcome:
    """How a batch ends whose engines say this of clips, and end themselves like that; `more` were there before."""
    batch = new_batch(batches_dir())
    for number, error in enumerate(engines):
        batch.worker(number).create()
        batch.worker(number).config.touch()
        if error and not killed:
            batch.worker(number).write_exit(ExitRecord.of_error(error))

    def engines_say(_: Any, on_event: Any) -> list[PvError | None]:
        for path, status in statuses.items():
            if status:
                on_event(clip(status, path))
        return list(engines)

    monkeypatch.setattr(render, "run_together", engines_say)
    items = [
        RenderItem(identity="mara", prompt="<V>", seed=0, adapter="", clip=path)
        for path in statuses
    ]
    return run_batch(batch, items, lambda _: None, lambda _: None, len(items) + more)


def test_a_failure_ends_alike_whether_the_others_were_there_before_or_are_made_now(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = ended(monkeypatch, {"a": "failed"}, InputRefused("no room", ""), more=999)
    among = ended(monkeypatch, {"a": "failed", "b": "done"}, InputRefused("no room", ""), more=998)
    for each in (alone, among):
        assert each.error
        assert (each.error.status, each.error.message) == (6, "1 of 1000 failed.")
    none = ended(monkeypatch, {"a": "failed"}, InputRefused("no room", ""))
    assert none.error
    assert none.error.status == 3


def test_what_an_engine_complains_of_besides_clips_is_an_error_though_all_are_there(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended(monkeypatch, {"a": "done"}, None, DiskFull("sheet.png")).error
    assert not ended(
        monkeypatch, {"a": "done"}, None, RunFailed("The engine left no word."), killed=True
    ).error
    assert not ended(monkeypatch, {"a": "done"}, None).error


def test_what_a_killed_engine_leaves_has_failed_by_that_and_the_same_command_goes_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = ended(
        monkeypatch,
        {"a": "done", "b": ""},
        RunFailed("It left no word.", "See the log."),
        killed=True,
    )
    assert end.failed == [{"path": "b", "reason": "It left no word."}]
    assert end.error
    assert end.error.hint == "The same command goes on with what is missing. See the log."
    assert ended(monkeypatch, {"a": "done", "b": ""}, DiskFull()).failed == []


def test_a_batch_that_the_dashboard_stopped_is_not_done(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = ended(monkeypatch, {"a": "done", "b": "", "c": ""}, None)
    assert end.error
    assert (end.error.status, end.error.message) == (
        130,
        "The batch was stopped; 2 of its clips are not made.",
    )


def test_loading_is_no_part_of_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([1_000.0, *[1_010.0] * 9])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with ClipProgress(4) as shown:
        shown.on_clip(clip("skipped", "a"))
        shown.on_clip(clip("done", "b"))
        shown.on_clip(clip("done", "c"))
    assert capsys.readouterr().err.splitlines()[-1] == "rendering 3/4  360 clips an hour  0:10 left"
