"""Screen of one run: headline and panes, for live and ended runs."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, cast, runtime_checkable

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import ContentSwitcher, Tab, Tabs

from pvtool.dashboard import keys
from pvtool.dashboard.follow.run import RunSnapshot, RunView, references_of
from pvtool.dashboard.follow.run_history import RunHistory
from pvtool.dashboard.follow.tail import Tail
from pvtool.dashboard.run_actions import RunActionsScreen
from pvtool.dashboard.widgets.curves import (
    Curves,
    columns,
    likeness_or_third_loss,
    main_losses,
    panels,
)
from pvtool.dashboard.widgets.evaluation import EvaluationPane
from pvtool.dashboard.widgets.headline import Headline
from pvtool.dashboard.widgets.key_footer import KeyFooter
from pvtool.dashboard.widgets.machine import MachinePane, Memory
from pvtool.dashboard.widgets.plot import View
from pvtool.dashboard.widgets.prompt_bank import CurrentPrompt, PromptBank
from pvtool.dashboard.widgets.samples import Samples
from pvtool_core.errors import PvError, from_foreign
from pvtool_core.settings.jobs import flat_settings
from pvtool_core.settings.presets import Presets
from pvtool_core.store.evaluation_report import read_report, report_stamp
from pvtool_core.store.liveness import LIVE, State
from pvtool_core.store.runs import RunFolder, checkpoint_step
from pvtool_core.store.summary import RunSummary, job_of, summarize_run

if TYPE_CHECKING:
    from pvtool.dashboard.follow.all_runs import RunsApp

T = TypeVar("T")

POLL_SECONDS = 1.0
_REDRAW_SECONDS = 30.0


@runtime_checkable
class RunPanel(Protocol):
    """Widget that shows a run."""

    def show(self, run: RunView) -> None: ...


class Overview(Horizontal):
    """Overview: reward curves, the newest sample and the current prompt, as far as they fit."""

    DEFAULT_CSS = """
    Overview {
        #left { width: 3fr; }
        #right { width: 2fr; }
        #left Plot, #more Plot { min-height: 5; }
        Samples { height: 14vw; }
        CurrentPrompt { border-top: solid $panel; height: 3; }
    }
    """

    def __init__(self, view: View, gauges: View) -> None:
        super().__init__()
        self._view, self._gauges = view, gauges

    def compose(self) -> ComposeResult:
        with Vertical(id="left"):
            yield Curves(self._view, main_losses, classes="-few")
            yield CurrentPrompt()
        with Vertical(id="right"):
            yield Samples(classes="-small")
            with Vertical(id="more"):
                yield Curves(self._view, likeness_or_third_loss, classes="-few")
                yield Memory(self._gauges)

    def show(self, run: RunView) -> None:
        """Draw the visible parts."""
        for part in self.query("Curves, CurrentPrompt, Samples, Memory"):
            if isinstance(part, RunPanel) and (part.is_on_screen or part.region):
                part.show(run)


class RunScreen(RunActionsScreen):
    """Screen that follows a run folder, on whatever machine its engine runs."""

    BINDINGS = keys.RUN
    panes = keys.PANES
    DEFAULT_CSS = """
    RunScreen {
        Tabs { height: 2; }
        ContentSwitcher { height: 1fr; }
        .pane { height: 1fr; }
    }
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.folder = folder
        self.view, self.gauges = View(), View("time", weight=0.0)
        self.run_view = RunView(
            folder.path, RunSnapshot(RunSummary(run=folder.name, state=State.NEW)), RunHistory()
        )

    @property
    def dashboard(self) -> "RunsApp":
        return cast("RunsApp", self.app)

    def compose(self) -> ComposeResult:
        yield Headline()
        yield Tabs(
            *(
                Tab(f"{number} {name.capitalize()}", id=name)
                for number, name in enumerate(keys.PANES, 1)
            )
        )
        yield ContentSwitcher(id="panes")
        yield KeyFooter()

    def on_mount(self) -> None:
        self.run_worker(self._watch(), group="watch", exit_on_error=False)

    async def on_tabs_tab_activated(self, event: Tabs.TabActivated) -> None:
        await self._open_pane(str(event.tab.id))

    async def _open_pane(self, name: str) -> None:
        switcher = self.query_one("#panes", ContentSwitcher)
        if not switcher.query(f"#{name}"):
            pane = self._create_pane(name)
            pane.id = name
            pane.add_class("pane")
            await switcher.mount(pane)
        switcher.current = name
        self._show_pane()
        self.call_after_refresh(self._show_pane)  # some parts depend on their size
        self.call_after_refresh(self._focus_pane)

    def _create_pane(self, name: str) -> Widget:
        """Return a new pane, created when it is first opened."""
        match name:
            case "overview":
                return Overview(self.view, self.gauges)
            case "curves":
                return Curves(self.view)
            case "samples":
                return Samples()
            case "evaluation":
                return EvaluationPane()
            case "prompts":
                return PromptBank()
            case "machine":
                return MachinePane(self.gauges)
            case "log":
                from pvtool.dashboard.widgets.log import Log

                return Log()
            case _:
                from pvtool.dashboard.widgets.settings import SettingsPane

                return SettingsPane()

    def _focus_pane(self) -> None:
        """Focus the first widget of the current pane."""
        pane = self._current_pane()
        if pane is None:
            return
        focusable = [pane, *pane.query("*")]
        first = next((widget for widget in focusable if widget.focusable and widget.display), None)
        self.set_focus(first, scroll_visible=False)

    def _current_pane(self) -> Widget | None:
        return self.query_one("#panes", ContentSwitcher).visible_content

    def _show_pane(self) -> None:
        pane = self._current_pane()
        if isinstance(pane, RunPanel):
            pane.show(self.run_view)

    def _show(self) -> None:
        if self.app.screen is self:
            live = self.run_view.summary.state in {*LIVE, State.NEW}
            self.view.live = self.gauges.live = live
            self.query_one(Headline).show(self.run_view)
            self._show_pane()
            self.show_actions_for(self.run_view.summary.state)

    def on_screen_resume(self) -> None:
        self.call_after_refresh(self._show)

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    async def _watch(self) -> None:
        """Follow the run while the screen exists, and show changes.

        A long history is shown at intervals while it is read, elapsed times twice per minute.
        """
        follower = RunFollower(self.folder)
        polled_at = shown_at = -inf
        new = False
        while True:
            if time.monotonic() - polled_at >= POLL_SECONDS:
                polled_at = time.monotonic()
                new |= await self._poll() or polled_at - shown_at > _REDRAW_SECONDS
            new_events, more = await self._read(follower)
            new |= new_events
            self.run_view.loaded = self.run_view.loaded or not more
            self.run_view.history = follower.history
            if new and (not more or time.monotonic() - shown_at >= POLL_SECONDS):
                new, shown_at = False, time.monotonic()
                self._show()
            await asyncio.sleep(0 if more else POLL_SECONDS)

    async def _poll(self) -> bool:
        """Read the state of the run; return whether it changed."""
        run, before = self.run_view, self.run_view.snapshot
        run.snapshot = await asyncio.to_thread(_take_snapshot, self.folder, before)
        return run.snapshot != before

    async def _read(self, follower: "RunFollower") -> tuple[bool, bool]:
        before = self.run_view.read_error
        try:
            new, more = await follower.read()
            self.run_view.read_error = ""
        except OSError as error:
            self.run_view.read_error = f"Cannot read events.jsonl: {error.strerror}."
            new = more = False
        return new or self.run_view.read_error != before, more

    def show_pane(self, name: str) -> None:
        self.query_one(Tabs).active = name

    def selected_runs(self) -> list[RunFolder]:
        return [self.folder]

    def action_back(self) -> None:
        """Leave the enlarged clip, or else the run."""
        pane = self._current_pane()
        if isinstance(pane, Samples) and pane.enlarged:
            pane.action_enlarge()
        else:
            self.app.pop_screen()

    def action_pane(self, by: int) -> None:
        tabs = self.query_one(Tabs)
        index = keys.PANES.index(tabs.active) if tabs.active in keys.PANES else 0
        tabs.active = keys.PANES[(index + by) % len(keys.PANES)]

    def action_show_pane(self, name: str) -> None:
        self.show_pane(name)

    def action_other_run(self, by: int) -> None:
        names = [run.run for run in self.dashboard.summaries or []]
        if self.folder.name in names and len(names) > 1:
            other = names[(names.index(self.folder.name) + by) % len(names)]
            self.app.switch_screen(RunScreen(self.dashboard.runs.folder(other)))

    def action_overlay(self) -> None:
        """Overlay the next of the other runs, or none after the last."""
        names = [run.run for run in self.dashboard.summaries or [] if run.run != self.folder.name]
        choices = [*names, ""]
        current = self.run_view.overlay_name
        index = choices.index(current) if current in choices else -1
        name = choices[(index + 1) % len(choices)]
        self.run_view.overlay, self.run_view.overlay_name, self.run_view.overlay_job = (
            None,
            name,
            None,
        )
        self.workers.cancel_group(self, "overlay")
        if name:
            self.run_worker(
                self._follow_overlay(self.dashboard.runs.folder(name)),
                group="overlay",
                exit_on_error=False,
            )
        self._show()

    async def _follow_overlay(self, folder: RunFolder) -> None:
        follower = RunFollower(folder)
        self.run_view.overlay_job = await asyncio.to_thread(_or_none, lambda: job_of(folder))
        self._show()
        new = False
        while True:
            new_events, more = await self._read_overlay(follower)
            new |= new_events
            self.run_view.overlay = follower.history
            if new and not more:
                new = False
                self._show()
            await asyncio.sleep(0 if more else POLL_SECONDS)

    async def _read_overlay(self, follower: "RunFollower") -> tuple[bool, bool]:
        try:
            return await follower.read()
        except OSError:  # shown on the screen of the other run
            return False, False

    def action_export(self) -> None:
        self.run_worker(self._export(), exit_on_error=False)

    async def _export(self) -> None:
        from pvtool.dashboard.plot.export import new_files, write_csv, write_png

        try:
            with new_files(Path.cwd(), self.folder.name, (".csv", ".png")) as (table, picture):
                await asyncio.to_thread(write_csv, table, columns(self.run_view))
                await asyncio.to_thread(
                    write_png, picture, self.folder.name, panels(self.run_view), self.view
                )
        except OSError as error:
            self.notify(str(error), title="Cannot save the curves.", severity="error", markup=False)
        else:
            self.notify(f"{table}\n{picture}", title="Curves saved", markup=False)


class RunFollower:
    """Reader of the events of a run into a `RunHistory`.

    A truncated or replaced file starts a new history. Only the file is read in a thread: parsing a
    chunk takes milliseconds, and two threads would block each other.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.history = RunHistory()
        self._tail = Tail(folder.events)

    async def read(self) -> tuple[bool, bool]:
        """Read the next chunk. Raises OSError.

        Return whether new events were read and whether more follow.
        """
        chunk = await asyncio.to_thread(self._tail.read)
        events = chunk.events()
        if chunk.restarted:
            self.history = RunHistory()
        self.history.add(events)
        return bool(events) or chunk.restarted, chunk.more


def _take_snapshot(folder: RunFolder, before: RunSnapshot) -> RunSnapshot:
    """Read the state of a run; the evaluation only if its report has changed."""
    summary, job = summarize_run(folder), _or_none(lambda: job_of(folder))
    references = _or_none(lambda: references_of(job)) if job else None
    steps = _or_none(lambda: tuple(map(checkpoint_step, folder.checkpoint_folders())))
    now = RunSnapshot(
        summary,
        job,
        _or_none(folder.read_exit),
        references or (),
        steps or (),
        before.evaluation,
        before.evaluation_problem,
        report_stamp(folder),
        _or_none(lambda: preset_settings(job.preset)) if job else None,
    )
    if now.evaluation_stamp == before.evaluation_stamp:
        return now
    try:
        return replace(now, evaluation=read_report(folder), evaluation_problem="")
    except (PvError, OSError) as error:
        return replace(now, evaluation=None, evaluation_problem=from_foreign(error).message)


@lru_cache(maxsize=8)
def preset_settings(name: str) -> dict[str, str]:
    """Return the settings of a preset by name. Raises PvError without one of that name."""
    return flat_settings(Presets().get(name).settings())


def _or_none(read: Callable[[], T]) -> T | None:
    """Return the result, or None if it cannot be read, as the summary already has the problem."""
    try:
        return read()
    except (PvError, OSError):
        return None
