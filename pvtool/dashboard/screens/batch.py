"""Screen of a batch of clips: progress, rate, workers, failures, and the newest clips."""

import asyncio
import time
from math import inf

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static

from pvtool.dashboard import keys
from pvtool.dashboard.clipboard import copy
from pvtool.dashboard.follow.batch import BatchFollower, BatchSnapshot, take_snapshot
from pvtool.dashboard.follow.batch_history import clip_label, playable_path
from pvtool.dashboard.run_actions import ActionsScreen, stop_batch
from pvtool.dashboard.widgets.batch_panels import (
    BatchProgress,
    BatchView,
    FailureList,
    LikenessList,
    NewestClips,
    Workers,
    likeness_text,
)
from pvtool.dashboard.widgets.key_footer import KeyFooter
from pvtool.text import plain
from pvtool_core.batches.folder import BatchFolder, list_batches
from pvtool_core.paths import batches_dir
from pvtool_core.store.events import ClipEvent

POLL_SECONDS = 1.0
_CLIP_SECONDS = 6.0  # minimum time that a clip is shown


class BatchScreen(ActionsScreen):
    """Screen that follows the folder of a batch, on whatever machine its workers run."""

    BINDINGS = keys.BATCH
    AUTO_FOCUS = ""

    def __init__(self, folder: BatchFolder) -> None:
        super().__init__()
        self.folder = folder
        self.batch_view = BatchView(folder.path, BatchSnapshot(folder.name))
        self._clips_changed_at = -inf

    def compose(self) -> ComposeResult:
        yield BatchProgress()
        yield Workers()
        yield NewestClips()
        yield FailureList()
        yield LikenessList()
        yield KeyFooter()

    def on_mount(self) -> None:
        self.run_worker(self._watch, group="watch", exit_on_error=False)

    def on_screen_resume(self) -> None:
        self.call_after_refresh(self._show)

    def on_resize(self) -> None:
        self._clips_changed_at = -inf
        self.call_after_refresh(self._show)

    async def _watch(self) -> None:
        """Follow the batch while the screen exists; show long histories at intervals on the way."""
        follower = BatchFollower(self.folder)
        shown_at = -inf
        while True:
            self.batch_view.snapshot = await asyncio.to_thread(take_snapshot, self.folder)
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
        self.query_one(FailureList).show(self.batch_view.history)
        self.query_one(LikenessList).show(self.batch_view.history)
        if self.batch_view.loaded and time.monotonic() - self._clips_changed_at >= _CLIP_SECONDS:
            self._clips_changed_at = time.monotonic()
            newest = self.query_one(NewestClips)
            newest.show(self.batch_view.history.newest(newest.capacity))

    def action_back(self) -> None:
        """Leave the list of failures or close that of likeness, or else leave the batch."""
        if self.query_one(LikenessList).has_class("-open"):
            self.action_likeness()
        elif self.query_one(FailureList).has_focus:
            self.set_focus(None)
        else:
            self.app.pop_screen()

    def action_stop(self) -> None:
        self.perform(lambda: stop_batch(self.folder))

    def action_failures(self) -> None:
        failures = self.query_one(FailureList)
        if not failures.display:
            self.notify("No failed clips in this batch.")
        self.set_focus(None if failures.has_focus or not failures.display else failures)

    def action_likeness(self) -> None:
        clips = self.query_one(LikenessList)
        is_open = clips.has_class("-open")
        if not (is_open or clips.option_count):
            self.notify("No clip of this batch has a measured likeness.")
            return
        clips.set_class(not is_open, "-open")
        self.set_focus(None if is_open else clips)

    def action_play(self) -> None:
        self.query_one(NewestClips).play()

    def action_copy_path(self) -> None:
        for clip in self.batch_view.history.newest(1):
            self.run_worker(copy(self, str(playable_path(clip))), group="copy", exit_on_error=False)

    async def action_other_batch(self, by: int) -> None:
        folders = await asyncio.to_thread(lambda: list_batches(batches_dir())[::-1])
        names = [folder.name for folder in folders]
        if self.folder.name in names and len(names) > 1:
            self.app.switch_screen(
                BatchScreen(folders[(names.index(self.folder.name) + by) % len(names)])
            )

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        history = self.batch_view.history
        in_likeness = isinstance(event.option_list, LikenessList)
        for clip in history.least_like if in_likeness else history.all_failures:
            if clip.path == event.option.id:
                self.app.push_screen(ClipScreen(clip))
                return


class ClipScreen(ModalScreen[None]):
    """Dialog with the details of a clip: the reason of its failure, or its likeness."""

    BINDINGS = keys.FAILURE
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
