"""Run screen."""

import csv
import os
import re
from pathlib import Path

import pytest
from textual.containers import VerticalScroll
from textual.pilot import Pilot
from textual.widgets import Tabs

from pvtool.dashboard.app import Dashboard
from pvtool.dashboard.preferences import preferences_file, read_theme
from pvtool.dashboard.screens.help import HelpScreen
from pvtool.dashboard.screens.run import RunScreen
from pvtool.dashboard.widgets.log import LogView
from pvtool.dashboard.widgets.samples import Samples
from pvtool.terminal import Pictures, Terminal
from pvtool_core.paths import runs_dir
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ExitRecord, Request, RunFolder
from tests.support.run_files import (
    BEGAN,
    MakeRun,
    gpu_event,
    scores_event,
    step_event,
    write_events,
    write_status,
)
from tests.support.sample_data import clip
from tests.support.screen_text import (
    dashboard,
    screen_text,
    until,
    until_found,
    until_screen,
    until_seen,
)

SIZE = (130, 44)
SIZES = [(80, 24), SIZE, (300, 80)]
PANES = ["overview", "curves", "samples", "evaluation", "prompts", "machine", "log", "settings"]


async def go_to(pilot: Pilot[None], pane: str) -> None:
    """Press `]` until a pane is shown, starting from the overview."""
    await until(pilot, lambda: isinstance(pilot.app.screen, RunScreen))
    await pilot.press(*["right_square_bracket"] * PANES.index(pane))
    await until(pilot, lambda: pilot.app.screen.query_one(Tabs).active == pane)
    await pilot.pause(0.2)


async def test_headline_shows_state_step_rewards_and_current_prompt(
    make_run: MakeRun,
) -> None:
    folder = make_run("ada-1", 180)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(
            pilot, "● running", "ada-1", "ada on tiny", "step 180/400", "45%", "ICR 0.2", "SCR 0.0"
        )
        await until_seen(pilot, "<V> woman is dancing in the rain", "seed 1000000")


async def test_new_events_are_shown(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 3)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "step 3/400")
        write_events(folder, [step_event(4, icr=0.111, prompt="<V> woman flies a kite")])
        write_status(folder, State.RUNNING, 4)
        await until_seen(pilot, "step 4/400", "flies a kite")


async def test_full_history_is_loaded_and_reloaded_after_a_resume(
    make_run: MakeRun,
) -> None:
    folder = make_run("ada-1", 300)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "step 300/400")
        screen = pilot.app.screen
        assert isinstance(screen, RunScreen)
        await until(pilot, lambda: len(screen.run_view.history.curves["icr"]) == 300)
        kept = folder.events.read_text().splitlines(keepends=True)[:200]
        (folder.path / "new").write_text("".join(kept))
        (folder.path / "new").rename(folder.events)
        await until(pilot, lambda: len(screen.run_view.history.curves["icr"]) < 200)


@pytest.mark.parametrize("size", SIZES, ids=str)
async def test_keys_open_every_pane_at_every_size(make_run: MakeRun, size: tuple[int, int]) -> None:
    folder = make_run("ada-1", 40, devices=2)
    texts = {
        "overview": ["ICR"],
        "curves": ["ICR", "SCR"],
        "samples": ["No samples yet"],
        "evaluation": ["Not evaluated yet"],
        "prompts": ["reads in a café"],
        "machine": ["GPU 0", "41.5 of 80.0 GiB", "61 °C", "412 W"],
        "log": ["events", "run         started"],
        "settings": ["model.family", "animatediff"],
    }
    async with dashboard(folder).run_test(size=size) as pilot:
        for pane in PANES:
            await until(pilot, lambda pane=pane: pilot.app.screen.query_one(Tabs).active == pane)
            await until_seen(pilot, *texts[pane])
            await pilot.press("right_square_bracket")
        await until(pilot, lambda: pilot.app.screen.query_one(Tabs).active == "overview")
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: pilot.app.screen.query_one(Tabs).active == "settings")


async def test_click_on_a_tab_opens_its_pane(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 4)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "step 4/400")
        await pilot.click("#prompts")
        await until_seen(pilot, "reads in a café")


async def test_resize_keeps_the_content(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 40)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        for width, height in [(80, 24), (40, 12), (20, 6), (300, 80), (100, 30)]:
            await pilot.resize_terminal(width, height)
            await pilot.pause(0.2)
        await until_seen(pilot, "step 40/400", "ICR")


@pytest.mark.parametrize(
    ("key", "request_", "effect"),
    [
        ("p", Request.PAUSE, "and pauses"),
        ("S", Request.STOP, "and stops"),
        ("c", Request.CHECKPOINT, "saves a checkpoint"),
        ("s", Request.SAMPLE, "renders samples"),
    ],
)
async def test_keys_send_requests_to_the_run(
    make_run: MakeRun, key: str, request_: Request, effect: str
) -> None:
    folder = make_run("ada-1", 2)
    async with dashboard(folder).run_test(size=SIZE, notifications=True) as pilot:
        await until_seen(pilot, "● running")
        await pilot.press(key)
        await until_seen(pilot, effect)
        assert folder.take_requests() == [request_]


async def test_killed_engine_is_lost_and_can_be_resumed(
    make_run: MakeRun,
) -> None:
    folder = make_run("ada-1", 20)
    write_events(
        folder,
        [{"time": BEGAN, "type": "checkpoint", "step": 20, "path": "checkpoints/step-000020"}],
    )
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "● running")
        write_status(folder, State.RUNNING, 20, pid=2**22 + 1)
        await until_seen(pilot, "✗ lost", "Press r to resume from step 20", seconds=3)


async def test_failure_is_shown_as_an_alarm(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 20, State.FAILED)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "✗ failed", "The loss is not finite. Lower training.learning_rate.")


async def test_warnings_and_non_finite_losses_are_alarms(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 20)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        write_events(
            folder, [{"time": BEGAN, "type": "warning", "message": "3 of 12 pairs show no face."}]
        )
        await until_seen(pilot, "3 of 12 pairs show no face.")
        write_events(folder, [step_event(21, loss=None)])
        await until_seen(pilot, "Not a finite number at step 21: loss.", "2 warnings in the log")


async def test_hanging_engine_is_reported(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 20)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "step 20/400")
        assert "No events" not in screen_text(pilot.app)
        write_events(folder, [step_event(21, time=BEGAN - 1000)])
        await until_seen(pilot, "No events for", "the engine is alive")


async def test_history_that_ends_at_a_chunk_boundary_is_complete(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run("ada-1", 60)
    monkeypatch.setattr("pvtool.dashboard.follow.tail.CHUNK_BYTES", folder.events.stat().st_size)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "ICR 0.6", "seed 1000000", seconds=5)


@pytest.mark.parametrize(
    "status",
    [
        '{"state": "running", "step": "many"}',
        '{"state": "dancing"}',
        '{"pid": "x", "time": []}',
        "17",
    ],
)
async def test_malformed_heartbeat_is_reported_and_the_run_is_still_followed(
    make_run: MakeRun, status: str
) -> None:
    folder = make_run("ada-1", 5)
    folder.status.write_text(status)
    write_events(folder, [step_event(6, eta="soon", icr="low")])
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "status.json of ada-1 is unreadable")
        write_status(folder, State.RUNNING, 7)
        write_events(folder, [step_event(7)])
        await until_seen(pilot, "● running", "step 7/400")
        await pilot.press("escape")
        await until_seen(pilot, "7/400")


async def test_control_characters_in_the_log_are_escaped(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 5)
    folder.log.write_text("before \x1b[2J\x1b[H\x07[/red] after\n")
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await go_to(pilot, "log")
        await pilot.press("e")
        await until_seen(pilot, "before", "[/red] after")
        view = pilot.app.screen.query_one(LogView)
        assert "\x1b" not in view.render_line(0).text


async def test_replaced_log_shows_only_the_new_content(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 5)
    folder.log.write_text("first of old\nsecond of old\n")
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await go_to(pilot, "log")
        await pilot.press("e")
        await until_seen(pilot, "second of old")
        (folder.path / "new.log").write_text("one of new\ntwo of new\nthree of new\n")
        (folder.path / "new.log").rename(folder.log)
        await until_seen(pilot, "one of new", "three of new")
        assert "of old" not in screen_text(pilot.app)


async def test_corrupt_run_is_shown_with_its_problem(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 5)
    for file in (folder.config, folder.status):
        file.write_bytes(os.urandom(300))
    folder.events.write_bytes(
        os.urandom(20000) + b"\r\r\n" + b'{"time": 1, "type": "step", "step": []}\n'
    )
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "✗ lost", "config.toml")
        for pane in PANES:
            await until(pilot, lambda pane=pane: pilot.app.screen.query_one(Tabs).active == pane)
            await pilot.press("right_square_bracket")
        await pilot.press("escape")
        await until_seen(pilot, "ada-1 !")


async def test_run_removed_while_shown_is_reported(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 5)
    make_run("ben-1", 7)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "step 5/400")
        folder.path.rename(folder.path.parent / ".gone")
        await until_seen(pilot, "Cannot read", "config.toml")
        await pilot.press("escape")
        await until_seen(pilot, "ben-1")


async def test_copied_run_is_shown_from_any_folder(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run("ada-1", 60, State.FINISHED)
    copied = RunFolder(folder.path.rename(tmp_path / "from-elsewhere"))
    async with dashboard(copied).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "✓ finished", "from-elsewhere", "step 60/400")


async def test_keys_switch_to_the_next_and_previous_run(make_run: MakeRun) -> None:
    make_run("ada-1", 2)
    make_run("ben-1", 2)
    folder = make_run("cid-1", 2)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "cid on tiny")
        await pilot.pause(0.3)
        await pilot.press("J")
        await until_seen(pilot, "ben on tiny")
        await pilot.press("K")
        await until_seen(pilot, "cid on tiny")


async def test_overlay_shows_curves_and_settings_of_another_run(
    make_run: MakeRun,
) -> None:
    other = make_run("ada-1", 30)
    other.config.write_text(
        other.config.read_text().replace("iterations = 400", "iterations = 500")
    )
    folder = make_run("ben-1", 20)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await go_to(pilot, "settings")
        await until_seen(pilot, "model.family")
        await pilot.press("o")
        await until_seen(pilot, "Different in ada-1:", "training.iterations", "400  ≠  500")
        screen = pilot.app.screen
        assert isinstance(screen, RunScreen)
        await until(
            pilot,
            lambda: screen.run_view.overlay and len(screen.run_view.overlay.curves["icr"]) == 30,
        )
        await pilot.press("o")
        await until(
            pilot, lambda: screen.run_view.overlay is None and "≠" not in screen_text(pilot.app)
        )


async def test_curves_are_exported_as_csv_and_png(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 25)
    async with dashboard(folder).run_test(size=SIZE, notifications=True) as pilot:
        await until_seen(pilot, "step 25/400", "ICR 0.")
        await pilot.press("E")
        await until_seen(pilot, "Curves saved")
        rows = Path("ada-1.csv").read_text().splitlines()
        assert len(rows) == 26
        assert rows[0].startswith("step,time,")
        assert Path("ada-1.png").read_bytes().startswith(b"\x89PNG")


async def test_scores_of_samples_are_drawn_with_a_mark_each_and_exported(
    make_run: MakeRun,
) -> None:
    folder = make_run("ada-1", 100)
    write_events(folder, [scores_event(0), scores_event(50, 0.4, gap=0.2, motion=0.6)])
    async with dashboard(folder).run_test(size=SIZE, notifications=True) as pilot:
        await until_seen(pilot, "held-out 0.400", "Likeness · live")
        await go_to(pilot, "curves")
        await until_seen(pilot, "Likeness · live · held-out 0.400 · reward 0.600")
        await until_seen(pilot, "Motion / base model's 0.750", "CLIP-T - base model's 0")
        before = screen_text(pilot.app).count("●")
        write_events(folder, [scores_event(100, 0.3, gap=0.5, motion=None)])
        await until_seen(pilot, "held-out 0.300 · reward 0.800", "Motion / base model's 0.750")
        await until(pilot, lambda: screen_text(pilot.app).count("●") == before + 3)
        await pilot.press("E")
        await until_seen(pilot, "Curves saved")
    header, *rows = csv.reader(Path("ada-1.csv").read_text().splitlines())
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert table["50"]["samples.likeness"] == "0.4"
    assert float(table["50"]["samples.likeness_reward"]) == pytest.approx(0.6)
    assert float(table["50"]["samples.motion"]) == pytest.approx(0.75)
    assert table["100"]["samples.motion"] == ""
    assert table["50"]["icr"]


async def test_reason_of_an_early_end_is_shown(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 100, State.FINISHED)
    folder.write_exit(ExitRecord(status=0, state=State.FINISHED, reason="No higher likeness."))
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "Training ended early. No higher likeness.")


async def test_screenshot_is_saved_as_svg(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 2)
    async with dashboard(folder).run_test(size=SIZE, notifications=True) as pilot:
        await until_seen(pilot, "step 2/400")
        await pilot.press("V")
        await until_seen(pilot, "Screenshot saved")
        (picture,) = Path.cwd().glob("*.svg")
        assert "ada-1" in picture.read_text()


async def test_prompts_are_listed_with_their_counts(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 8)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await go_to(pilot, "prompts")
        await until_seen(
            pilot, "›     3 ▪▪▪▪▪▪▪▪ <V> woman runs", "2 ▪▪▪▪▪▪   <V> woman is dancing"
        )


async def test_memory_of_the_engine_is_shown_without_an_accelerator(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 8)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await go_to(pilot, "machine")
        await until_seen(pilot, "No GPU", "RAM 3.00 GiB", "CPU 1.01 cores", "101 % of a core")
        write_events(folder, [gpu_event(BEGAN + 9, devices=1)])
        await until_seen(pilot, "GPU 0")
        await until(pilot, lambda: "No GPU" not in screen_text(pilot.app))


async def test_own_accelerator_is_marked_and_plotted(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 8)
    host = {"memory_used": 45 * 2**30, "memory_total": 64 * 2**30, "cpu": 35.0, "cores": 16}
    write_events(folder, [gpu_event(BEGAN + 9, devices=3) | {"own": 1, "host": host}])
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await go_to(pilot, "machine")
        await until_seen(pilot, "▸ GPU 1", "GPU 2", "Host   16 cores", "45.0 of 64.0 GiB", "35 %")
        await until(pilot, lambda: screen_text(pilot.app).count("Utilisation") == 1)


async def test_log_is_searched_and_followed_and_switches_to_the_engine_output(
    make_run: MakeRun,
) -> None:
    folder = make_run("ada-1", 200)
    folder.log.write_text(
        "".join(f"line {i} of the engine\n" for i in range(500)) + "Traceback: boom\n"
    )
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await go_to(pilot, "log")
        await until_seen(pilot, "events, without steps and gauges", "2 lines")
        await pilot.press("v")
        await until_seen(pilot, "events, all", "step 200")
        await pilot.press("slash", *"step 77", "enter")
        await until_seen(pilot, "step 77 ", "'step 77'  1 of 1")
        write_events(folder, [step_event(201)])
        await pilot.press("G")
        await until_seen(pilot, "step 201 ", "live")
        await pilot.press("g")
        await until_seen(pilot, "run         started")
        await pilot.press("e")
        await until_seen(pilot, "engine.log", "Traceback: boom")
        await pilot.press("slash", *"line 12", "enter")
        await until_seen(pilot, "line 12 of the engine")
        await pilot.press("n")
        await until_seen(pilot, "line 120 of the engine", "2 of 11")
        await pilot.press("N")
        await until_seen(pilot, "line 12 of the engine", "1 of 11")
        await pilot.press("slash", *"nowhere", "enter")
        await until_seen(pilot, "'nowhere' not found")
        await pilot.press("slash", "escape", "j", "k", "down", "up", "home", "end")
        await until_seen(pilot, "Traceback: boom")


async def test_log_shows_levels_and_one_line_for_cached_items(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 0)
    caching = [
        {"time": BEGAN + i, "type": "stage", "stage": "caching", "done": i, "total": 24}
        for i in range(1, 25)
    ]
    warning = {"time": BEGAN, "type": "warning", "message": "Low disk space. " * 12 + "The end."}
    write_events(folder, [*caching, warning])
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await go_to(pilot, "log")
        await until_seen(pilot, "caching 24 of 24", " W warning", "4 lines")
        assert "caching 23" not in screen_text(pilot.app)
        await pilot.press("w")
        await until_seen(pilot, "The end.")


async def test_clips_before_training_and_now_play_in_sync(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 20)
    for step in (0, 20):
        path = folder.path / f"samples/step-{step:06}/00.gif"
        path.parent.mkdir(parents=True)
        details = {
            "path": str(clip(path).relative_to(folder.path)),
            "prompt": "<V> woman runs",
            "seed": 7,
        }
        write_events(folder, [{"time": BEGAN + step, "type": "sample", "step": step, **details}])
    terminal = Terminal(Pictures.BLOCKS, tmux=False, colours="truecolor")
    async with Dashboard(terminal, runs_dir(), folder).run_test(size=SIZE) as pilot:
        await go_to(pilot, "samples")
        await until(pilot, lambda: screen_text(pilot.app).count("of 6, playing") == 2)
        looks: list[list[str]] = []
        for _ in range(12):
            await pilot.pause(0.13)
            looks.append(re.findall(r"(\d) of 6, playing", screen_text(pilot.app)))
        equal = [before for before, now in looks if before == now]
        assert len(equal) >= 10 and len(set(equal)) > 2, looks
        await pilot.press("b", "h")
        await until_seen(pilot, "step 20  ", "step 0, 1 of 2")
        await pilot.press("v")
        await until(pilot, lambda: screen_text(pilot.app).count("of 6, playing") == 2)
        await until_seen(pilot, " step 0  ", " step 20")
        await pilot.press("space", "full_stop")
        await until(pilot, lambda: screen_text(pilot.app).count("of 6, paused") == 2)
        left, right = re.findall(r"(\d) of 6, paused", screen_text(pilot.app))
        assert left == right
        await pilot.press("1")
        await until(pilot, lambda: "of 6, paused" not in screen_text(pilot.app))
        await pilot.press("3")
        await until(pilot, lambda: screen_text(pilot.app).count("of 6, paused") == 2)
        await pilot.press("escape")
        await until_seen(pilot, "step 0, 1 of 2")


async def test_help_lists_the_keys_of_the_current_pane_first(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 5)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await go_to(pilot, "log")
        await pilot.press("question_mark")
        await until_seen(
            pilot, "Keys", "Search in the log", "Save a checkpoint and stop the engine"
        )
        shown = screen_text(pilot.app)
        assert shown.index("Search in the log") < shown.index(
            "Save a checkpoint and stop the engine"
        )
        await pilot.press("escape")
        await until(pilot, lambda: "Search in the log" not in screen_text(pilot.app))


async def test_command_palette_lists_the_actions(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 5)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "step 5/400")
        await pilot.press("ctrl+p", *"checkpoint now")
        await until_seen(pilot, "Save a checkpoint now")
        await pilot.press("enter")
        await until(pilot, lambda: Request.CHECKPOINT in folder.take_requests())


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("zoom", "Zoom in"),
        ("exit", "Close the dashboard; runs continue"),
        ("resume", "Resume a paused, stopped or killed run"),
        ("export", "Save the curves as CSV and PNG"),
        ("compare", "Overlay another run"),
        ("delete", "Delete this identity and all its files"),
        ("go machine", "Show the machine"),
        ("ben-1", "Run: ben-1"),
    ],
)
async def test_command_palette_finds_standard_words(
    make_run: MakeRun, words: str, found: str
) -> None:
    make_run("ben-1", 5)
    async with dashboard(make_run("ada-1", 5)).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "step 5/400")
        await until(pilot, lambda: getattr(pilot.app, "summaries", None))
        await pilot.press("6", "ctrl+p", *words)
        await until_seen(pilot, found)


async def test_digits_open_the_panes_of_a_run(make_run: MakeRun) -> None:
    async with dashboard(make_run("ada-1", 5)).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "1 Overview", "step 5/400")
        await pilot.press("8")
        await until_seen(pilot, "model.family")
        await pilot.press("2")
        await until_seen(pilot, "SCR semantic loss")


@pytest.mark.parametrize(("width", "hidden"), [(80, "Export"), (160, "nothing")])
async def test_footer_shows_what_fits_and_applies(
    make_run: MakeRun, width: int, hidden: str
) -> None:
    folder = make_run("ada-1", 40, State.FINISHED)
    async with dashboard(folder).run_test(size=(width, 30)) as pilot:
        await until_seen(pilot, "step 40/400", "? Help", "q Close", "esc Back", "+- Zoom")
        await until(pilot, lambda: "Pause" not in screen_text(pilot.app))
        footer = screen_text(pilot.app).splitlines()[-1]
        assert len(footer) <= width and "Resume" not in footer and hidden not in footer


async def test_theme_is_selected_from_a_list_and_remembered(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 5)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "step 5/400")
        await pilot.press("T", *"nord", "enter")
        await until(pilot, lambda: pilot.app.theme == "nord" and read_theme() == "nord")
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until(pilot, lambda: pilot.app.theme == "nord")
    preferences_file().write_text("theme = 3")
    async with dashboard(folder).run_test(size=SIZE, notifications=True) as pilot:
        await until_seen(pilot, "Cannot restore the theme.")


async def test_settings_are_searched_and_marked_where_they_differ(make_run: MakeRun) -> None:
    async with dashboard(make_run("ada-1", 5)).run_test(size=SIZE) as pilot:
        await pilot.press("8")
        await until_seen(pilot, "1 of ", "settings differ from preset tiny", "model.family")
        await pilot.press("slash", *"training.iter")
        await until_seen(pilot, "1 of ", "● training.iterations", "400  preset: 140")
        assert "model.family" not in screen_text(pilot.app)
        await pilot.press("escape")
        await until_seen(pilot, "model.family")


async def test_headline_shows_smoothed_values_with_trends(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 100)
    write_events(folder, [step_event(101, icr=9.0)])
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "step 101/400")
        assert "ICR 9" not in screen_text(pilot.app)
        header = screen_text(pilot.app).splitlines()[0]
        assert re.search(r"ICR \d\.\d{3}[↑↓→]", header) and "SCR" in header and "loss" in header


async def test_progress_bar_is_updated_while_a_curve_is_enlarged(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 100)
    async with dashboard(folder).run_test(size=SIZE, notifications=True) as pilot:
        await until_seen(pilot, "25%", "━━━━━")
        await go_to(pilot, "curves")
        await pilot.press("z")
        await until(pilot, lambda: pilot.app.screen.maximized is not None)
        write_events(folder, [step_event(101)])
        write_status(folder, State.RUNNING, 120)
        screen = await until_screen(pilot, RunScreen)
        await until(
            pilot,
            lambda: screen.run_view.history.step == 101 and screen.run_view.summary.step == 120,
        )
        await pilot.press("E")
        await until(pilot, lambda: Path("ada-1.png").exists() and Path("ada-1.png").stat().st_size)
        await pilot.press("escape")
        await until_seen(pilot, "30%", "━━━━━")


async def test_escape_leaves_the_enlarged_clip_before_the_run(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 5)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await go_to(pilot, "samples")
        samples = await until_found(pilot, Samples, "#samples.pane")
        await pilot.press("z")
        await until(pilot, lambda: samples.enlarged)
        await pilot.press("escape")
        await until(pilot, lambda: not samples.enlarged)
        assert isinstance(pilot.app.screen, RunScreen)
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(pilot.app.screen, RunScreen))


async def test_exporting_again_creates_new_files(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 5)
    Path("ada-1.csv").write_text("mine")
    async with dashboard(folder).run_test(size=SIZE, notifications=True) as pilot:
        await until_seen(pilot, "step 5/400", "ICR 0.")
        await pilot.press("E")
        await until_seen(pilot, "Curves saved")
        assert Path("ada-1.csv").read_text() == "mine"
        assert Path("ada-1-curves-2.csv").stat().st_size


async def test_ended_run_has_no_pause_or_stop(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 400, State.FINISHED)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await until_seen(pilot, "✓ finished", "ICR")
        await until(
            pilot,
            lambda: (
                "p Pause" not in screen_text(pilot.app) and "S Stop" not in screen_text(pilot.app)
            ),
        )
        assert "live" not in screen_text(pilot.app)


async def test_log_of_ended_run_is_not_live(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 400, State.FINISHED)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await go_to(pilot, "log")
        await until_seen(pilot, "events, without steps and gauges", "2 lines")
        assert "live" not in screen_text(pilot.app)


async def test_stopping_a_paused_run_takes_effect_immediately(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 5, State.PAUSED)
    async with dashboard(folder).run_test(size=SIZE, notifications=True) as pilot:
        await until_seen(pilot, "‖ paused", "p Resume")
        await pilot.press("S")
        await until_seen(pilot, "ada-1 stops now.")


async def test_vim_keys_scroll_the_help(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 5)
    async with dashboard(folder).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "step 5/400")
        await pilot.press("question_mark")
        await until_screen(pilot, HelpScreen)
        scroll = await until_found(pilot, VerticalScroll)
        for key, reached in [("j", 1), ("k", 0), ("G", scroll.max_scroll_y), ("g", 0)]:
            await pilot.press(key)
            await until(pilot, lambda reached=reached: scroll.scroll_y == reached)


async def test_memory_is_drawn_from_zero_to_the_total(make_run: MakeRun) -> None:
    folder = make_run("ada-1", 20, devices=1)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        await go_to(pilot, "machine")
        await until_seen(pilot, "Memory 41.5 GiB")
        rows = [row[1:6].strip() for row in screen_text(pilot.app).splitlines()]
        assert "80" in rows and "0" in rows
