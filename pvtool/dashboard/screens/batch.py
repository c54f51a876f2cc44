"""One batch of clips: how far it is and how fast, its engines, what failed, and the newest clips playing."""

import asyncio
import time
from math import inf

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, OptionList, Static

from pvtool.dashboard import keys
from pvtool.dashboard.clipboard import copy
from pvtool.dashboard.follow.batch import BatchFollower, BatchSnapshot, look_at
from pvtool.dashboard.follow.batch_history import ClipEvent
from pvtool.dashboard.run_actions import ActionsScreen, stop_batch
from pvtool.dashboard.widgets.batch_panels import (
    BatchProgress,
    BatchView,
    FailureList,
    Newest,
    Workers,
)
from pvtool.text import plain
from pvtool_core.batches.folder import BatchFolder, list_batches
from pvtool_core.paths import batches_dir

LOOK_SECONDS = 1.0
_PLAYED_SECONDS = 6.0  # a batch may make clips faster than anybody can look at them


class BatchScreen(ActionsScreen):
    """Follows one batch's folder, wherever its engines are, and shows it."""

    BINDINGS = keys.BATCH
    AUTO_FOCUS = ""

    def __init__(self, folder: BatchFolder) -> None:
        super().__init__()
        self.folder = folder
        self.known = BatchView(folder.path, BatchSnapshot(folder.name))
        self._turned_at = -inf

    def compose(self) -> ComposeResult:
        yield BatchProgress()
        yield Workers()
        yield Newest()
        yield FailureList()
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        self.run_worker(self._watch, group="watch", exit_on_error=False)

    def on_screen_resume(self) -> None:
        self.call_after_refresh(self._show)

    def on_resize(self) -> None:
        self._turned_at = -inf
        self.call_after_refresh(self._show)

    async def _watch(self) -> None:
        """Follow the batch for as long as the screen is there; a long history is shown now and then on the way."""
        follower = BatchFollower(self.folder)
        shown_at = -inf
        while True:
            self.known.seen = await asyncio.to_thread(look_at, self.folder)
            more = True
            while more:
                more = await self._read(follower)
                if not more or time.monotonic() - shown_at >= LOOK_SECONDS:
                    shown_at = time.monotonic()
                    self._show()
            await asyncio.sleep(LOOK_SECONDS)

    async def _read(self, follower: BatchFollower) -> bool:
        """Read on; whether there is more."""
        known = self.known
        try:
            _, more = await follower.read()
            known.trouble = ""
        except OSError as error:
            known.trouble, more = f"Cannot read events.jsonl: {error.strerror}.", False
        known.rendering, known.read = follower.rendering, known.read or not more
        known.rendering.expected, known.rendering.refused = known.seen.expected, known.seen.refused
        known.now = time.time() if known.seen.live else known.rendering.told
        return more

    def _show(self) -> None:
        if self.app.screen is not self:
            return
        self.query_one(BatchProgress).show(self.known)
        self.query_one(Workers).show(self.known)
        self.query_one(FailureList).show(self.known.rendering)
        if self.known.read and time.monotonic() - self._turned_at >= _PLAYED_SECONDS:
            self._turned_at = time.monotonic()
            newest = self.query_one(Newest)
            newest.show(self.known.rendering.newest(newest.room))

    def action_back(self) -> None:
        """Leave the list of failures, or else the batch."""
        if self.query_one(FailureList).has_focus:
            self.set_focus(None)
        else:
            self.app.pop_screen()

    def action_stop(self) -> None:
        self.act(lambda: stop_batch(self.folder))

    def action_failures(self) -> None:
        failures = self.query_one(FailureList)
        if not failures.display:
            self.notify("No clip of this batch failed.")
        self.set_focus(None if failures.has_focus or not failures.display else failures)

    def action_play(self) -> None:
        self.query_one(Newest).play()

    def action_copy_path(self) -> None:
        for told in self.known.rendering.newest(1):
            self.run_worker(copy(self, str(told.film)), group="copy", exit_on_error=False)

    async def action_other_batch(self, by: int) -> None:
        folders = await asyncio.to_thread(lambda: list_batches(batches_dir())[::-1])
        names = [folder.name for folder in folders]
        if self.folder.name in names and len(names) > 1:
            self.app.switch_screen(
                BatchScreen(folders[(names.index(self.folder.name) + by) % len(names)])
            )

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        for told in self.known.rendering.all_failures:
            if told.path == event.option.id:
                self.app.push_screen(ReasonScreen(told))
                return


class ReasonScreen(ModalScreen[None]):
    """All that is known of a clip that failed."""

    BINDINGS = keys.REASON
    DEFAULT_CSS = """
    ReasonScreen {
        align: center middle;
        VerticalScroll {
            width: 90%; max-width: 100; height: auto; max-height: 90%;
            border: round $error; background: $surface; padding: 0 2;
        }
    }
    """

    def __init__(self, told: ClipEvent) -> None:
        super().__init__()
        self._told = told

    def compose(self) -> ComposeResult:
        """The whole sentence, the clip it is about, and when it was."""
        told = self._told
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(told.time))
        with VerticalScroll() as scroll:
            scroll.border_title = Content(plain(told.who))
            scroll.border_subtitle = "esc closes"
            yield Static(Content.styled(plain(told.reason), "$text-error"))
            yield Static(
                Content("\n").join(
                    [Content(), Content(plain(told.prompt)), Content(plain(told.path))]
                )
            )
            if told.time:
                yield Static(Content.styled(when, "$text-muted"))
