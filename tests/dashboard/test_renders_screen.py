"""Renders screen and batch screen."""

import os
import re
import sys
import time
from pathlib import Path

import pytest

from pvtool.cli.dashboard import run_or_batch
from pvtool.dashboard.app import Dashboard
from pvtool.dashboard.screens.batch import BatchScreen
from pvtool.dashboard.widgets.clip_side import ClipSide
from pvtool.terminal import Pictures, Terminal
from pvtool_core.batches.folder import BatchFolder, write_refused
from pvtool_core.errors import Missing
from pvtool_core.paths import runs_dir
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import Request, RunFolder
from tests.support.batches import (
    PROMPT,
    clip_event,
    draw_clip,
    likeness_record,
    make_batch,
    rendering_event,
    write_worker,
)
from tests.support.run_files import MakeRun, gpu_event, write_events, write_status
from tests.support.screen_text import screen_text, until, until_screen, until_seen

SIZES = [(80, 24), (120, 40), (300, 80)]


def dashboard(
    first: BatchFolder | RunFolder | None = None, pictures: Pictures = Pictures.OFF
) -> Dashboard:
    return Dashboard(
        Terminal(pictures, tmux=False, colours="truecolor", cell=(10, 20)), runs_dir(), first
    )


@pytest.fixture
def batch(home: Path) -> BatchFolder:
    """Create a live batch of 2000 clips with two workers.

    12 of 16 clips were rendered in the last minute, 1 existed, 3 failed.
    """
    live_batch = make_batch("night", clips=2000, workers=2)
    now = time.time()
    clips = [clip_event(now - 60 + 4 * i, i, "failed" if i % 6 == 5 else "done") for i in range(15)]
    started = [rendering_event(now - 60), gpu_event(now, 1)]
    write_worker(
        live_batch.worker(0),
        State.RUNNING,
        [*started, clip_event(now - 59, 100, "skipped"), *clips[::2]],
    )
    write_worker(live_batch.worker(1), State.RUNNING, [*started, *clips[1::2]])
    return live_batch


async def test_batches_are_listed_newest_first_with_progress_failures_and_rate(
    batch: BatchFolder,
) -> None:
    ended = make_batch("evening", clips=3)
    began = time.time() - 9000
    write_worker(
        ended.worker(0),
        State.FINISHED,
        [rendering_event(began), *(clip_event(began + 9 * i, i) for i in range(3))],
    )
    make_batch("afternoon", clips=7)
    async with dashboard().run_test(size=(180, 40)) as pilot:
        await pilot.press("4")
        await until_seen(pilot, "afternoon", "Folder")
        rows = [
            re.split(r" {2,}", line.strip()) for line in screen_text(pilot.app).splitlines()[2:5]
        ]
        assert [row[:6] for row in rows] == [
            ["night", "ada", PROMPT, "–", "● running", "14/2 000"],
            ["evening", "ada", PROMPT, "–", "✓ finished", "3/3"],
            ["afternoon", "ada", PROMPT, "–", "○ new", "0/7"],
        ]
        assert rows[0][7] == "2"
        assert 600 < int(rows[0][8]) < 800
        assert rows[1][7] == "600"


async def test_clips_with_the_lowest_likeness_are_listed_first(home: Path) -> None:
    live = make_batch("night", clips=9)
    means = {1: 0.61, 2: -0.07, 3: 0.36}
    clips = [
        clip_event(time.time(), seed, likeness=likeness_record(mean))
        for seed, mean in means.items()
    ]
    write_worker(live.worker(0), State.RUNNING, [rendering_event(time.time()), *clips])
    async with dashboard().run_test(size=(120, 40)) as pilot:
        await pilot.press("4")
        await until_seen(pilot, "Likeness", "0.30")
        await pilot.press("enter")
        await until_seen(pilot, "mean likeness 0.30")
        await pilot.press("l")
        await until_seen(pilot, "lowest likeness first")
        listed = re.findall(r"✓ rendered +(\S+) +(\d)", screen_text(pilot.app))
        assert listed == [("-0.07", "2"), ("0.36", "3"), ("0.61", "1")]
        await pilot.press("enter")
        await until_seen(pilot, "lowest -0.17 at 0.50 s", "measured on 8 frames")
        await pilot.press("escape", "l")
        await until_seen(pilot, "newest first")


async def test_empty_list_shows_how_to_create_a_batch(home: Path) -> None:
    async with dashboard().run_test(size=(80, 24)) as pilot:
        await pilot.press("4")
        await until_seen(pilot, "Press n to render clips")


async def test_list_follows_a_batch_from_start_to_end(home: Path) -> None:
    async with dashboard().run_test(size=(80, 24)) as pilot:
        await pilot.press("4")
        await until_seen(pilot, "No batches yet")
        batch = make_batch("night", clips=3)
        await until_seen(pilot, "night", "0/3")
        write_worker(batch.worker(0), State.RUNNING, [clip_event(time.time(), 0)])
        await until_seen(pilot, "● running", "1/3")
        write_worker(
            batch.worker(0), State.FINISHED, [clip_event(time.time(), number) for number in (1, 2)]
        )
        await until_seen(pilot, "✓ finished", "3/3")


@pytest.mark.parametrize("size", SIZES)
async def test_batch_screen_shows_progress_rate_and_workers(
    batch: BatchFolder, size: tuple[int, int]
) -> None:
    async with dashboard(batch).run_test(size=size) as pilot:
        await until_seen(
            pilot, "14/2 000 clips", "13 rendered", "1 skipped", "2 failed", "1 984 remaining"
        )
        text = screen_text(pilot.app)
        rate, left = re.findall(r"(\d+) per hour  (\S+) left", text)[0]
        assert 600 < int(rate) < 800 and left.startswith(("2:", "3:"))
        assert "● running  worker-0  cpu  ada, seed 14: <V> woman" in text
        assert "● running  worker-1  cpu  ada, seed 13: <V> woman" in text


async def test_lost_worker_is_reported(batch: BatchFolder) -> None:
    write_status(batch.worker(1), State.RUNNING, 0, pid=2**22 + 1)
    async with dashboard(batch).run_test(size=(120, 40)) as pilot:
        await until_seen(
            pilot,
            "✗ lost  worker-1",
            "Engine process of worker-1 lost. Other workers render the missing clips.",
        )
        await until(pilot, lambda: screen_text(pilot.app).startswith(" ● running  ada"))


async def test_failures_are_listed_and_enter_shows_the_full_reason(
    batch: BatchFolder,
) -> None:
    reason = (
        "The checkpoint of ada-1 was removed while its clips were rendered, " * 4
        + "and that is the end of it."
    )
    write_events(batch.worker(0), [clip_event(time.time(), 77, "failed", reason=reason)])
    async with dashboard(batch).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "3 failed")
        await pilot.press("f")
        await until_seen(
            pilot, "3 of 2 000 clips, failed only", "77  The checkpoint", "5  The adapter"
        )
        assert "that is the end" not in screen_text(pilot.app)
        await pilot.press("enter")
        await until_seen(pilot, "that is the end of it", "seed-000077")
        await pilot.press("escape")
        await until_screen(pilot, BatchScreen)
        await pilot.press("j", "enter")
        await until_seen(pilot, "seed-000011")


async def test_selected_clip_plays_beside_the_list(
    batch: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (14, 12):
        draw_clip(clip_event(0, number))
    app = dashboard(batch, Pictures.BLOCKS)
    async with app.run_test(size=SIZES[1], notifications=True) as pilot:
        await until_seen(pilot, "ada, seed 14", "of 4, playing")
        await pilot.press("j", "j")
        await until_seen(pilot, "ada, seed 12", "of 4, playing")
        await pilot.press("space")
        await until_seen(pilot, "of 4, paused")
        await pilot.press("z")
        await until(pilot, lambda: "newest first" not in screen_text(app))
        await pilot.press("escape")
        await until_seen(pilot, "newest first", "ada, seed 12")
        for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setattr(sys, "platform", "linux")
        await pilot.press("O")
        await until_seen(pilot, "No display here.")


async def test_words_filter_the_clips(batch: BatchFolder) -> None:
    async with dashboard(batch).run_test(size=SIZES[1]) as pilot:
        await until_seen(pilot, "2 000 clips, newest first")
        await pilot.press("slash", *"failed")
        await until_seen(pilot, "2 of 2 000 clips, newest first", "✗ failed")
        await pilot.press("enter", "G", "enter")
        await until_seen(pilot, "esc closes", "seed-000005")
        await pilot.press("escape", "escape")
        await until_seen(pilot, " 2 000 clips, newest first")
        await pilot.press("o", "o", "G")
        await until_seen(pilot, "in the order of the batch", "○ waiting", "1999")


async def test_stop_requests_every_live_worker(batch: BatchFolder) -> None:
    write_worker(batch.worker(1), State.FINISHED, [])
    async with dashboard().run_test(size=(120, 40), notifications=True) as pilot:
        await pilot.press("4")
        await until_seen(pilot, "night")
        await pilot.press("S")
        await until_seen(pilot, "night stops after the current clips")
        assert batch.worker(0).take_requests() == [Request.STOP]
        assert batch.worker(1).take_requests() == []
        await pilot.press("enter")
        await until_screen(pilot, BatchScreen)
        await pilot.press("S")
        await until(pilot, lambda: batch.worker(0).take_requests() == [Request.STOP])
        write_worker(batch.worker(0), State.STOPPED, [])
        await until_seen(pilot, "■ stopped")
        await pilot.press("S")
        await until_seen(pilot, "No worker of night is running.")


async def test_control_characters_in_files_are_escaped(home: Path) -> None:
    batch = make_batch("odd")
    odd = {
        "prompt": "[red]x[/]\x1b]0;mine\x07\n",
        "identity": "a\x1b[2J",
        "reason": "[/] \x1b[31m it",
    }
    nowhere = clip_event(time.time(), 2, path="", files=["../a\0b.gif"], strength=None)
    failed = clip_event(time.time() + 1, 1, "failed", **odd)
    write_worker(batch.worker(0), State.RUNNING, [nowhere, failed])
    batch.worker(0).log.touch()
    async with dashboard(batch).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "[/]", "1 failed")
        await pilot.press("f")
        await until_seen(pilot, "1 of 9 clips, failed only")
        await pilot.press("enter")
        await until_seen(pilot, "[red]x[/]")
        await pilot.press("escape", "f", "j", "O", "Y")
        await until_seen(pilot, "ada, seed 2")
        assert "\x1b" not in screen_text(pilot.app)


async def test_unreadable_history_is_reported(
    batch: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.worker(0).events.unlink()
    batch.worker(0).events.mkdir()
    async with dashboard(batch).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "Cannot read events.jsonl")


async def test_keys_switch_between_batches_and_the_list(batch: BatchFolder) -> None:
    make_batch("evening", clips=3)
    async with dashboard(batch).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "2 000 clips")
        await pilot.press("J")
        await until_seen(pilot, "0/3 clips")
        await pilot.press("escape")
        await until_seen(pilot, "4 Renders", "night", "evening")
        await until(pilot, lambda: not isinstance(pilot.app.screen, BatchScreen))


def test_name_or_folder_opens_a_batch_or_a_run(batch: BatchFolder, make_run: MakeRun) -> None:
    run = make_run("ada-1", 3)
    for name in ("night", str(batch.path), os.path.relpath(batch.path)):
        found = run_or_batch(name)
        assert isinstance(found, BatchFolder) and found.path.resolve() == batch.path.resolve()
    assert isinstance(run_or_batch("ada-1"), RunFolder)
    assert isinstance(run_or_batch(str(run.path)), RunFolder)
    with pytest.raises(Missing):
        run_or_batch("nothing")


async def test_f_reports_that_no_clip_failed(home: Path) -> None:
    batch = make_batch("fine", clips=1)
    write_worker(batch.worker(0), State.FINISHED, [clip_event(time.time(), 0)])
    async with dashboard(batch).run_test(size=(120, 40), notifications=True) as pilot:
        await until_seen(pilot, "1/1 clips")
        await pilot.press("f")
        await until_seen(pilot, "No failed clips in this batch.")


async def test_refused_rows_count_as_failed(home: Path) -> None:
    batch = make_batch("bad", clips=1)
    write_refused(
        batch.refused, {"bad.csv, line 3": "Unknown identity.", "bad.csv, line 4": "No keyword."}
    )
    write_worker(batch.worker(0), State.FINISHED, [clip_event(time.time(), 0)])
    async with dashboard(batch).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "1/3 clips", "2 failed", "bad.csv, line 3", "No keyword.")
        await pilot.press("f")
        await until_seen(pilot, "2 of 3 clips, failed only")
        await pilot.press("j", "enter")
        await until_seen(pilot, "esc closes", "No keyword.")


async def test_clips_of_a_copied_data_folder_are_played(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch("evening", clips=1)
    event = clip_event(time.time(), 0)
    draw_clip(event)
    write_worker(batch.worker(0), State.FINISHED, [event])
    home.rename(tmp_path / "moved")
    monkeypatch.setenv("PV_HOME", str(tmp_path / "moved"))
    copy = BatchFolder(tmp_path / "moved/data/batches/evening")
    async with dashboard(copy, Pictures.BLOCKS).run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: pilot.app.screen.query_one(ClipSide).player.frames)
        path = pilot.app.screen.query_one(ClipSide).player.path
        assert path is not None
        assert path.is_relative_to(tmp_path / "moved")
