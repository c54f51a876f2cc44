"""Screen that compares runs: curves or samples, results, settings and evaluations."""

import asyncio
from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal, ScrollableContainer
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from pvtool.dashboard import keys
from pvtool.dashboard.aligned_rows import aligned_rows
from pvtool.dashboard.follow.run_history import SAMPLES, RunHistory
from pvtool.dashboard.plot.paint import LETTERS
from pvtool.dashboard.plot.series import Series
from pvtool.dashboard.run_actions import ActionsScreen
from pvtool.dashboard.screens.run import RunFollower
from pvtool.dashboard.widgets.choices import Choices
from pvtool.dashboard.widgets.curves import all_curves
from pvtool.dashboard.widgets.key_footer import KeyFooter
from pvtool.dashboard.widgets.plot import Curve, Plot, View
from pvtool.dashboard.widgets.run_samples import RunSamples
from pvtool.jobs.run_comparison import Rows, RunComparison, compare_runs
from pvtool.text import plain
from pvtool_core.settings.objectives import DEFAULT_OBJECTIVE, OBJECTIVES, LossInfo
from pvtool_core.store.liveness import LIVE
from pvtool_core.store.runs import RunFolder

_POLL_SECONDS = 2.0


class CompareScreen(ActionsScreen):
    """A curve of several runs, or their samples, above tables of their differences."""

    BINDINGS = keys.COMPARE
    AUTO_FOCUS = "#curves"
    DEFAULT_CSS = """
    CompareScreen {
        #runs { height: 1; padding: 0 1; background: $panel; text-overflow: ellipsis; }
        #top { height: 1fr; }
        #curves { width: 26; height: 100%; padding: 1 1 0 1; }
        #curves { text-wrap: nowrap; text-overflow: ellipsis; scrollbar-gutter: stable; }
        #plot { width: 1fr; }
        #samples { height: 2fr; display: none; }
        &.-samples #samples { display: block; }
        &.-samples #top { display: none; }
        #tables { height: 1fr; padding: 0 1; border-top: solid $panel; }
        #text { width: auto; }
        &.-narrow #curves { width: 20; }
    }
    """

    def __init__(self, folders: Sequence[RunFolder]) -> None:
        super().__init__()
        self._followers = {folder.name: RunFollower(folder) for folder in folders}
        self._folders = list(folders)
        self._comparison: RunComparison | None = None
        self._infos: dict[str, LossInfo] = {}
        self._plots: dict[str, Plot] = {}
        self.view = View()

    def compose(self) -> ComposeResult:
        yield Static(id="runs")
        with Horizontal(id="top"):
            yield Choices(id="curves")
            yield Horizontal(id="plot")
        yield RunSamples(self._folders, id="samples")
        with ScrollableContainer(id="tables", can_focus=True):
            yield Static("Reading…", id="text", markup=False)
        yield KeyFooter()

    def on_mount(self) -> None:
        names = [
            f"{LETTERS[i % len(LETTERS)]} {plain(run.name)}" for i, run in enumerate(self._folders)
        ]
        line = Content.assemble((" Compare ", "bold $text-accent"), "  ".join(names))
        self.query_one("#runs", Static).update(line)
        self.run_worker(self._follow(), exit_on_error=False)
        self.run_worker(self._compare(), exit_on_error=False)

    @property
    def histories(self) -> dict[str, RunHistory]:
        return {name: follower.history for name, follower in self._followers.items()}

    async def _follow(self) -> None:
        """Read all runs while the screen exists, and draw new values."""
        while True:
            new = more = False
            for follower in self._followers.values():
                changed, unread = await _read(follower)
                new, more = new or changed, more or unread
            if new and not more:
                self._list_curves()
                self._draw()
                self.query_one(RunSamples).show(self.histories)
            await asyncio.sleep(0 if more else _POLL_SECONDS)

    async def _compare(self) -> None:
        """Read settings, results and reports while the screen exists."""
        while True:
            now = await asyncio.to_thread(compare_runs, self._folders)
            if now != self._comparison:
                self._comparison = now
                self.view.live = any(run.state in LIVE for run in now.runs)
                self._show_tables(now)
            await asyncio.sleep(_POLL_SECONDS)

    def _list_curves(self) -> None:
        """List the curves that any of the runs has, those of samples first."""
        names = dict.fromkeys(name for each in self.histories.values() for name in each.curves)
        known = all_curves(OBJECTIVES[DEFAULT_OBJECTIVE], names)
        ordered = sorted(known, key=lambda name: not name.startswith(SAMPLES))
        infos = {name: known[name] for name in ordered if name in names}
        if infos == self._infos:
            return
        self._infos = infos
        options = [Option(info.label or info.title, id=name) for name, info in infos.items()]
        self.query_one(Choices).fill(options)

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self._draw()

    def _draw(self) -> None:
        """Draw the selected curve of each run; each curve has a plot of its own."""
        name = self.query_one(Choices).selected_id
        if name is None or name not in self._infos:
            return
        if name not in self._plots:
            info = self._infos[name]
            self._plots[name] = Plot(info.title, self.view, info.bounds)
            self.query_one("#plot", Horizontal).mount(self._plots[name])
        for shown, plot in self._plots.items():
            plot.display = shown == name
        curves = [  # runs without the curve keep their letter and colour
            Curve(run, history.curves.get(name) or Series(exact=True))
            for run, history in self.histories.items()
        ]
        self._plots[name].show(curves)

    def _show_tables(self, compared: RunComparison) -> None:
        runs = [run.run for run in compared.runs]
        lines = [
            *_section("Results", runs, compared.results()),
            *_section("Different settings", runs, compared.settings),
            *_section("Evaluation", runs, compared.evaluated()),
        ]
        if not compared.metrics:
            lines += [
                Content.styled(f"Not evaluated. Run `pv eval {' '.join(runs)}`.", "$text-muted")
            ]
        lines += [
            Content.styled(f"Alarm: {plain(each)}", "$text-warning") for each in compared.alarms
        ]
        self.query_one("#text", Static).update(Content("\n").join(lines))

    def action_samples(self) -> None:
        """Show the samples of the runs instead of the curves, or the curves again."""
        self.toggle_class("-samples")
        shown = "#samples" if self.has_class("-samples") else "#curves"
        self.query_one(shown).focus()

    def action_back(self) -> None:
        self.app.pop_screen()


async def _read(follower: RunFollower) -> tuple[bool, bool]:
    try:
        return await follower.read()
    except OSError:  # shown on the screen of the run
        return False, False


def _section(heading: str, runs: Sequence[str], rows: Rows) -> list[Content]:
    """Return a table with a column for each run; nothing without rows."""
    if not rows:
        return []
    cells = [[name, *values] for name, values in rows.items()]
    title = Content.styled(heading, "bold $text-accent")
    return [title, *aligned_rows(["", *runs], cells), Content()]
