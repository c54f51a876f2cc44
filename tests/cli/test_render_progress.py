"""Batches as the front end runs them: their folders, and the results of several engines."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pvtool.cli import progress
from pvtool.cli.progress import ClipProgress
from pvtool_core.api import batch as rendered
from pvtool_core.api.batch import KEPT_BATCHES, drop_old_batches, run_batch
from pvtool_core.api.outcome import ClipResults
from pvtool_core.batches.folder import BatchFolder, list_batches, new_batch, write_items
from pvtool_core.errors import DiskFull, InputRefused, Interrupted, PvError, RunFailed, SomeFailed
from pvtool_core.paths import batches_dir
from pvtool_core.rendering.results import Outcome
from pvtool_core.settings.jobs import RenderItem
from pvtool_core.store.events import ClipEvent, LoraEvent
from pvtool_core.store.runs import ExitRecord


def begun(age: float = 0.0) -> BatchFolder:
    """Return a batch whose engines have not started yet."""
    batch = new_batch(batches_dir())
    write_items(batch.items, [])
    batch.worker(0).create()
    os.utime(batch.items, (time.time() - age, time.time() - age))
    return batch


def test_concurrent_commands_keep_the_newest_batches(home: Path) -> None:
    for _ in range(KEPT_BATCHES + 30):
        begun(age=86_400)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(drop_old_batches) for _ in range(8)]:
            done.result()
    assert len(list_batches(batches_dir())) == KEPT_BATCHES - 1


def test_tasks_of_a_job_array_do_not_delete_new_batches_of_each_other(
    home: Path,
) -> None:
    array = [begun() for _ in range(KEPT_BATCHES + 10)]
    drop_old_batches()
    assert all(batch.items.exists() for batch in array)


def clip(status: str, path: str = "clip") -> ClipEvent:
    return ClipEvent(path=path, status=status, reason="no room" if status == "failed" else "")


@pytest.mark.parametrize("said", ["done", "skipped", "elsewhere"])
def test_a_clip_rendered_by_another_engine_has_not_failed(said: str) -> None:
    heard: list[str] = []
    results = ClipResults(lambda event: heard.append(event.status))
    for status in ("failed", "failed", said, "failed"):
        results.add(clip(status))
    results.close()
    assert heard == ["failed", "skipped" if said == "elsewhere" else said]
    assert results.failed == []


def test_a_file_loaded_by_several_engines_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    adapter = LoraEvent(role="adapter", name="ann-3@400", keys=48, matched=48)
    style = LoraEvent(
        role="style LoRA", name="ink.safetensors", keys=9, matched=8, unmatched=("'v_pred'",)
    )
    with ClipProgress(2) as shown:
        for event in (adapter, style, adapter):
            shown.on_event(event)
    assert capsys.readouterr().err.splitlines() == [
        "adapter ann-3@400: 48 of 48 keys matched",
        "style LoRA ink.safetensors: 8 of 9 keys matched; unmatched: 'v_pred'",
    ]


def ended(
    monkeypatch: pytest.MonkeyPatch,
    statuses: dict[str, str],
    *engines: PvError | None,
    killed: bool = False,
    more: int = 0,
) -> Outcome:
    """Return the outcome of a batch whose engines report these statuses and errors.

    `more` clips existed before.
    """
    batch = new_batch(batches_dir())
    for number, error in enumerate(engines):
        batch.worker(number).create()
        batch.worker(number).config.touch()
        if error and not killed:
            batch.worker(number).write_exit(ExitRecord.of_error(error))

    def engines_say(_: Any, on_event: Any, _stop: Any) -> list[PvError | None]:
        for path, status in statuses.items():
            if status:
                on_event(clip(status, path))
        return list(engines)

    monkeypatch.setattr(rendered, "run_together", engines_say)
    items = [
        RenderItem(identity="mara", prompt="<V>", seed=0, adapter="", clip=path)
        for path in statuses
    ]
    return run_batch(batch, items, lambda _: None, lambda _: None, len(items) + more)


def test_exit_status_of_a_failure_does_not_depend_on_existing_clips(
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


def test_an_error_besides_clips_is_reported_although_all_clips_exist(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended(monkeypatch, {"a": "done"}, None, DiskFull("sheet.png")).error
    assert not ended(
        monkeypatch,
        {"a": "done"},
        None,
        RunFailed("The engine ended without a record."),
        killed=True,
    ).error
    assert not ended(monkeypatch, {"a": "done"}, None).error


def test_clips_left_by_a_killed_engine_have_failed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = ended(
        monkeypatch,
        {"a": "done", "b": ""},
        RunFailed("It ended without a record.", "See the log."),
        killed=True,
    )
    assert end.failed == [ClipEvent(path="b", status="failed", reason="It ended without a record.")]
    assert end.error
    assert end.error.hint == "Run the same command again to render the missing clips. See the log."
    assert ended(monkeypatch, {"a": "done", "b": ""}, DiskFull()).failed == []


def test_a_batch_stopped_by_the_dashboard_is_interrupted(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = ended(monkeypatch, {"a": "done", "b": "", "c": ""}, None)
    assert end.error
    assert (end.error.status, end.error.message) == (
        130,
        "The batch was stopped; 2 of its clips are missing.",
    )


FAILED = clip("failed")
REFUSED, FULL = InputRefused("no room", ""), DiskFull()


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome(total=3), None),
        (Outcome(total=3, failed=[FAILED], cause=REFUSED), SomeFailed(1, 3)),
        (Outcome(total=1, failed=[FAILED], cause=REFUSED), REFUSED),
        (Outcome(total=1, failed=[FAILED], cause=REFUSED, refused=1), REFUSED),
        (Outcome(total=3, failed=[FAILED], refused=2), SomeFailed(3, 5)),
        (Outcome(total=3, refused=2), SomeFailed(2, 5)),
        (Outcome(total=3, refused=2, other=FULL), FULL),
        (Outcome(total=3, failed=[FAILED], other=FULL), SomeFailed(1, 3)),
        (Outcome(total=1, failed=[FAILED], cause=REFUSED, stopped=FULL), FULL),
        (Outcome(total=3, stopped=Interrupted("stopped")), Interrupted("stopped")),
    ],
)
def test_the_outcome_decides_the_exit_status(outcome: Outcome, expected: PvError | None) -> None:
    error = outcome.error
    assert (error and (error.status, error.message)) == (
        expected and (expected.status, expected.message)
    )


def test_the_rate_excludes_loading(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([1_000.0, *[1_010.0] * 9])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with ClipProgress(4) as shown:
        shown.on_clip(clip("skipped", "a"))
        shown.on_clip(clip("done", "b"))
        shown.on_clip(clip("done", "c"))
    assert (
        capsys.readouterr().err.splitlines()[-1] == "rendering 3/4  360 clips per hour  0:10 left"
    )
