"""Compare screen and evaluation pane."""

import re
from pathlib import Path

from pvtool.dashboard.app import Dashboard
from pvtool.dashboard.screens.compare import CompareScreen
from pvtool.dashboard.screens.run import RunScreen
from pvtool.terminal import Pictures, Terminal
from pvtool_core.paths import runs_dir
from pvtool_core.settings.jobs import REPORT
from pvtool_core.store.evaluation_report import EVALUATION
from pvtool_core.store.liveness import State
from tests.support.run_files import BEGAN, MakeRun, scores_event, write_events, write_report
from tests.support.sample_data import clip
from tests.support.screen_text import dashboard, screen_text, until, until_screen, until_seen

SIZE = (130, 50)


async def test_selected_runs_are_compared_by_curves_settings_and_metrics(make_run: MakeRun) -> None:
    for name in ("ada-1", "ben-1", "cid-1"):
        folder = make_run(name, 60, State.STOPPED)
        write_events(folder, [scores_event(0), scores_event(50, 0.42)])
    write_report(folder)
    async with dashboard().run_test(size=SIZE, notifications=True) as pilot:
        await until_seen(pilot, "3 runs")
        await pilot.press("C")
        await until_seen(pilot, "Select two or more runs with space.")
        await pilot.press("space", "space", "C")
        await until_screen(pilot, CompareScreen)
        await until_seen(pilot, "A cid-1  B ben-1", "Likeness · cid-1 0.420 · ben-1 0.420")
        await until_seen(pilot, "likeness, latest  0.420", "identity.name", "0.420 [0.350, 0.490]")
        await pilot.press(*"jjj")
        await until_seen(pilot, "ICR identity loss · cid-1 0.6")
        write_events(folder, [scores_event(60, 0.5)])
        await pilot.press(*"kkk")
        await until_seen(pilot, "Likeness · cid-1 0.500 · ben-1 0.420")
        await pilot.press("escape")
        await until_seen(pilot, "2 selected")


async def test_samples_of_two_runs_play_side_by_side(make_run: MakeRun) -> None:
    for name, steps in (("ada-1", (0, 20)), ("ben-1", (0,)), ("cid-1", ())):
        folder = make_run(name, 60, State.STOPPED)
        for step in steps:
            path = folder.path / f"samples/step-{step:06}/00.gif"
            path.parent.mkdir(parents=True)
            clip(path)
            details = {"path": f"samples/step-{step:06}/00.gif", "prompt": "<V> runs", "seed": 7}
            sample = {"time": BEGAN + step, "type": "sample", "step": step, **details}
            write_events(folder, [sample])
    terminal = Terminal(Pictures.BLOCKS, tmux=False, colours="truecolor")
    async with Dashboard(terminal, runs_dir()).run_test(size=(100, 50)) as pilot:
        await until_seen(pilot, "3 runs")
        await pilot.press("A", "C")
        await until_screen(pilot, CompareScreen)
        await pilot.press("v")
        await until_seen(pilot, "ben-1, step 0", "ada-1, step 20", "cid-1: no samples")
        await until_seen(pilot, "<V> runs", "step 20, 2 of 2  runs 1 to 3 of 3")
        await pilot.press("h", "space", "full_stop")
        await until_seen(pilot, "ada-1, step 0")
        await until(pilot, lambda: screen_text(pilot.app).count("of 6, paused") == 2)
        left, right = re.findall(r"(\d) of 6, paused", screen_text(pilot.app))
        assert left == right
        await pilot.resize_terminal(60, 50)
        await until_seen(pilot, "runs 1 to 2 of 3")
        await pilot.press("J")
        await until_seen(pilot, "runs 2 to 3 of 3", "ada-1, step 0")
        await pilot.press("v")
        await until_seen(pilot, "ICR")


async def test_evaluation_of_a_run_appears_and_a_broken_report_is_reported(
    make_run: MakeRun,
) -> None:
    folder = make_run("ada-1", 60)
    async with dashboard(folder).run_test(size=SIZE) as pilot:
        screen = await until_screen(pilot, RunScreen)
        await until_seen(pilot, "Evaluation")
        screen.show_pane("evaluation")
        await until_seen(pilot, "No scores yet.", "Run `pv eval ada-1`.")
        write_events(folder, [scores_event(0), scores_event(50, 0.42), scores_event(60, 0.3)])
        folder.write_checkpoint(60, {"adapter.safetensors": b"weights"})
        await until_seen(pilot, "0.420 (+0.320)", "★ best", "saved")
        write_report(folder)
        await until_seen(pilot, "Alarm: adapter: the clips move less", "+0.320 [+0.250, +0.390]")
        await until_seen(pilot, "-0.020 [-0.090, +0.050] n.s.", "1 metric skipped")
        (folder.path / EVALUATION / REPORT).write_text("{}")
        await until_seen(pilot, "report.json of evaluation is unreadable")
        folder.path.joinpath(EVALUATION).rename(Path(folder.path, "old"))
        await until(pilot, lambda: screen.run_view.snapshot.evaluation_problem == "")
