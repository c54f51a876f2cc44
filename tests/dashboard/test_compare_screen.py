"""Compare screen and evaluation pane."""

from pathlib import Path

from pvtool.dashboard.screens.compare import CompareScreen
from pvtool.dashboard.screens.run import RunScreen
from pvtool_core.settings.jobs import REPORT
from pvtool_core.store.evaluation_report import EVALUATION
from pvtool_core.store.liveness import State
from tests.support.run_files import MakeRun, scores_event, write_events, write_report
from tests.support.screen_text import dashboard, until, until_screen, until_seen

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
