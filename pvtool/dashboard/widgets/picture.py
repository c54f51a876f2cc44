"""A clip or a still picture, as large as there is room for, with its title above and its state below."""

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
from pvtool.dashboard.images.player import Budget, Playback, budget, load_playback
from pvtool.terminal import Pictures, Terminal
from pvtool_core.errors import PvError

_SETTLING = 0.12  # a window being resized changes its size many times a second
_LOOK_AGAIN = 0.3


class ClipView(Widget):
    """Shows the file that it was last told to show; a still picture is a clip of one frame. A click plays or holds."""

    COMPONENT_CLASSES = {"clip--title", "clip--state"}  # noqa: RUF012 — Textual declares it so
    DEFAULT_CSS = """
    ClipView { width: 1fr; height: 1fr; }
    ClipView > .clip--title { color: $text; }
    ClipView > .clip--state { color: $text-muted; }
    """
    ALLOW_SELECT = False

    playing: reactive[bool] = reactive(True)

    class Turned(Message):
        """Another frame is shown."""

        def __init__(self, clip: "ClipView", frame: int) -> None:
            self.clip, self.frame = clip, frame
            super().__init__()

    def __init__(
        self,
        title: str = "",
        terminal: Terminal | None = None,
        id: str | None = None,
        led: bool = False,
    ) -> None:
        """`led`: the clip turns no frame by itself, but goes along with another."""
        super().__init__(id=id)
        self.title = title
        self.led = led
        self.path: Path | None = None
        self._given_terminal = terminal
        self._reel: Playback | None = None
        self._words = ""
        self._at = 0
        self._pace = 1
        self._sent: set[int] = set()
        self._due = 0.0
        self._timer: Timer | None = None
        self._settling: Timer | None = None

    @property
    def terminal(self) -> Terminal:
        """What is drawn on: what it was given, or what the application found."""
        return (
            self._given_terminal
            or getattr(self.app, "terminal", None)
            or Terminal(Pictures.OFF, False, "none")
        )

    @property
    def frames(self) -> int:
        """How many frames the file has, once it was read."""
        return self._reel.total if self._reel else 0

    def show(self, path: Path | None, title: str | None = None) -> None:
        """Show this file instead, or nothing. What is shown stays until the new one is read."""
        self.path = path
        self.title = self.title if title is None else title
        if path is None:
            self.workers.cancel_node(self)
            self._put(None, "")
        else:
            self._read()

    def frame(self, by: int) -> None:
        """Hold, and go some frames on or back, round the end."""
        self.playing = False
        if self._reel:
            self._go_to((self._at + by) % len(self._reel.drawings))

    def follow(self, frame: int) -> None:
        """Show the frame that another clip shows, unless this one is held."""
        if self._reel and self.playing:
            self._budget.spend(self._go_to(frame % len(self._reel.drawings)))

    def on_mount(self) -> None:
        self.app.app_resume_signal.subscribe(self, self._send_again)
        self.app.theme_changed_signal.subscribe(self, self._draw_again)

    def on_resize(self) -> None:
        if self._settling:
            self._settling.stop()
        self._settling = self.set_timer(_SETTLING, self._read)

    def _read(self) -> None:
        columns, rows = self.content_size.width, self._picture_rows
        if self.path is None or columns < 1 or rows < 1:
            return
        if self.terminal.pictures is Pictures.OFF:
            self._put(None, f"{self.path.name}\nPictures are off.")
            return
        winding = partial(
            self._wind, self.path, columns, rows
        )  # no coroutine: one called off before it begins is lost
        self.run_worker(winding, group="clip", exclusive=True, exit_on_error=False)

    async def _wind(self, path: Path, columns: int, rows: int) -> None:
        try:
            self._put(
                await load_playback(
                    path, columns, rows, self.terminal, self.app.current_theme.dark
                ),
                "",
            )
        except PvError as error:
            self._put(None, f"{error.message} {error.hint}".strip())

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        event.stop()
        if event.state is WorkerState.ERROR:
            self._put(None, f"The picture cannot be drawn: {event.worker.error!r}.")

    def _put(self, reel: Playback | None, words: str) -> None:
        same = self._reel is not None and reel is not None and reel.total == self._reel.total
        self._free()
        self._reel, self._words = reel, words
        self._at = self._at if same and reel and self._at < len(reel.drawings) else 0
        self._send(self._at)
        self.refresh()
        self._play_soon(0.0)

    def watch_playing(self) -> None:
        self.refresh()
        self._due = monotonic()
        self._play_soon(0.0)

    def _play_soon(self, wait: float) -> None:
        if self._timer:
            self._timer.stop()
            self._timer = None
        if (
            self.playing
            and not self.led
            and self._reel
            and len(self._reel.drawings) > 1
            and self.is_attached
        ):
            self._timer = self.set_timer(max(wait, 0.005), self._play)

    def _play(self) -> None:
        """Show the next frame if it is time, somebody sees it, and the link takes it; and look again."""
        assert self._reel is not None
        wait = self._budget.wait() if self._is_seen() else _LOOK_AGAIN
        if wait:
            self._due = monotonic() + wait
            self._play_soon(wait)
            return
        self._due = max(self._due, monotonic() - 1 / self._reel.fps) + 1 / self._reel.fps
        self._budget.spend(self._go_to((self._at + self._pace) % len(self._reel.drawings)))
        self._pace = self._next_pace(self._reel)
        self._play_soon(self._due - monotonic())

    def _next_pace(self, reel: Playback) -> int:
        """How many frames to go on: where the link is slow a clip plays at half its speed, and then with gaps."""
        late = int(self._budget.wait() * reel.fps / 2)
        return max(1, min(late, len(reel.drawings) // 4))

    @property
    def _budget(self) -> Budget:
        return budget(self.terminal.bytes_per_second)

    def _is_seen(self) -> bool:
        driver = driver_of(self.app)
        in_front = (
            self.app.app_focus
            and self.app.screen is self.screen
            and not (driver and driver.stalled)
        )
        return in_front and self.is_on_screen and bool(self.screen.find_widget(self).visible_region)

    def _go_to(self, frame: int) -> int:
        """Show another frame: only the rows that differ. Gives back about how many bytes that sends."""
        assert self._reel is not None
        before, after = self._reel.drawings[self._at], self._reel.drawings[frame]
        self._at = frame
        self.post_message(self.Turned(self, frame))
        sent = self._send(frame)
        changed = [
            at
            for at, (old, new) in enumerate(zip(before, after, strict=False))
            if old.pixels != new.pixels
        ]
        top = int(self._has_title)
        self.refresh(
            *(Region(0, top + at, self.content_size.width, count) for at, count in _spans(changed))
        )
        if self._has_state:
            self.refresh(Region(0, self._state_row, self.content_size.width, 1))
        return sent + sum(after[at].size for at in changed) + 60

    def _send(self, frame: int) -> int:
        """Give the terminal the frame's picture, if it takes pictures and has it not; gives back how many bytes."""
        driver = driver_of(self.app) if self.is_attached else None
        if not (self._reel and self._reel.sheets and driver) or frame in self._sent:
            return 0
        sheet = self._reel.sheets[frame]
        driver.lend(sheet.number, sheet.transmission, back=sheet.removal)
        self._sent.add(frame)
        return len(sheet.transmission)

    def _free(self) -> None:
        if self._reel and (driver := driver_of(self.app)):
            for frame in self._sent:
                driver.take_back(self._reel.sheets[frame].number)
        self._sent.clear()

    def _draw_again(self, _: Theme) -> None:
        """The ramp of greys goes the other way on a light theme."""
        if self.terminal.colours == "none":
            self._read()

    def _send_again(self, _: App[object]) -> None:
        """The terminal forgot all pictures when it was left."""
        self._sent.clear()
        self._send(self._at)

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
        """Right under the picture, or at the end while there is none."""
        rows = len(self._reel.drawings[self._at]) if self._reel else self._picture_rows
        return self._has_title + rows

    def render_line(self, y: int) -> Strip:
        if y == 0 and self._has_title:
            return self._text_line(self.title, "clip--title")
        if y == self._state_row and self._has_state:
            return self._text_line(self._state(), "clip--state")
        row = y - self._has_title
        return self._picture_line(row) if self._reel else self._words_line(row)

    def _picture_line(self, y: int) -> Strip:
        assert self._reel is not None
        rows, width, style = self._reel.drawings[self._at], self.content_size.width, self.rich_style
        if y >= len(rows):
            return Strip.blank(width, style)
        strip = rows[y].strip
        if self._reel.sheets or self.terminal.colours == "none":
            strip = strip.apply_style(style)
        left = max(0, width - strip.cell_length) // 2
        right = max(0, width - strip.cell_length - left)
        return Strip.join([Strip.blank(left, style), strip, Strip.blank(right, style)]).crop(
            0, width
        )

    def _words_line(self, y: int) -> Strip:
        width = self.content_size.width
        lines = [
            line for said in self._words.splitlines() for line in wrap(said, max(8, width - 2))
        ]
        at = y - max(0, self._picture_rows - len(lines)) // 2
        return self._text_line(lines[at] if 0 <= at < len(lines) else "", "clip--state")

    def _text_line(self, text: str, component: str) -> Strip:
        width, style = self.content_size.width, self.get_component_rich_style(component)
        cut = text if len(text) <= width else text[: max(0, width - 1)] + "…"
        return Strip([Segment(cut.center(width), style)])

    def _state(self) -> str:
        if not self._reel:
            return ""
        broken = "" if self._reel.whole else ", breaks off"
        if self._reel.total == 1:
            return broken.removeprefix(", ")
        number = self._at * self._reel.stride + 1
        return f"{number} of {self._reel.total}, {'playing' if self.playing else 'held'}{broken}"


def _spans(rows: list[int]) -> list[tuple[int, int]]:
    """Neighbouring rows as (first, how many)."""
    groups = (list(group) for _, group in groupby(enumerate(rows), lambda pair: pair[1] - pair[0]))
    return [(group[0][1], len(group)) for group in groups]
