"""Screen of a batch of clips: progress, rate, workers, and all clips with the selected one."""

import asyncio
import time
from math import inf
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.widgets import Input, Static

from pvtool.dashboard import keys
from pvtool.dashboard.clipboard import copy
from pvtool.dashboard.follow.batch import (
    BatchFollower,
    BatchSnapshot,
    ListingFollower,
    take_snapshot,
)
from pvtool.dashboard.follow.batch_history import clip_label, playable_path
from pvtool.dashboard.follow.clip_order import Order, arrange
from pvtool.dashboard.run_actions import BatchActionsScreen
from pvtool.dashboard.system_player import open_in_player
from pvtool.dashboard.widgets.batch_panels import (
    BatchProgress,
    BatchView,
    Workers,
    group_digits,
)
from pvtool.dashboard.widgets.clip_list import ClipLines, ClipList
from pvtool.dashboard.widgets.clip_side import ClipSide, likeness_text
from pvtool.dashboard.widgets.key_footer import KeyFooter
from pvtool.text import plain
from pvtool_core.batches.folder import BatchFolder, list_batches
from pvtool_core.paths import batches_dir
from pvtool_core.store.events import ClipEvent

POLL_SECONDS = 1.0
_CLIP_SECONDS = 6.0  # minimum time that the newest clip of a live batch is shown
_MOVE_SECONDS = 0.12  # a key that repeats moves over many clips


class BatchScreen(BatchActionsScreen):
    """Screen that follows the folder of a batch, on whatever machine its workers run.

    While the newest clip at the top is selected, newer ones replace it.
    """

    BINDINGS = keys.BATCH
    AUTO_FOCUS = "ClipLines"
    DEFAULT_CSS = """
    BatchScreen {
        #clips { height: 1fr; }
        #list { width: 3fr; }
        ClipSide { width: 2fr; border-top: solid $panel; }
        #filter { display: none; background: $boost; margin: 0 1; }
        #filter.-shown { display: block; }
        &.-enlarged #list { display: none; }
        &.-narrow #list { width: 5fr; }
        &.-narrow ClipSide { width: 3fr; }
    }
    """

    def __init__(self, folder: BatchFolder) -> None:
        super().__init__()
        self.folder = folder
        self.batch_view = BatchView(folder.path, BatchSnapshot(folder.name))
        self._order, self._failed_only = Order.NEWEST, False
        self._arranged: tuple[object, tuple[Order, tuple[str, ...], bool]] | None = None
        self._played_at = -inf
        self._timer: Timer | None = None

    def compose(self) -> ComposeResult:
        yield BatchProgress()
        yield Workers()
        with Horizontal(id="clips"):
            with Vertical(id="list"):
                yield ClipList()
                yield Input(id="filter", compact=True, placeholder="filter words")
            yield ClipSide()
        yield KeyFooter()

    def on_mount(self) -> None:
        self.run_worker(self._watch, group="watch", exit_on_error=False)

    def on_screen_resume(self) -> None:
        self.call_after_refresh(self._show)

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    async def _watch(self) -> None:
        """Follow the batch while the screen exists; show long histories at intervals on the way."""
        follower, listing = BatchFollower(self.folder), ListingFollower(self.folder)
        shown_at = -inf
        while True:
            self.batch_view.snapshot = await asyncio.to_thread(take_snapshot, self.folder)
            self.batch_view.listing = await asyncio.to_thread(listing.read)
            more = True
            while more:
                more = await self._read(follower)
                if not more or time.monotonic() - shown_at >= POLL_SECONDS:
                    shown_at = time.monotonic()
                    self._show()
            await asyncio.sleep(POLL_SECONDS)

    async def _read(self, follower: BatchFollower) -> bool:
        """Read the next events; return whether more can be read."""
        batch, snapshot = self.batch_view, self.batch_view.snapshot
        try:
            _, more = await follower.read()
            batch.read_error = ""
        except OSError as error:
            batch.read_error, more = f"Cannot read events.jsonl: {error.strerror}.", False
        batch.history, batch.loaded = follower.history, batch.loaded or not more
        batch.history.expected, batch.history.refused = snapshot.expected, snapshot.refused
        batch.now = time.time() if snapshot.live else batch.history.last_update
        return more

    def _show(self) -> None:
        if self.app.screen is not self:
            return
        self.query_one(BatchProgress).show(self.batch_view)
        self.query_one(Workers).show(self.batch_view)
        if self.batch_view.loaded:
            self._show_clips()

    def _show_clips(self) -> None:
        """List the clips if they, their order or the filter changed."""
        history, listing, lines = self.batch_view.history, self.batch_view.listing, self._lines
        words = tuple(self.query_one("#filter", Input).value.split())
        state = (history, history.changes, history.refused, listing, lines.size)
        wanted = (self._order, words, self._failed_only)
        if (state, wanted) == self._arranged:
            return
        before = self._arranged
        same_order = before is not None and before[1][::2] == wanted[::2]
        stay = same_order and (self._order is not Order.NEWEST or lines.cursor > 0)
        self._arranged = (state, wanted)
        clips = arrange(history, listing, *wanted)
        count = group_digits(len(clips))
        total = group_digits(history.total)
        title = f" {count if count == total else f'{count} of {total}'} clips, "
        title += f"{'failed only, ' if self._failed_only else ''}{self._order} "
        empty = "No matching clips." if words or self._failed_only else "No clips yet."
        self.query_one(ClipList).show(clips, listing, title, empty, stay)

    @property
    def _lines(self) -> ClipLines:
        return self.query_one(ClipLines)

    def on_clip_lines_highlighted(self, event: ClipLines.Highlighted) -> None:
        """Play the selected clip: soon if the cursor moved, otherwise at intervals."""
        wait = _MOVE_SECONDS
        if not event.moved:
            wait = max(0.0, self._played_at + _CLIP_SECONDS - time.monotonic())
        if self._timer:
            self._timer.stop()
        self._timer = self.set_timer(max(wait, 0.001), self._play_selected)

    def _play_selected(self) -> None:
        if self._lines.selected:
            self._played_at = time.monotonic()
        self.query_one(ClipSide).show(self._selected_clip)

    def on_clip_lines_opened(self, event: ClipLines.Opened) -> None:
        self.app.push_screen(ClipScreen(self.batch_view.snapshot.located(event.clip)))

    def action_back(self) -> None:
        """Show the list again, or clear the filter, or else leave the batch."""
        box = self.query_one("#filter", Input)
        if self.has_class("-enlarged"):
            self.remove_class("-enlarged")
            self._lines.focus()
        elif box.has_class("-shown"):
            box.remove_class("-shown").clear()
            self._lines.focus()
        else:
            self.app.pop_screen()

    def action_filter(self) -> None:
        self.query_one("#filter").add_class("-shown").focus()

    @on(Input.Changed, "#filter")
    def apply_filter(self) -> None:
        """List the clips that match the filter."""
        self._show_clips()

    @on(Input.Submitted, "#filter")
    def leave_filter(self) -> None:
        """Focus the matching clips."""
        self._lines.focus()

    def selected_batch(self) -> BatchFolder:
        """Return this batch."""
        return self.folder

    def selected_identity(self) -> str:
        """Return the first identity of this batch."""
        return next(iter(self.batch_view.listing.identities), "")

    def action_failures(self) -> None:
        if not (self._failed_only or self.batch_view.history.failed):
            self.notify("No failed clips in this batch.")
            return
        self._failed_only = not self._failed_only
        self._show_clips()

    def action_likeness(self) -> None:
        if self.batch_view.history.mean_likeness is None:
            self.notify("No clip of this batch has a measured likeness.")
            return
        by_likeness = self._order is Order.LIKENESS
        self._order = Order.NEWEST if by_likeness else Order.LIKENESS
        self._show_clips()

    def action_order(self) -> None:
        orders = list(Order)
        self._order = orders[(orders.index(self._order) + 1) % len(orders)]
        self._show_clips()

    def action_play(self) -> None:
        player = self.query_one(ClipSide).player
        player.playing = not player.playing

    def action_frame(self, by: int) -> None:
        self.query_one(ClipSide).player.frame(by)

    def action_enlarge(self) -> None:
        self.toggle_class("-enlarged")

    def action_open_file(self) -> None:
        if path := self._selected_path():
            self.run_worker(open_in_player(self, path), group="open", exit_on_error=False)

    def action_copy_path(self) -> None:
        if path := self._selected_path():
            self.run_worker(copy(self, str(path)), group="copy", exit_on_error=False)

    def _selected_path(self) -> Path | None:
        clip = self._selected_clip
        return playable_path(clip) if clip and clip.identity else None

    @property
    def _selected_clip(self) -> ClipEvent | None:
        clip = self._lines.selected
        return self.batch_view.snapshot.located(clip) if clip else None

    async def action_other_batch(self, by: int) -> None:
        folders = await asyncio.to_thread(lambda: list_batches(batches_dir())[::-1])
        names = [folder.name for folder in folders]
        if self.folder.name in names and len(names) > 1:
            self.app.switch_screen(
                BatchScreen(folders[(names.index(self.folder.name) + by) % len(names)])
            )


class ClipScreen(ModalScreen[None]):
    """Dialog with the details of a clip: the reason of its failure, or its likeness."""

    BINDINGS = keys.DETAILS
    DEFAULT_CSS = """
    ClipScreen {
        align: center middle;
        VerticalScroll {
            width: 90%; max-width: 100; height: auto; max-height: 90%;
            border: round $primary; background: $surface; padding: 0 2;
        }
        &.-failed VerticalScroll { border: round $error; }
    }
    """

    def __init__(self, clip: ClipEvent) -> None:
        super().__init__(classes="-failed" if clip.reason else "")
        self._clip = clip

    def compose(self) -> ComposeResult:
        """Yield the reason or the likeness, the prompt, path and time."""
        clip = self._clip
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(clip.time))
        with VerticalScroll() as scroll:
            scroll.border_title = Content(plain(clip_label(clip)))
            scroll.border_subtitle = "esc closes"
            if clip.reason:
                yield Static(Content.styled(plain(clip.reason), "$text-error"))
            if clip.likeness:
                yield Static(Content(_likeness_details(clip)))
            yield Static(
                Content("\n").join(
                    [Content(), Content(plain(clip.prompt)), Content(plain(clip.path))]
                )
            )
            if clip.time:
                yield Static(Content.styled(when, "$text-muted"))


def _likeness_details(clip: ClipEvent) -> str:
    """Return the likeness of a clip, and how it was measured."""
    found = clip.likeness
    if not found:
        return ""
    with_face = "" if found.found is None else f"  {found.found:.2f} over frames with a face"
    measured = f"measured on {found.frames} frames by {found.recognizer}"
    return "\n".join(map(plain, (f"{likeness_text(clip)}{with_face}", measured)))
