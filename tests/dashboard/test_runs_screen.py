"""The list of runs, as a person uses it."""

import json
from pathlib import Path

import pytest
from textual.widgets import DataTable

from pvtool.dashboard.screens.run import RunScreen
from pvtool.dashboard.screens.runs import RunsScreen
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import Request
from tests.support.run_files import MakeRun, write_events, write_status
from tests.support.screen_text import asked, dashboard, seen, until, until_seen

WIDE = (120, 40)


async def test_it_lists_every_run_newest_first_with_its_state_step_and_rewards(
    make_run: MakeRun,
) -> None:
    make_run("ada-1", 300, State.FINISHED)
    make_run("ben-1", 120, State.STOPPED)
    make_run("ada-2", 180)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "ada-2", "● running", "180/400", "■ stopped", "✓ finished")
        rows = [line.split()[0] for line in seen(pilot.app).splitlines() if "tiny" in line]
        assert rows == ["ada-2", "ben-1", "ada-1"]


async def test_without_runs_it_says_what_to_do(home: Path) -> None:
    async with dashboard().run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "Press n to train somebody")


async def test_a_run_that_begins_elsewhere_appears_by_itself(make_run: MakeRun) -> None:
    make_run("ada-1", 3)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "ada-1")
        folder = make_run("ben-1", 5)
        await until_seen(pilot, "ben-1", "5/400")
        write_status(folder, State.RUNNING, 77)
        await until_seen(pilot, "77/400")


async def test_a_run_that_fails_is_told_wherever_one_is(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 3)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "● running")
        write_status(folder, State.RUNNING, 3, pid=2**22 + 1)
        await until_seen(pilot, "✗ lost", "ada-1 lost its engine at step 3.")


async def test_the_filter_leaves_runs_with_all_its_words(make_run: MakeRun) -> None:
    for name in ("ada-1", "ada-2", "ben-1"):
        make_run(name, 2)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "ben-1")
        await pilot.press("slash", *"ada", "space", *"ada-2", "enter")
        await until(
            pilot, lambda: "ben-1" not in seen(pilot.app) and "ada-1" not in seen(pilot.app)
        )
        assert "ada-2" in seen(pilot.app)
        await pilot.press("slash", *"nobody")
        await until_seen(pilot, "No run has these words")
        await pilot.press("escape")
        await until_seen(pilot, "ben-1", "ada-1")


@pytest.mark.parametrize(("down", "up"), [("j", "k"), ("down", "up")])
async def test_vim_and_arrow_keys_choose_a_run_and_enter_opens_it(
    make_run: MakeRun, down: str, up: str
) -> None:
    for name in ("ada-1", "ben-1", "cid-1"):
        make_run(name, 2)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "cid-1")
        await pilot.press(down, down, up, "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunScreen))
        assert isinstance(pilot.app.screen, RunScreen)
        assert pilot.app.screen.folder.name == "ben-1"
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen))


async def test_a_click_chooses_a_run_and_another_opens_it(make_run: MakeRun) -> None:
    for name in ("ada-1", "ben-1"):
        make_run(name, 2)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "ben-1")
        await pilot.click(DataTable, offset=(2, 2))
        await pilot.click(DataTable, offset=(2, 2))
        await until(pilot, lambda: isinstance(pilot.app.screen, RunScreen))
        assert isinstance(pilot.app.screen, RunScreen)
        assert pilot.app.screen.folder.name == "ada-1"


@pytest.mark.parametrize(
    ("key", "request_"),
    [("p", Request.PAUSE), ("S", Request.STOP), ("c", Request.CHECKPOINT), ("s", Request.SAMPLE)],
)
async def test_keys_steer_the_run_under_the_cursor(
    make_run: MakeRun, key: str, request_: Request
) -> None:
    other, folder = make_run("ada-1", 2), make_run("ben-1", 2)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "ben-1")
        await pilot.press(key)
        await until_seen(pilot, "step ends")
        assert asked(folder) == [request_]
        assert asked(other) == []


@pytest.mark.parametrize("key", ["p", "r"])
async def test_a_paused_run_is_let_go_on(make_run: MakeRun, key: str) -> None:
    folder = make_run("ada-1", 2, State.PAUSED)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "‖ paused")
        await pilot.press(key)
        await until_seen(pilot, "goes on")
        assert asked(folder) == [Request.RESUME]


async def test_what_cannot_be_done_is_said_and_not_done(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 400, State.FINISHED)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "✓ finished")
        await pilot.press("p")
        await until_seen(pilot, "ada-1 is not running: it is finished.")
        await pilot.press("r")
        await until_seen(pilot, "There is nothing left to train.")
        assert asked(folder) == []


async def test_broken_runs_are_shown_as_what_they_are_and_hide_no_other(make_run: MakeRun) -> None:
    for name, file, content in [
        ("ada-1", "config.toml", b"\xff\xfe garbage"),
        ("ben-1", "status.json", b"{"),
        ("cid-1", "exit.json", b"[1, 2]"),
        ("dora-1", "events.jsonl", b"\x00" * 5000 + b"\n{}\n[]\n"),
    ]:
        (make_run(name, 2).path / file).write_bytes(content)
    make_run("eva-1", 7)
    async with dashboard().run_test(size=WIDE) as pilot:
        await until_seen(pilot, "eva-1", "7/400", "ada-1 !", "ben-1 !", "cid-1 !", "dora-1")
        await until_seen(pilot, "ada-1/config.toml")
        await pilot.press("j", "j", "j")
        await until_seen(pilot, "exit.json of cid-1 is unreadable")
        await pilot.press("j")
        await until_seen(pilot, "status.json of ben-1 is unreadable")


async def test_a_run_that_vanishes_goes_from_the_list(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 2)
    make_run("ben-1", 2)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "ada-1")
        folder.path.rename(folder.path.parent / ".gone")
        await until(pilot, lambda: "ada-1" not in seen(pilot.app))
        assert "ben-1" in seen(pilot.app)


async def test_q_closes_it_and_asks_nothing_of_any_run(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 2)
    app = dashboard()
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "ada-1")
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)
    assert asked(folder) == []
    assert json.loads(folder.status.read_text())["state"] == "running"


async def test_rewards_of_a_live_run_move_with_its_events(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 2)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "2/400")
        newest = {"time": 1.0, "type": "step", "icr": 0.123, "scr": 0.456, "loss": 0.789}
        write_events(folder, [{**newest, "step": step} for step in range(3, 23)])
        await until_seen(pilot, "0.123", "0.456", "0.789")


async def test_first_and_last_run_are_a_key_away_and_enter_is_in_the_footer(
    make_run: MakeRun,
) -> None:
    for number in range(1, 7):
        make_run(f"ada-{number}", 1)
    async with dashboard().run_test(size=WIDE) as pilot:
        await until_seen(pilot, "ada-6", "Open")
        table = pilot.app.screen.query_one(DataTable)
        for key, row in [("G", 5), ("g", 0), ("end", 5), ("home", 0)]:
            await pilot.press(key)
            await until(pilot, lambda row=row: table.cursor_row == row)
