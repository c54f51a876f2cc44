"""Batches as the face runs them: their folders, and what several engines say of the same clips."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pvtool.rendering import KEPT_BATCHES, Told, drop_old_batches
from pvtool_core.batches import BatchFolder, list_batches, new_batch, write_items
from pvtool_core.paths import batches_dir


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


def test_a_batch_that_is_only_just_begun_is_not_dropped_by_the_others_of_its_array(home: Path) -> None:
    array = [begun() for _ in range(KEPT_BATCHES + 10)]
    drop_old_batches()
    assert all(batch.items.exists() for batch in array)


def clip(status: str, path: str = "clip") -> dict[str, Any]:
    reason = {"reason": "no room"} if status == "failed" else {}
    return {"time": 1.0, "type": "clip", "path": path, "status": status, **reason}


@pytest.mark.parametrize("said", ["done", "skipped", "elsewhere"])
def test_what_one_engine_could_not_make_and_another_did_has_not_failed(said: str) -> None:
    heard: list[str] = []
    told = Told(lambda facts: heard.append(facts["status"]))
    for status in ("failed", "failed", said, "failed"):
        told.hear(clip(status))
    told.close()
    assert heard == ["failed", "skipped" if said == "elsewhere" else said]
    assert told.failed == []
