"""History of a batch from the events of its workers."""

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from pvtool.dashboard.follow.batch import BatchFollower, take_snapshot
from pvtool.dashboard.follow.batch_history import BatchHistory, ClipState, playable_path
from pvtool.dashboard.follow.clip_order import Order, arrange
from pvtool_core.batches.listing import read_listing
from pvtool_core.store.events import ClipEvent, Record, parse_event
from pvtool_core.store.liveness import State
from tests.support.batches import (
    PROMPT,
    clip_event,
    likeness_record,
    make_batch,
    rendering_event,
    write_worker,
)
from tests.support.hostile import DEEP_JSON
from tests.support.run_files import gpu_event

BEGAN = 1_790_000_000.0
MAX_BLOCKED_SECONDS = 0.02


def add(history: BatchHistory, worker: str, records: Iterable[Record]) -> None:
    """Add events given as JSON objects."""
    history.add(worker, map(parse_event, records))


def test_best_outcome_of_several_workers_counts(home: Path) -> None:
    history = BatchHistory()
    history.expected = 5
    add(
        history,
        "worker-0",
        [clip_event(1, 1, "failed"), clip_event(2, 2, "skipped"), clip_event(3, 3, "done")],
    )
    add(
        history,
        "worker-1",
        [clip_event(4, 1, "done"), clip_event(5, 3, "elsewhere"), clip_event(6, 4, "failed")],
    )
    assert history.counts == {
        ClipState.DONE: 2,
        ClipState.SKIPPED: 1,
        ClipState.ELSEWHERE: 0,
        ClipState.FAILED: 1,
    }
    assert (history.existing, history.total, history.remaining) == (3, 5, 1)
    failed = [clip.seed for clip in history.clips.values() if clip.status == "failed"]
    assert failed == [4]


def test_rate_and_remaining_time_use_the_last_minutes(home: Path) -> None:
    history = BatchHistory()
    history.expected = 500
    slow = [clip_event(BEGAN + 60 * i, i) for i in range(10)]
    fast = [clip_event(BEGAN + 600 + 3 * i, 100 + i) for i in range(100)]
    add(history, "worker-0", [rendering_event(BEGAN), *slow, *fast])
    now = BEGAN + 900
    assert history.rate(now) == pytest.approx(1200)
    assert history.eta(now) == pytest.approx(390 * 3)
    assert history.rate(now + 400) is None


def test_rate_excludes_model_loading_and_time_between_engines(
    home: Path,
) -> None:
    history = BatchHistory()

    def engine(began: float, number: int) -> list[dict[str, Any]]:
        run = {"time": began, "type": "run", "state": "resumed"}
        loading = {"time": began, "type": "stage", "stage": "loading"}
        ended = {"time": began + 111, "type": "run", "state": "finished"}
        return [run, loading, rendering_event(began + 100), clip_event(began + 110, number), ended]

    add(history, "worker-0", [*engine(BEGAN, 1), *engine(BEGAN + 150, 2)])
    assert history.rate(BEGAN + 260) == pytest.approx(360)


def test_clips_are_ordered_and_filtered(home: Path) -> None:
    batch = make_batch("night", clips=5)
    listing, history = read_listing(batch.items), BatchHistory()
    means = {1: 0.6, 2: 0.3}
    done = [clip_event(s, s, likeness=likeness_record(means[s])) for s in means]
    base = clip_event(0, 9, identity="base", path="/base/9", likeness=likeness_record(0.1))
    add(history, "worker-0", [base, *done, clip_event(4, 3, "failed")])
    history.refused = (("bad.csv, line 3", "Unknown identity."),)

    def seeds(*wanted: Any) -> list[int]:
        return [clip.seed for clip in arrange(history, listing, *wanted) if clip.identity]

    assert seeds() == [3, 2, 1, 9, 0, 4]
    assert seeds(Order.LIKENESS) == [2, 1, 3, 9, 0, 4]
    assert seeds(Order.LISTED) == [0, 1, 2, 3, 4, 9]
    assert seeds(Order.NEWEST, ["WAITING"]) == [0, 4]
    assert seeds(Order.NEWEST, ["gone", "reads"]) == [3]
    failed = arrange(history, listing, failed_only=True)
    assert [clip.reason for clip in failed] == [
        "The adapter of ada-1 is gone.",
        "Unknown identity.",
    ]


def test_listing_skips_lines_that_are_no_clips(home: Path) -> None:
    batch = make_batch("odd", clips=2)
    whole = batch.items.read_bytes()
    bad = [b"[]", b"{}", b"no json", b'{"prompt": 3, "identity": "a", "clip": "c", "seed": 1}']
    long = b'{"prompt": "' + b"x" * 70_000 + b'"}'
    nan = whole.splitlines()[0].replace(b'"strength":1.0', b'"strength":"x"')
    batch.items.write_bytes(whole + b"\n".join([*bad, nan, DEEP_JSON, long]) + b"\n")
    listing = read_listing(batch.items)
    assert [clip.seed for clip in listing.clips.values()] == [0, 1]
    assert (listing.identities, listing.prompts, listing.runs) == (("ada",), (PROMPT,), ())
    assert listing.unreadable >= 7


@pytest.mark.parametrize("files", [["a.png", "a.mp4"], ["a", "a.gif"], ["a.webp"]])
def test_moving_image_is_preferred_for_playback(home: Path, files: list[str]) -> None:
    clip = parse_event(clip_event(1, 1, files=files))
    assert isinstance(clip, ClipEvent)
    assert playable_path(clip).name == files[-1]


def test_malformed_events_are_skipped_and_counted(home: Path) -> None:
    history = BatchHistory()
    broken = [
        {"time": 1.0, "type": "clip"},
        clip_event(1, 1, "lost"),
        {"time": 1.0, "type": "gpu", "devices": 3},
    ]
    add(history, "worker-0", [*broken, clip_event(2, 2)])
    assert (history.unreadable, history.existing) == (3, 1)


async def test_long_history_is_read_in_chunks_without_blocking_the_event_loop(
    home: Path,
) -> None:
    batch = make_batch("long", clips=100_000)
    lines = (
        clip_event(BEGAN + i, i, "failed" if i % 1000 == 0 else "done") for i in range(100_000)
    )
    batch.worker(0).events.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    follower, blocked, more = BatchFollower(batch), list[float](), True
    while more:
        reading = asyncio.create_task(follower.read())
        while not reading.done():
            before = time.thread_time()  # CPU time of this thread
            await asyncio.sleep(0)
            blocked.append(time.thread_time() - before)
            await asyncio.sleep(0.0005)
        _, more = reading.result()
    assert follower.history.counts[ClipState.DONE] == 99_900
    assert follower.history.failed == 100
    assert max(blocked) < MAX_BLOCKED_SECONDS


async def test_truncated_events_start_a_new_history(home: Path) -> None:
    batch = make_batch("restarted", workers=2)
    write_worker(batch.worker(0), State.RUNNING, [clip_event(1, 1), clip_event(2, 2)])
    write_worker(batch.worker(1), State.RUNNING, [clip_event(3, 3)])
    follower = BatchFollower(batch)
    await follower.read()
    assert follower.history.existing == 3
    batch.worker(0).events.write_text("")
    while (await follower.read())[1]:
        pass
    assert follower.history.existing == 1


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ([], State.NEW),
        ([State.FINISHED, State.RUNNING], State.RUNNING),
        ([State.FINISHED, State.FAILED], State.FAILED),
        ([State.FINISHED, State.STOPPED], State.STOPPED),
        ([State.FINISHED, State.FINISHED], State.FINISHED),
    ],
)
def test_state_of_a_batch_follows_from_its_workers(
    home: Path, states: list[State], state: State
) -> None:
    batch = make_batch("some", workers=len(states))
    for number, worker_state in enumerate(states):
        write_worker(
            batch.worker(number),
            worker_state,
            [gpu_event(BEGAN)],
            "The disk is full." if worker_state is State.FAILED else "",
        )
    snapshot = take_snapshot(batch)
    assert (snapshot.state, snapshot.expected, snapshot.live) == (state, 9, state is State.RUNNING)


def test_broken_files_are_reported_as_problems(home: Path) -> None:
    batch = make_batch("broken", workers=2)
    batch.worker(0).config.write_text("kind = ")
    batch.worker(1).exit.write_text("[]")
    batch.items.unlink()
    snapshot = take_snapshot(batch)
    assert "items.jsonl" in snapshot.problem
    assert all(worker.problem for worker in snapshot.workers)
