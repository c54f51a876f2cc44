"""Grid of samples, a row for each prompt and a column for each step, playing in step."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from pvtool.dashboard.marks import prompt_content
from pvtool.dashboard.widgets.picture import ClipView
from pvtool_core.store.events import SampleEvent

_COLUMNS, _ROWS = 26, 12  # least size of a clip with its titles
_MAX_COLUMNS, _MAX_ROWS = 8, 4


class SampleGrid(Vertical):
    """As many samples around the selected one as fit; all show the frame of the selected one."""

    DEFAULT_CSS = """
    SampleGrid {
        .prompt { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
        Horizontal { height: 1fr; }
        ClipView { margin: 0 1; }
        ClipView.-selected > .clip--title { color: $text-accent; text-style: bold; }
    }
    """

    _shown: tuple[Mapping[int, Sequence[SampleEvent]], Path, int, int] | None = None

    def compose(self) -> ComposeResult:
        """Yield the largest grid; its parts are shown as far as they fit."""
        for row in range(_MAX_ROWS):
            yield Static(classes="prompt", id=f"prompt-{row}")
            with Horizontal(id=f"row-{row}"):
                for column in range(_MAX_COLUMNS):
                    yield ClipView(id=f"sample-{row}-{column}", follower=True)

    def show(
        self,
        samples: Mapping[int, Sequence[SampleEvent]],
        folder: Path,
        step: int,
        number: int,
    ) -> None:
        """Show the samples around clip `number` of a step, or later if the grid is hidden."""
        self._shown = (samples, folder, step, number)
        if not self.size:
            return
        steps, count = sorted(samples), max(map(len, samples.values()))
        across = _around(len(steps), steps.index(step), self.size.width // _COLUMNS, _MAX_COLUMNS)
        down = _around(count, number % count, self.size.height // _ROWS, _MAX_ROWS)
        for row in range(_MAX_ROWS):
            place = down[row] if row < len(down) else None
            self.query_one(f"#row-{row}").display = place is not None
            heading = self.query_one(f"#prompt-{row}", Static)
            heading.display = place is not None
            if place is not None and place < len(samples[step]):
                heading.update(prompt_content(samples[step][place].prompt))
            for column in range(_MAX_COLUMNS):
                at = across[column] if column < len(across) else None
                sample = _at(samples, steps, at, place)
                view = self.query_one(f"#sample-{row}-{column}", ClipView)
                view.display = at is not None and place is not None
                self._show_sample(view, folder, sample)
                chosen = sample is not None and steps[at or 0] == step and place == number % count
                view.set_class(chosen, "-selected")
                if view.follower is chosen:
                    view.follower = not chosen
                    view.watch_playing()  # the selected clip leads

    def on_resize(self) -> None:
        """Show as many samples as fit now."""
        if self._shown:
            self.show(*self._shown)

    def _show_sample(self, view: ClipView, folder: Path, sample: SampleEvent | None) -> None:
        path = folder / sample.path if sample else None
        title = f"step {sample.step}" if sample else ""
        if (view.path, view.title) != (path, title) or (path and not view.frames):
            view.show(path, title)

    def on_clip_view_frame_changed(self, event: ClipView.FrameChanged) -> None:
        """Show the frame of the selected clip in all others."""
        event.stop()
        if not event.clip.follower:
            for view in self._others(event.clip):
                view.follow(event.frame)

    def play(self) -> None:
        """Play or pause all clips."""
        if (leader := self._leader) is None:
            return
        leader.playing = not leader.playing
        for view in self._others(leader):
            if leader.playing:
                view.playing = True
            else:
                view.pause_at(leader.position)

    def frame(self, by: int) -> None:
        """Pause all clips and move them by some frames."""
        if leader := self._leader:
            leader.frame(by)
            for view in self._others(leader):
                view.pause_at(leader.position)

    @property
    def _leader(self) -> ClipView | None:
        return next((view for view in self.query(ClipView) if not view.follower), None)

    def _others(self, leader: ClipView) -> list[ClipView]:
        return [view for view in self.query(ClipView) if view.display and view is not leader]


def _around(count: int, selected: int, fitting: int, most: int) -> list[int]:
    """Return the indices that fit, with the selected one in their middle if possible."""
    size = max(1, min(count, fitting, most))
    first = max(0, min(count - size, selected - size // 2))
    return list(range(first, first + size))


def _at(
    samples: Mapping[int, Sequence[SampleEvent]],
    steps: Sequence[int],
    column: int | None,
    row: int | None,
) -> SampleEvent | None:
    if column is None or row is None:
        return None
    clips = samples[steps[column]]
    return clips[row] if row < len(clips) else None
