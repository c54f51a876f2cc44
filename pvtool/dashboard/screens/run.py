"""One run: its headline, and panes that show what is known of it, live or long finished."""

import asyncio
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, cast, runtime_checkable

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import ContentSwitcher, Footer, Tab, Tabs

from pvtool.dashboard import keys
from pvtool.dashboard.follow.run import RunSnapshot, RunView, references_of
from pvtool.dashboard.follow.run_history import RunHistory
from pvtool.dashboard.follow.tail import Tail
from pvtool.dashboard.run_actions import RunActionsScreen
from pvtool.dashboard.widgets.curves import Curves, columns, main_losses, panels, third_loss
from pvtool.dashboard.widgets.headline import Headline
from pvtool.dashboard.widgets.machine import MachinePane, Memory
from pvtool.dashboard.widgets.plot import View
from pvtool.dashboard.widgets.prompt_bank import CurrentPrompt, PromptBank
from pvtool.dashboard.widgets.samples import Samples
from pvtool_core.errors import PvError
from pvtool_core.store.liveness import LIVE, State
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import RunSummary, job_of, summarize_run

if TYPE_CHECKING:
    from pvtool.dashboard.follow.all_runs import FollowsRuns

T = TypeVar("T")

LOOK_SECONDS = 1.0
_SHOW_SECONDS = 30.0
_PANES = ("overview", "curves", "samples", "prompts", "machine", "log", "settings")


@runtime_checkable
class Shows(Protocol):
    """A part of the screen that is drawn from what is known."""

    def show(self, known: RunView) -> None: ...


class Overview(Horizontal):
    """The rewards, the newest sample and the prompt at hand, as far as there is room."""

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
                yield Curves(self._view, third_loss, classes="-few")
                yield Memory(self._gauges)

    def show(self, known: RunView) -> None:
        """Draw the parts that have room."""
        for part in self.query("Curves, CurrentPrompt, Samples, Memory"):
            if isinstance(part, Shows) and (part.is_on_screen or part.region):
                part.show(known)


class RunScreen(RunActionsScreen):
    """Follows one run folder, wherever its engine is, and shows it."""

    BINDINGS = keys.RUN
    panes = _PANES
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
        self.known = RunView(
            folder.path, RunSnapshot(RunSummary(run=folder.name, state=State.NEW)), RunHistory()
        )

    @property
    def dashboard(self) -> "FollowsRuns":
        return cast("FollowsRuns", self.app)

    def compose(self) -> ComposeResult:
        yield Headline()
        yield Tabs(*(Tab(name.capitalize(), id=name) for name in _PANES))
        yield ContentSwitcher(id="panes")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        self.run_worker(self._watch(), group="watch", exit_on_error=False)

    async def on_tabs_tab_activated(self, event: Tabs.TabActivated) -> None:
        await self._open_pane(str(event.tab.id))

    async def _open_pane(self, name: str) -> None:
        switcher = self.query_one("#panes", ContentSwitcher)
        if not switcher.query(f"#{name}"):
            pane = self._pane(name)
            pane.id = name
            pane.add_class("pane")
            await switcher.mount(pane)
        switcher.current = name
        self._show_pane()
        self.call_after_refresh(
            self._show_pane
        )  # some parts are drawn by the room that they then have
        self.call_after_refresh(self._focus_pane)

    def _pane(self, name: str) -> Widget:
        """The pane of that name; made when it is first looked at."""
        match name:
            case "overview":
                return Overview(self.view, self.gauges)
            case "curves":
                return Curves(self.view)
            case "samples":
                return Samples()
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
        """Give the keys to the pane that is looked at."""
        pane = self._current()
        if pane is None:
            return
        focusable = [pane, *pane.query("*")]
        first = next((widget for widget in focusable if widget.focusable and widget.display), None)
        self.set_focus(first, scroll_visible=False)

    def _current(self) -> Widget | None:
        return self.query_one("#panes", ContentSwitcher).visible_content

    def _show_pane(self) -> None:
        pane = self._current()
        if isinstance(pane, Shows):
            pane.show(self.known)

    def _show(self) -> None:
        if self.app.screen is self:
            live = self.known.facts.state in {*LIVE, State.NEW}
            self.view.live = self.gauges.live = live
            self.query_one(Headline).show(self.known)
            self._show_pane()
            self.offer_for(self.known.facts.state)

    def on_screen_resume(self) -> None:
        self.call_after_refresh(self._show)

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    async def _watch(self) -> None:
        """Follow the run for as long as the screen is there, and show it when there is something new.

        A long history is shown now and then while it is read; what time alone changes, twice a minute.
        """
        follower = Follower(self.folder)
        looked_at = shown_at = -inf
        new = False
        while True:
            if time.monotonic() - looked_at >= LOOK_SECONDS:
                looked_at = time.monotonic()
                new |= await self._look() or looked_at - shown_at > _SHOW_SECONDS
            told, more = await self._read(follower)
            new |= told
            self.known.read = self.known.read or not more
            self.known.history = follower.history
            if new and (not more or time.monotonic() - shown_at >= LOOK_SECONDS):
                new, shown_at = False, time.monotonic()
                self._show()
            await asyncio.sleep(0 if more else LOOK_SECONDS)

    async def _look(self) -> bool:
        """See how the run is; whether it is otherwise than before."""
        known, before = self.known, self.known.seen
        known.seen = await asyncio.to_thread(_look_at, self.folder)
        return known.seen != before

    async def _read(self, follower: "Follower") -> tuple[bool, bool]:
        before = self.known.trouble
        try:
            new, more = await follower.read()
            self.known.trouble = ""
        except OSError as error:
            self.known.trouble = f"Cannot read events.jsonl: {error.strerror}."
            new = more = False
        return new or self.known.trouble != before, more

    def show_pane(self, name: str) -> None:
        self.query_one(Tabs).active = name

    def run_at_hand(self) -> RunFolder | None:
        return self.folder

    def action_back(self) -> None:
        """Leave the enlarged clip, or else the run."""
        pane = self._current()
        if isinstance(pane, Samples) and pane.alone:
            pane.action_enlarge()
        else:
            self.app.pop_screen()

    def action_pane(self, by: int) -> None:
        tabs = self.query_one(Tabs)
        at = _PANES.index(tabs.active) if tabs.active in _PANES else 0
        tabs.active = _PANES[(at + by) % len(_PANES)]

    def action_other_run(self, by: int) -> None:
        names = [run.run for run in self.dashboard.facts or []]
        if self.folder.name in names and len(names) > 1:
            other = names[(names.index(self.folder.name) + by) % len(names)]
            self.app.switch_screen(RunScreen(self.dashboard.runs.folder(other)))

    def action_overlay(self) -> None:
        """Lay the next of the other runs over this one, or none after the last."""
        names = [run.run for run in self.dashboard.facts or [] if run.run != self.folder.name]
        wanted = [*names, ""]
        at = wanted.index(self.known.overlay_name) if self.known.overlay_name in wanted else -1
        name = wanted[(at + 1) % len(wanted)]
        self.known.overlay, self.known.overlay_name, self.known.overlay_job = None, name, None
        self.workers.cancel_group(self, "overlay")
        if name:
            self.run_worker(
                self._lay_over(self.dashboard.runs.folder(name)),
                group="overlay",
                exit_on_error=False,
            )
        self._show()

    async def _lay_over(self, folder: RunFolder) -> None:
        follower = Follower(folder)
        self.known.overlay_job = (await asyncio.to_thread(_look_at, folder)).job
        self._show()
        new = False
        while True:
            told, more = await self._read_other(follower)
            new |= told
            self.known.overlay = follower.history
            if new and not more:
                new = False
                self._show()
            await asyncio.sleep(0 if more else LOOK_SECONDS)

    async def _read_other(self, follower: "Follower") -> tuple[bool, bool]:
        try:
            return await follower.read()
        except OSError:  # the other run's own screen says so
            return False, False

    def action_export(self) -> None:
        self.run_worker(self._export(), exit_on_error=False)

    async def _export(self) -> None:
        from pvtool.dashboard.plot.export import new_files, write_csv, write_png

        try:
            with new_files(Path.cwd(), self.folder.name, (".csv", ".png")) as (table, picture):
                await asyncio.to_thread(write_csv, table, columns(self.known))
                await asyncio.to_thread(
                    write_png, picture, self.folder.name, panels(self.known), self.view
                )
        except OSError as error:
            self.notify(
                str(error), title="The curves are not saved.", severity="error", markup=False
            )
        else:
            self.notify(f"{table}\n{picture}", title="Saved the curves", markup=False)


class Follower:
    """Reads a run's events, piece by piece, into a history; a file that begins anew makes a new one.

    Only the file is read in a thread: a piece is parsed in milliseconds, and two threads would hold each other up.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.history = RunHistory()
        self._tail = Tail(folder.events)

    async def read(self) -> tuple[bool, bool]:
        """Take in the next piece; whether there was something new, and whether there is more. Raises OSError."""
        chunk = await asyncio.to_thread(self._tail.read)
        events = chunk.events()
        if chunk.anew:
            self.history = RunHistory()
        self.history.add(events)
        return bool(events) or chunk.anew, chunk.more


def _look_at(folder: RunFolder) -> RunSnapshot:
    facts, job = summarize_run(folder), _or_none(lambda: job_of(folder))
    references = _or_none(lambda: references_of(job)) if job else None
    return RunSnapshot(facts, job, _or_none(folder.read_exit), references or ())


def _or_none(read: Callable[[], T]) -> T | None:
    """What cannot be read is in the facts' `problem` already."""
    try:
        return read()
    except (PvError, OSError):
        return None
