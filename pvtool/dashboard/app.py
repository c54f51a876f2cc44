"""The application: its places, what is the same in all of them, and the look at all runs that feeds them."""

import asyncio
import gc
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.filter import LineFilter
from textual.notifications import SeverityLevel
from textual.reactive import var
from textual.screen import Screen
from textual.widget import Widget

from pvtool.dashboard import keys
from pvtool.dashboard.control_filter import ControlCharacterFilter
from pvtool.dashboard.driver import patient_driver
from pvtool.dashboard.follow.all_runs import Runs
from pvtool.dashboard.messages import OpenBatch, OpenRun
from pvtool.dashboard.run_actions import RunActionsScreen
from pvtool.terminal import Terminal
from pvtool_core.batches.folder import BatchFolder
from pvtool_core.paths import batches_dir
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import RunSummary

LOOK_SECONDS = 1.0
_HARMLESS = ControlCharacterFilter()
_ENDS: dict[State, tuple[str, SeverityLevel]] = {
    State.FINISHED: ("is finished", "information"),
    State.FAILED: ("failed", "error"),
    State.LOST: ("lost its engine", "error"),
}


def _runs() -> "Screen[None]":
    from pvtool.dashboard.screens.runs import RunsScreen

    return RunsScreen()


def _identities() -> "Screen[None]":
    from pvtool.dashboard.screens.identities import IdentitiesScreen

    return IdentitiesScreen()


def _prompts() -> "Screen[None]":
    from pvtool.dashboard.screens.prompts import PromptsScreen

    return PromptsScreen()


def _renders() -> "Screen[None]":
    from pvtool.dashboard.screens.renders import RendersScreen

    return RendersScreen()


class Dashboard(App[None]):
    """All runs, identities, prompts and batches of one data folder. `first` is the run or batch to begin with."""

    TITLE = "pv"
    BINDINGS = keys.APP
    MODES: ClassVar[dict[str, str | Callable[[], Screen[None]]]] = {
        "runs": _runs,
        "identities": _identities,
        "prompts": _prompts,
        "renders": _renders,
    }
    DEFAULT_MODE = "runs"
    CSS_PATH = "dashboard.tcss"
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 - declared so by Textual
        (0, "-narrow"),
        (110, "-wide"),
        (180, "-very-wide"),
    ]
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012 - likewise
        (0, "-low"),
        (34, "-high"),
    ]

    facts: var[list[RunSummary] | None] = var(None)

    def __init__(
        self, terminal: Terminal, root: Path, first: RunFolder | BatchFolder | None = None
    ) -> None:
        super().__init__(driver_class=patient_driver(terminal))
        self.terminal = terminal
        self.runs = Runs(root)
        self._first = first

    def get_line_filters(self) -> Sequence[LineFilter]:
        return (*super().get_line_filters(), _HARMLESS)

    def on_mount(self) -> None:
        if self.terminal.colours == "16":
            self.theme = "ansi-dark"  # other colours are rounded to the nearest of 16
        if isinstance(self._first, RunFolder):
            self.open(self._first)
        elif self._first:
            self.open_batch(self._first)
        self.look()
        self.call_after_refresh(
            gc.freeze
        )  # what Textual is made of stays; looking through it costs a frame

    @work(exclusive=True, exit_on_error=False)
    async def look(self) -> None:
        """See what all runs do, once a second."""
        trouble = ""
        while True:
            try:
                self.facts = await asyncio.to_thread(self.runs.look)
                trouble = ""
            except Exception as error:  # whatever it is, the next look may be better; say it once
                if str(error) != trouble:
                    trouble = str(error)
                    self.notify(
                        trouble, title="Cannot read the runs.", severity="error", markup=False
                    )
            await asyncio.sleep(LOOK_SECONDS)

    def watch_facts(self, before: list[RunSummary] | None, now: list[RunSummary] | None) -> None:
        """Tell of runs that ended since the last look."""
        states = {run.run: run.state for run in before or []}
        for run in now or []:
            if run.state in _ENDS and states.get(run.run, run.state) != run.state:
                words, severity = _ENDS[run.state]
                self.notify(
                    f"{run.run} {words} at step {run.step}.", severity=severity, markup=False
                )
                self.bell()

    def on_open_run(self, message: OpenRun) -> None:
        self.open(self.runs.folder(message.run))

    def open(self, folder: RunFolder) -> None:
        """Show one run, on top of the list of all."""
        from pvtool.dashboard.screens.run import RunScreen

        self.switch_mode("runs")
        if isinstance(self.screen, RunScreen):
            self.switch_screen(RunScreen(folder))
        else:
            self.push_screen(RunScreen(folder))

    def on_new_run(self) -> None:
        self.action_train()

    def on_open_batch(self, message: OpenBatch) -> None:
        self.open_batch(BatchFolder(batches_dir() / message.batch))

    def open_batch(self, folder: BatchFolder) -> None:
        """Show one batch, on top of the list of all."""
        from pvtool.dashboard.screens.batch import BatchScreen

        self.switch_mode("renders")
        if isinstance(self.screen, BatchScreen):
            self.switch_screen(BatchScreen(folder))
        else:
            self.push_screen(BatchScreen(folder))

    def action_go(self, place: str) -> None:
        if self.current_mode != place:
            self.switch_mode(place)
        while len(self.screen_stack) > 1:
            self.pop_screen()

    def action_train(self) -> None:
        """Fill in the form of a new run, and watch it."""
        from pvtool.dashboard.screens.new_run import StartScreen

        self.push_screen(StartScreen(), self._started)

    def _started(self, folder: RunFolder | None) -> None:
        if folder:
            self.open(folder)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the keys of this screen do, by name."""
        for group in _groups_of(screen):
            for binding in keys.GROUPS[group]:
                if isinstance(binding, Binding) and not binding.action.startswith(
                    "command_palette"
                ):
                    act = partial(self._run_there, screen, screen.focused, binding.action)
                    yield SystemCommand(
                        binding.tooltip, f"{group}, key {keys.shown(binding.key)}", act
                    )

        if isinstance(screen, RunActionsScreen):
            for pane in screen.panes:
                yield SystemCommand(
                    f"Pane: {pane}", "Show this pane of the run", partial(screen.show_pane, pane)
                )

    async def _run_there(self, screen: Screen[object], focused: Widget | None, action: str) -> None:
        for place in (focused, screen, self):
            if place and hasattr(place, f"action_{action.partition('(')[0].rpartition('.')[2]}"):
                await place.run_action(action)
                return

    def action_help(self) -> None:
        from pvtool.dashboard.screens.help import HelpScreen

        self.push_screen(HelpScreen(_groups_of(self.screen)))

    def action_save_screen(self) -> None:
        try:
            path = self.save_screenshot(path=str(Path.cwd()))
            self.notify(path, title="Saved this screen", markup=False)
        except OSError as error:
            self.notify(
                str(error), title="The screen is not saved.", severity="error", markup=False
            )


def _groups_of(screen: Screen[object]) -> list[str]:
    """The groups of keys that hold on this screen, the nearest to what has the focus first."""
    tables = [widget.BINDINGS for widget in (screen.focused, screen) if widget]
    return [
        name
        for table in [*tables, keys.APP]
        for name, group in keys.GROUPS.items()
        if group is table
    ]
