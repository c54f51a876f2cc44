"""View of a clip or a still image that fills the available space, with a title and a state line."""

from functools import partial
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from time import monotonic

from rich.segment import Segment
from textual import events
from textual.app import App
from textual.geometry import Region
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.theme import Theme
from textual.timer import Timer
from textual.widget import Widget
from textual.worker import Worker, WorkerState

from pvtool.dashboard.driver import driver_of
from pvtool.dashboard.images.cell_pictures import CellPicture
from pvtool.dashboard.images.player import Budget, Playback, budget, load_playback
from pvtool.terminal import Pictures, Terminal
from pvtool_core.errors import PvError

_RESIZE_DELAY = 0.12  # seconds; a window being resized changes its size many times per second
_HIDDEN_DELAY = 0.3


class ClipView(Widget):
    """View of an image file; a still image is a clip of one frame. A click plays or pauses."""

    COMPONENT_CLASSES = {"clip--title", "clip--state"}  # noqa: RUF012 — declared this way by Textual
    DEFAULT_CSS = """
    ClipView { width: 1fr; height: 1fr; }
    ClipView > .clip--title { color: $text; }
    ClipView > .clip--state { color: $text-muted; }
    """
    ALLOW_SELECT = False

    playing: reactive[bool] = reactive(True)

    class FrameChanged(Message):
        """Another frame is shown."""

        def __init__(self, clip: "ClipView", frame: int) -> None:
            self.clip, self.frame = clip, frame
            super().__init__()

    def __init__(
        self,
        title: str = "",
        terminal: Terminal | None = None,
        id: str | None = None,
        follower: bool = False,
    ) -> None:
        """Create the view; a `follower` shows the frames of another clip instead of playing."""
        super().__init__(id=id)
        self.title, self.figures = title, ""
        self.follower = follower
        self.path: Path | None = None
        self._terminal = terminal
        self._playback: Playback | None = None
        self._message = ""
        self._index = 0
        self._step = 1
        self._sent_frames: set[int] = set()
        self._due = 0.0
        self._timer: Timer | None = None
        self._resize_timer: Timer | None = None

    @property
    def terminal(self) -> Terminal:
        """Return the terminal that was passed, or that of the application."""
        return (
            self._terminal
            or getattr(self.app, "terminal", None)
            or Terminal(Pictures.OFF, False, "none")
        )

    @property
    def frames(self) -> int:
        """Return the number of frames of the file, once it is read."""
        return self._playback.total if self._playback else 0

    def show(self, path: Path | None, title: str | None = None, figures: str = "") -> None:
        """Show another file, or nothing; `figures` are shown under the image.

        The current image remains until the new one is read.
        """
        self.path, self.figures = path, figures
        self.title = self.title if title is None else title
        if path is None:
            self.workers.cancel_node(self)
            self._set(None, "")
        else:
            self._read()

    def frame(self, by: int) -> None:
        """Pause and move by some frames, wrapping around at the end."""
        self.playing = False
        if self._playback:
            self._show_frame((self._index + by) % len(self._playback.drawings))

    @property
    def position(self) -> int:
        """Return the index of the shown frame among those that are played."""
        return self._index

    def pause_at(self, frame: int) -> None:
        """Pause and show this frame, or the one that it corresponds to in a shorter clip."""
        self.playing = False
        if self._playback:
            self._show_frame(frame % len(self._playback.drawings))

    def follow(self, frame: int) -> None:
        """Show the frame that another clip shows, unless this one is paused."""
        if self._playback and self.playing:
            self._budget.spend(self._show_frame(frame % len(self._playback.drawings)))

    def on_mount(self) -> None:
        self.app.app_resume_signal.subscribe(self, self._on_resume)
        self.app.theme_changed_signal.subscribe(self, self._on_theme_changed)

    def on_resize(self) -> None:
        if self._resize_timer:
            self._resize_timer.stop()
        self._resize_timer = self.set_timer(_RESIZE_DELAY, self._read)

    def _read(self) -> None:
        columns, rows = self.content_size.width, self._picture_rows
        if self.path is None or columns < 1 or rows < 1:
            return
        if self.terminal.pictures is Pictures.OFF:
            self._set(None, f"{self.path.name}\nImages are disabled.")
            return
        # A partial, as a coroutine object that is cancelled before it starts is never awaited.
        load = partial(self._load, self.path, columns, rows)
        self.run_worker(load, group="clip", exclusive=True, exit_on_error=False)

    async def _load(self, path: Path, columns: int, rows: int) -> None:
        try:
            self._set(
                await load_playback(
                    path, columns, rows, self.terminal, self.app.current_theme.dark
                ),
                "",
            )
        except PvError as error:
            self._set(None, f"{error.message} {error.hint}".strip())

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        event.stop()
        if event.state is WorkerState.ERROR:
            self._set(None, f"Cannot draw the image: {event.worker.error!r}.")

    def _set(self, playback: Playback | None, message: str) -> None:
        old = self._playback
        same_clip = old is not None and playback is not None and playback.total == old.total
        self._free()
        self._playback, self._message = playback, message
        keep = same_clip and playback and self._index < len(playback.drawings)
        self._index = self._index if keep else 0
        self._send(self._index)
        self.refresh()
        self._schedule_next_frame(0.0)

    def watch_playing(self) -> None:
        self.refresh()
        self._due = monotonic()
        self._schedule_next_frame(0.0)

    def _schedule_next_frame(self, wait: float) -> None:
        if self._timer:
            self._timer.stop()
            self._timer = None
        if (
            self.playing
            and not self.follower
            and self._playback
            and len(self._playback.drawings) > 1
            and self.is_attached
        ):
            self._timer = self.set_timer(max(wait, 0.005), self._play)

    def _play(self) -> None:
        """Show the next frame if the clip is visible and the link is free; schedule the next."""
        assert self._playback is not None
        wait = self._budget.wait() if self._is_visible() else _HIDDEN_DELAY
        if wait:
            self._due = monotonic() + wait
            self._schedule_next_frame(wait)
            return
        self._due = max(self._due, monotonic() - 1 / self._playback.fps) + 1 / self._playback.fps
        self._budget.spend(
            self._show_frame((self._index + self._step) % len(self._playback.drawings))
        )
        self._step = self._next_pace(self._playback)
        self._schedule_next_frame(self._due - monotonic())

    def _next_pace(self, playback: Playback) -> int:
        """Return the number of frames to advance: 1 down to half speed, then more."""
        late = int(self._budget.wait() * playback.fps / 2)
        return max(1, min(late, len(playback.drawings) // 4))

    @property
    def _budget(self) -> Budget:
        return budget(self.terminal.bytes_per_second)

    def _is_visible(self) -> bool:
        driver = driver_of(self.app)
        in_front = (
            self.app.app_focus
            and self.app.screen is self.screen
            and not (driver and driver.stalled)
        )
        return in_front and self.is_on_screen and bool(self.screen.find_widget(self).visible_region)

    def _show_frame(self, frame: int) -> int:
        """Show another frame, repainting only rows that differ; return the approximate bytes."""
        assert self._playback is not None
        before, after = self._playback.drawings[self._index], self._playback.drawings[frame]
        self._index = frame
        self.post_message(self.FrameChanged(self, frame))
        sent = self._send(frame)
        changed = [
            row
            for row, (old, new) in enumerate(zip(before, after, strict=False))
            if old.pixels != new.pixels
        ]
        top = int(self._has_title)
        self.refresh(
            *(
                Region(0, top + row, self.content_size.width, count)
                for row, count in _spans(changed)
            )
        )
        if self._has_state:
            self.refresh(Region(0, self._state_row, self.content_size.width, 1))
        return sent + sum(after[row].size for row in changed) + 60

    def _send(self, frame: int) -> int:
        """Send a frame to a terminal that stores images, unless it was sent; return the bytes.

        A picture of cells is passed to the driver, which sends the parts that are painted.
        """
        driver = driver_of(self.app) if self.is_attached else None
        if not (self._playback and self._playback.images and driver) or frame in self._sent_frames:
            return 0
        image = self._playback.images[frame]
        self._sent_frames.add(frame)
        if isinstance(image, CellPicture):
            driver.add_picture(image)
            return 0
        driver.write_resource(image.image_id, image.transmit, cleanup=image.delete)
        return len(image.transmit)

    def _free(self) -> None:
        if self._playback and (driver := driver_of(self.app)):
            for frame in self._sent_frames:
                driver.free_resource(self._playback.images[frame].image_id)
        self._sent_frames.clear()

    def _on_theme_changed(self, _: Theme) -> None:
        """Redraw greys, which are inverted on a light theme."""
        if self.terminal.colours == "none":
            self._read()

    def _on_resume(self, _: App[object]) -> None:
        """Send the image again, as suspending the application deletes images in the terminal."""
        self._sent_frames.clear()
        self._send(self._index)

    def on_unmount(self) -> None:
        self._free()

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.playing = not self.playing

    @property
    def _has_title(self) -> bool:
        return bool(self.title) and self.content_size.height > 2

    @property
    def _has_state(self) -> bool:
        return self.content_size.height > 3

    @property
    def _picture_rows(self) -> int:
        return self.content_size.height - self._has_title - self._has_state

    @property
    def _state_row(self) -> int:
        """Return the row under the image, or the last row without an image."""
        rows = len(self._playback.drawings[self._index]) if self._playback else self._picture_rows
        return self._has_title + rows

    def render_line(self, y: int) -> Strip:
        if y == 0 and self._has_title:
            return self._text_line(self.title, "clip--title")
        if y == self._state_row and self._has_state:
            return self._text_line(self._state(), "clip--state")
        row = y - self._has_title
        return self._picture_line(row) if self._playback else self._message_line(row)

    def _picture_line(self, y: int) -> Strip:
        assert self._playback is not None
        rows, width, style = (
            self._playback.drawings[self._index],
            self.content_size.width,
            self.rich_style,
        )
        if y >= len(rows):
            return Strip.blank(width, style)
        strip = rows[y].strip
        if self._playback.images or self.terminal.colours == "none":
            strip = strip.apply_style(style)
        left = max(0, width - strip.cell_length) // 2
        right = max(0, width - strip.cell_length - left)
        return Strip.join([Strip.blank(left, style), strip, Strip.blank(right, style)]).crop(
            0, width
        )

    def _message_line(self, y: int) -> Strip:
        width = self.content_size.width
        lines = [
            line
            for paragraph in self._message.splitlines()
            for line in wrap(paragraph, max(8, width - 2))
        ]
        index = y - max(0, self._picture_rows - len(lines)) // 2
        return self._text_line(lines[index] if 0 <= index < len(lines) else "", "clip--state")

    def _text_line(self, text: str, component: str) -> Strip:
        width, style = self.content_size.width, self.get_component_rich_style(component)
        shortened = text if len(text) <= width else text[: max(0, width - 1)] + "…"
        return Strip([Segment(shortened.center(width), style)])

    def _state(self) -> str:
        """Return the figures and the state of the playback, as far as they fit."""
        state = self._playback_state()
        both = "  ".join(filter(None, (self.figures, state)))
        return both if len(both) <= self.content_size.width else self.figures or state

    def _playback_state(self) -> str:
        if not self._playback:
            return ""
        incomplete = "" if self._playback.complete else ", incomplete"
        if self._playback.total == 1:
            return incomplete.removeprefix(", ")
        number = self._index * self._playback.stride + 1
        state = "playing" if self.playing else "paused"
        return f"{number} of {self._playback.total}, {state}{incomplete}"


def _spans(rows: list[int]) -> list[tuple[int, int]]:
    """Group neighbouring rows as (first, count)."""
    groups = (list(group) for _, group in groupby(enumerate(rows), lambda pair: pair[1] - pair[0]))
    return [(group[0][1], len(group)) for group in groups]
