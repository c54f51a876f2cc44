"""Runs screen."""

import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable

from pvtool.dashboard import app
from pvtool.dashboard.app import Dashboard
from pvtool.dashboard.screens.run import RunScreen
from pvtool.dashboard.screens.runs import RunsScreen
from pvtool.terminal import Pictures, Terminal
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import BestCheckpoint, ExitRecord, Request, RunNotes
from tests.support.run_files import MakeRun, scores_event, write_events, write_status
from tests.support.screen_text import dashboard, screen_text, until, until_seen

WIDE = (120, 40)


async def test_runs_are_listed_newest_first_with_state_step_and_rewards(
    make_run: MakeRun,
) -> None:
    make_run("ada-1", 300, State.FINISHED)
    make_run("ben-1", 120, State.STOPPED)
    make_run("ada-2", 180)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "ada-2", "● running", "180/400", "■ stopped", "✓ finished")
        rows = [line.split()[0] for line in screen_text(pilot.app).splitlines() if "tiny" in line]
        assert rows == ["ada-2", "ben-1", "ada-1"]


async def test_empty_list_shows_how_to_start_a_run(home: Path) -> None:
    async with dashboard().run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "No runs yet. Press n to start one")


async def test_run_started_by_another_process_appears(make_run: MakeRun) -> None:
    make_run("ada-1", 3)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "ada-1")
        folder = make_run("ben-1", 5)
        await until_seen(pilot, "ben-1", "5/400")
        write_status(folder, State.RUNNING, 77)
        await until_seen(pilot, "77/400")


async def test_failure_of_a_run_is_notified(
    home: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    driver = SimpleNamespace(write=written.append)
    monkeypatch.setattr(app, "driver_of", Mock(return_value=driver))
    (home / "config").mkdir(parents=True)
    (home / "config/config.toml").write_text('notify.terminal = ["bell", "osc9"]')
    folder = make_run("ada-1", 3)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "● running")
        write_status(folder, State.RUNNING, 3, pid=2**22 + 1)
        await until_seen(pilot, "✗ lost", "ada-1 lost its engine process at step 3.")
        assert written == ["\a", "\x1b]9;ada-1 lost at step 3.\x1b\\"]


async def test_filter_shows_runs_with_all_words(make_run: MakeRun) -> None:
    for name in ("ada-1", "ada-2", "ben-1"):
        make_run(name, 2)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "ben-1")
        await pilot.press("slash", *"ada", "space", *"ada-2", "enter")
        await until(
            pilot,
            lambda: "ben-1" not in screen_text(pilot.app) and "ada-1" not in screen_text(pilot.app),
        )
        await until_seen(pilot, "ada-2")
        await pilot.press("slash", *"unknown")
        await until_seen(pilot, "No matching runs.")
        await pilot.press("escape")
        await until_seen(pilot, "ben-1", "ada-1")


async def test_filter_of_a_column_shows_how_many_runs_match(make_run: MakeRun) -> None:
    for name, state in [("ada-1", State.FAILED), ("ben-1", State.STOPPED), ("failed-1", State.NEW)]:
        make_run(name, 2, state)
    async with dashboard().run_test(size=WIDE) as pilot:
        await until_seen(pilot, "3 runs")
        await pilot.press("slash", *"state", "colon", *"failed", "enter")
        await until_seen(pilot, "1 of 3 runs")
        assert listed(pilot) == ["ada-1"]


def listed(pilot: Pilot[None]) -> list[str]:
    """Return the names of the listed runs in their order."""
    return [line.split()[0] for line in screen_text(pilot.app).splitlines() if "/400" in line]


async def test_runs_are_sorted_by_keys_and_by_a_click_on_a_heading(make_run: MakeRun) -> None:
    likeness = {"ada-1": 0.4, "ben-1": None, "cid-1": 0.6}
    for name, best in likeness.items():
        folder = make_run(name, 2, State.STOPPED)
        if best:
            folder.write_best(BestCheckpoint(step=1, likeness=best))
    async with dashboard().run_test(size=WIDE) as pilot:
        await until_seen(pilot, "0.600", "sorted by started, descending")
        assert listed(pilot) == ["cid-1", "ben-1", "ada-1"]
        heading = screen_text(pilot.app).splitlines()[1].index("Likeness")
        await pilot.click(DataTable, offset=(heading, 0))
        await until_seen(pilot, "Likeness▼")
        assert listed(pilot) == ["cid-1", "ada-1", "ben-1"]
        await pilot.press("i")
        await until_seen(pilot, "Likeness▲")
        assert listed(pilot) == ["ada-1", "cid-1", "ben-1"]
        await pilot.press("less_than_sign", "less_than_sign")
        await until_seen(pilot, "Step▼")


async def test_stop_and_delete_act_on_all_selected_runs(make_run: MakeRun) -> None:
    kept, *chosen = [make_run(name, 2) for name in ("ada-1", "ben-1", "cid-1")]
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "3 runs")
        await pilot.press("space", "space")
        await until_seen(pilot, "◆ cid-1", "◆ ben-1", "2 selected")
        await pilot.press("S")
        await until(pilot, lambda: [f.take_requests() for f in chosen] == [[Request.STOP]] * 2)
        assert kept.take_requests() == []
        await pilot.press("D")
        await until_seen(pilot, "Delete 2 runs?", "ben-1  running, step 2", "cid-1  running")
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Another engine is working on 'cid-1'.")
        for folder in chosen:
            folder.write_exit(ExitRecord(status=0, state=State.STOPPED))
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Deleted 2 runs.", "1 run ")
    assert [folder.path.exists() for folder in (kept, *chosen)] == [True, False, False]


async def test_notes_and_tags_are_written_shown_and_found(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 2)
    make_run("ben-1", 2).write_notes(RunNotes(note="too much motion", tags=("old",)))
    async with dashboard().run_test(size=(200, 24), notifications=True) as pilot:
        await until_seen(pilot, "#old too much motion")
        await pilot.press("j", "N")
        await until_seen(pilot, "Notes of ada-1")
        await pilot.press(*"half", "tab", *"paper", "enter")
        await until_seen(pilot, "#paper half")
        assert folder.read_notes() == RunNotes(note="half", tags=("paper",))
        await pilot.press("slash", *"tag", "colon", *"paper", "enter")
        await until_seen(pilot, "1 of 2 runs")
        assert listed(pilot) == ["ada-1"]


async def test_wide_list_has_a_preview_of_the_current_run(make_run: MakeRun) -> None:
    make_run("ada-1", 60)
    folder = make_run("ben-1", 60)
    write_events(folder, [scores_event(0), scores_event(50, 0.42)])
    async with dashboard().run_test(size=(150, 40)) as pilot:
        await until_seen(pilot, "ben on tiny", "latest 0.420", "Likeness 0.420")
        write_events(folder, [scores_event(60, 0.5)])
        folder.write_best(BestCheckpoint(step=60, likeness=0.5))
        await until_seen(pilot, "latest 0.500  ★ best 0.500 at 60", "Likeness 0.500")
        await pilot.press("j")
        await until_seen(pilot, "ada on tiny")
        await until(pilot, lambda: "Likeness 0.5" not in screen_text(pilot.app))
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: "ada on tiny" not in screen_text(pilot.app))


async def test_columns_are_chosen(make_run: MakeRun) -> None:
    make_run("ada-1", 2)
    async with dashboard().run_test(size=WIDE) as pilot:
        await until_seen(pilot, "Identity", "Preset")
        await pilot.press("v", "space", "escape")
        await until(pilot, lambda: "Identity" not in screen_text(pilot.app).splitlines()[1])
        await until_seen(pilot, "Preset")


@pytest.mark.parametrize(("down", "up"), [("j", "k"), ("down", "up")])
async def test_vim_and_arrow_keys_select_a_run_and_enter_opens_it(
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


async def test_click_selects_a_run_and_second_click_opens_it(make_run: MakeRun) -> None:
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
    ("key", "request_", "effect"),
    [
        ("p", Request.PAUSE, "and pauses"),
        ("S", Request.STOP, "and stops"),
        ("c", Request.CHECKPOINT, "saves a checkpoint"),
        ("s", Request.SAMPLE, "renders samples"),
    ],
)
async def test_keys_send_requests_to_the_selected_run(
    make_run: MakeRun, key: str, request_: Request, effect: str
) -> None:
    other, folder = make_run("ada-1", 2), make_run("ben-1", 2)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "ben-1")
        await pilot.press(key)
        await until_seen(pilot, effect)
        assert folder.take_requests() == [request_]
        assert other.take_requests() == []


@pytest.mark.parametrize("key", ["p", "r"])
async def test_paused_run_is_resumed(make_run: MakeRun, key: str) -> None:
    folder = make_run("ada-1", 2, State.PAUSED)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "‖ paused")
        await pilot.press(key)
        await until_seen(pilot, "ada-1 resumes now.")
        assert folder.take_requests() == [Request.RESUME]


async def test_impossible_actions_are_reported_and_not_sent(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 400, State.FINISHED)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "✓ finished")
        await pilot.press("p")
        await until_seen(pilot, "ada-1 is not running: it is finished.")
        await pilot.press("r")
        await until_seen(pilot, "No training steps are left.")
        assert folder.take_requests() == []


async def test_broken_runs_show_their_problem_and_hide_no_other(make_run: MakeRun) -> None:
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
        await pilot.press("j", "j")
        await until_seen(pilot, "exit.json of cid-1 is unreadable")
        await pilot.press("j")
        await until_seen(pilot, "status.json of ben-1 is unreadable")
        await pilot.press("j")
        await until_seen(pilot, "ada-1/config.toml")


async def test_removed_run_disappears_from_the_list(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 2)
    make_run("ben-1", 2)
    async with dashboard().run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "ada-1")
        folder.path.rename(folder.path.parent / ".gone")
        await until(pilot, lambda: "ada-1" not in screen_text(pilot.app))
        await until_seen(pilot, "ben-1")


async def test_q_closes_the_dashboard_without_requests(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 2)
    app = dashboard()
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "ada-1")
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)
    assert folder.take_requests() == []
    assert json.loads(folder.status.read_text())["state"] == "running"


async def test_rewards_of_a_live_run_are_updated(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 2)
    async with dashboard().run_test(size=(160, 24), notifications=True) as pilot:
        await until_seen(pilot, "2/400")
        newest = {"time": 1.0, "type": "step", "icr": 0.123, "scr": 0.456, "loss": 0.789}
        write_events(folder, [{**newest, "step": step} for step in range(3, 23)])
        await until_seen(pilot, "0.123", "0.456", "0.789")


async def test_keys_select_the_first_and_last_run(
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


async def test_runs_of_other_machines_have_their_name_and_stay_there(
    home: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("ada-1", 3, State.STOPPED)
    away = tmp_path / "mnt/gpu2/runs"
    away.mkdir(parents=True)
    make_run("ada-1x", 9, State.STOPPED).path.rename(away / "ada-1")
    terminal = Terminal(Pictures.OFF, tmux=False, colours="truecolor")
    shown = Dashboard(terminal, home / "data/runs", others={"gpu2": away})
    async with shown.run_test(size=WIDE, notifications=True) as pilot:
        await until_seen(pilot, "gpu2:ada-1", "9/400", "2 runs")
        await pilot.press("A", "C")
        await until_seen(pilot, "A gpu2:ada-1  B ada-1", "ICR")
        await pilot.press("escape", "A")
        await until_seen(pilot, "9/400", "2 runs")
        await pilot.press("slash", *"gpu2:", "enter", "r")
        await until_seen(pilot, "ada-1 is in the data folder of gpu2.", "1 of 2 runs")
        await pilot.press("D")
        await until_seen(pilot, "Delete gpu2:ada-1?", "gpu2:ada-1  stopped, step 9")
        await pilot.press("escape", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunScreen))
        assert isinstance(pilot.app.screen, RunScreen)
        assert pilot.app.screen.folder.path == away / "ada-1"
        await pilot.press("J")
        await until(pilot, lambda: _shown_folder(pilot) == home / "data/runs/ada-1")


def _shown_folder(pilot: Pilot[None]) -> Path | None:
    screen = pilot.app.screen
    return screen.folder.path if isinstance(screen, RunScreen) else None
