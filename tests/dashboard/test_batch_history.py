"""What the events of a batch add up to, whatever its engines say and however many of them there are."""

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from pvtool.dashboard.follow.batch import BatchFollower, look_at
from pvtool.dashboard.follow.batch_history import BatchHistory, ClipState
from pvtool_core.store.liveness import State
from tests.support.batches import clip_event, make_batch, rendering_event, tell
from tests.support.run_files import gpu_event

BEGAN = 1_790_000_000.0
HOLD_SECONDS = 0.02


def test_of_what_several_engines_say_of_a_clip_the_best_holds(home: Path) -> None:
    rendering = BatchHistory()
    rendering.expected = 5
    rendering.add(
        "worker-0",
        [clip_event(1, 1, "failed"), clip_event(2, 2, "skipped"), clip_event(3, 3, "done")],
    )
    rendering.add(
        "worker-1",
        [clip_event(4, 1, "done"), clip_event(5, 3, "elsewhere"), clip_event(6, 4, "failed")],
    )
    assert rendering.counts == {
        ClipState.DONE: 2,
        ClipState.SKIPPED: 1,
        ClipState.ELSEWHERE: 0,
        ClipState.FAILED: 1,
    }
    assert (rendering.there, rendering.total, rendering.left) == (3, 5, 1)
    assert [told.seed for told in rendering.failures.values()] == [4]


def test_the_rate_is_that_of_the_last_minutes_and_says_when_the_rest_is_there(home: Path) -> None:
    rendering = BatchHistory()
    rendering.expected = 500
    slow = [clip_event(BEGAN + 60 * i, i) for i in range(10)]
    fast = [clip_event(BEGAN + 600 + 3 * i, 100 + i) for i in range(100)]
    rendering.add("worker-0", [rendering_event(BEGAN), *slow, *fast])
    now = BEGAN + 900
    assert rendering.rate(now) == pytest.approx(1200)
    assert rendering.eta(now) == pytest.approx(390 * 3)
    assert rendering.rate(now + 400) is None


def test_loading_a_model_is_no_part_of_the_rate_nor_is_what_lies_between_two_engines(
    home: Path,
) -> None:
    rendering = BatchHistory()

    def engine(began: float, number: int) -> list[dict[str, Any]]:
        run = {"time": began, "type": "run", "state": "resumed"}
        loading = {"time": began, "type": "stage", "stage": "loading"}
        ended = {"time": began + 111, "type": "run", "state": "finished"}
        return [run, loading, rendering_event(began + 100), clip_event(began + 110, number), ended]

    rendering.add("worker-0", [*engine(BEGAN, 1), *engine(BEGAN + 150, 2)])
    assert rendering.rate(BEGAN + 260) == pytest.approx(360)


def test_the_newest_clips_are_those_made_last_by_any_engine_and_found_ones_only_where_there_are_too_few(
    home: Path,
) -> None:
    rendering = BatchHistory()
    rendering.add("worker-0", [clip_event(i, i) for i in range(3)] + [clip_event(9, 90, "skipped")])
    rendering.add(
        "worker-1",
        [clip_event(i + 0.5, 10 + i) for i in range(2)] + [clip_event(8, 1, "elsewhere")],
    )
    assert [told.seed for told in rendering.newest(3)] == [2, 11, 1]
    assert [told.seed for told in rendering.newest(9)] == [2, 11, 1, 10, 0, 90]


@pytest.mark.parametrize("files", [["a.png", "a.mp4"], ["a", "a.gif"], ["a.webp"]])
def test_what_can_be_played_is_played(home: Path, files: list[str]) -> None:
    rendering = BatchHistory()
    rendering.add("worker-0", [clip_event(1, 1, files=files)])
    (told,) = rendering.newest(1)
    assert told.film.name == files[-1]


def test_a_line_that_holds_other_things_than_it_should_is_left_out_and_counted(home: Path) -> None:
    rendering = BatchHistory()
    broken = [
        {"time": 1.0, "type": "clip"},
        clip_event(1, 1, "lost"),
        {"time": 1.0, "type": "gpu", "devices": 3},
    ]
    rendering.add("worker-0", [*broken, clip_event(2, 2)])
    assert (rendering.unreadable, rendering.there) == (3, 1)


async def test_a_long_history_is_taken_in_piece_by_piece_without_holding_the_screen_up(
    home: Path,
) -> None:
    batch = make_batch("long", clips=100_000)
    lines = (
        clip_event(BEGAN + i, i, "failed" if i % 1000 == 0 else "done") for i in range(100_000)
    )
    batch.worker(0).events.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    follower, held, more = BatchFollower(batch), list[float](), True
    gc.freeze()  # as the dashboard does: a search for garbage goes through all that these tests have imported
    while more:
        reading = asyncio.create_task(follower.read())
        while not reading.done():
            before = time.thread_time()  # of this thread alone: others may have the machine
            await asyncio.sleep(0)
            held.append(time.thread_time() - before)
            await asyncio.sleep(0.0005)
        _, more = reading.result()
    gc.unfreeze()
    assert follower.rendering.counts[ClipState.DONE] == 99_900
    assert len(follower.rendering.failures) == 100
    assert max(held) < HOLD_SECONDS


async def test_events_that_begin_anew_make_a_new_history(home: Path) -> None:
    batch = make_batch("anew", workers=2)
    tell(batch.worker(0), State.RUNNING, [clip_event(1, 1), clip_event(2, 2)])
    tell(batch.worker(1), State.RUNNING, [clip_event(3, 3)])
    follower = BatchFollower(batch)
    await follower.read()
    assert follower.rendering.there == 3
    batch.worker(0).events.write_text("")
    while (await follower.read())[1]:
        pass
    assert follower.rendering.there == 1


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
def test_a_batch_is_what_its_engines_are(home: Path, states: list[State], state: State) -> None:
    batch = make_batch("some", workers=len(states))
    for number, each in enumerate(states):
        tell(
            batch.worker(number),
            each,
            [gpu_event(BEGAN)],
            "The disk is full." if each is State.FAILED else "",
        )
    seen = look_at(batch)
    assert (seen.state, seen.expected, seen.live) == (state, 9, state is State.RUNNING)


def test_broken_files_are_a_problem_and_no_end(home: Path) -> None:
    batch = make_batch("broken", workers=2)
    batch.worker(0).config.write_text("kind = ")
    batch.worker(1).exit.write_text("[]")
    batch.items.unlink()
    seen = look_at(batch)
    assert "items.jsonl" in seen.problem
    assert all(worker.problem for worker in seen.workers)
