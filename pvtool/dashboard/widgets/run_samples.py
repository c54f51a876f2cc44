"""Samples of several runs side by side, at the same step and prompt, playing in step."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.reactive import var
from textual.widget import Widget
from textual.widgets import Static

from pvtool.dashboard import keys
from pvtool.dashboard.follow.run_history import RunHistory
from pvtool.dashboard.marks import prompt_content
from pvtool.dashboard.widgets.picture import ClipView
from pvtool.text import plain
from pvtool_core.settings.sample_metrics import LIKENESS
from pvtool_core.store.events import SampleEvent
from pvtool_core.store.runs import RunFolder

_COLUMNS = 26  # least width of a clip with its title
_NONE = "No run has samples yet."


class RunSamples(Widget, can_focus=True):
    """A clip of each run that fits; the newest step of all runs by default.

    A run without samples of the selected step shows its last ones before.
    """

    BINDINGS = keys.RUN_SAMPLES
    DEFAULT_CSS = """
    RunSamples {
        layout: vertical;
        #caption { height: 2; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
        Horizontal { height: 1fr; }
        ClipView { margin: 0 1; }
        &:focus #caption { color: $text-accent; }
    }
    """
    step: var[int | None] = var(None)
    """The selected step; None follows the newest."""
    number: var[int] = var(0)
    """Index of the clip within the step."""

    def __init__(self, folders: Sequence[RunFolder], *, id: str) -> None:
        super().__init__(id=id)
        self._folders = list(folders)
        self._first = 0
        self._histories: Mapping[str, RunHistory] = {}

    def compose(self) -> ComposeResult:
        yield Static(_NONE, id="caption")
        with Horizontal():
            for number in range(len(self._folders)):
                yield ClipView(id=f"run-{number}", follower=number > 0)

    def show(self, histories: Mapping[str, RunHistory]) -> None:
        """Show the samples of the runs, whose histories are given by their names."""
        self._histories = histories
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    @property
    def _steps(self) -> list[int]:
        return sorted({sample.step for each in self._histories.values() for sample in each.samples})

    def _draw(self) -> None:
        steps = self._steps
        step = self.step if self.step in steps else max(steps, default=None)
        fitting = max(1, self.size.width // _COLUMNS)
        self._first = max(0, min(self._first, len(self._folders) - fitting))
        shown: list[SampleEvent] = []
        for number, folder in enumerate(self._folders):
            view = self.query_one(f"#run-{number}", ClipView)
            view.display = self._first <= number < self._first + fitting
            sample = None if step is None else self._sample(folder.name, step)
            self._lead(view, number == self._first)
            if view.display:
                self._show_sample(view, folder, sample)
            if view.display and sample:
                shown.append(sample)
        if step is not None:
            self.query_one("#caption", Static).update(self._caption(step, shown), layout=False)

    def _lead(self, view: ClipView, leads: bool) -> None:
        """Let one clip determine the frame of all."""
        if view.follower is leads:
            view.follower = not leads
            view.watch_playing()

    def _sample(self, run: str, step: int) -> SampleEvent | None:
        """Return the clip of a run at a step, or at its last sampled step before."""
        history = self._histories.get(run)
        samples = history.samples if history else []
        last = max((each.step for each in samples if each.step <= step), default=None)
        clips = [each for each in samples if each.step == last]
        return clips[self.number % len(clips)] if clips else None

    def _show_sample(self, view: ClipView, folder: RunFolder, sample: SampleEvent | None) -> None:
        """Show a file unless it is shown already, as decoding it starts a process."""
        name = plain(folder.name)
        if sample is None:
            if (view.path, view.title) != (None, f"{name}: no samples"):
                view.show(None, f"{name}: no samples")
            return
        path = Path(folder.path, sample.path)
        wanted = (path, f"{name}, step {sample.step}", self._figures(folder.name, sample))
        if (view.path, view.title, view.figures) != wanted or not view.frames:
            view.show(*wanted)

    def _figures(self, run: str, sample: SampleEvent) -> str:
        scored = self._histories[run].sample_scores.get((sample.step, sample.prompt, sample.seed))
        likeness = scored.scores.get(LIKENESS) if scored else None
        return "" if likeness is None else f"likeness {likeness:.3f}"

    def _caption(self, step: int, shown: Sequence[SampleEvent]) -> Content:
        """Return the prompts of the clips, which differ by class noun, and the step."""
        prompts = list(dict.fromkeys(sample.prompt for sample in shown))
        last = min(self._first + max(1, self.size.width // _COLUMNS), len(self._folders))
        runs = f"runs {self._first + 1} to {last} of {len(self._folders)}"
        details = f"step {step}, {self._steps.index(step) + 1} of {len(self._steps)}  {runs}"
        return Content.assemble(
            Content(" | ").join(map(prompt_content, prompts)), "\n", (details, "$text-muted")
        )

    def on_clip_view_frame_changed(self, event: ClipView.FrameChanged) -> None:
        """Show the frame of the first clip in all others."""
        event.stop()
        if not event.clip.follower:
            for view in self._others(event.clip):
                view.follow(event.frame)

    @property
    def _leader(self) -> ClipView:
        return next(view for view in self.query(ClipView) if not view.follower)

    def _others(self, leader: ClipView) -> list[ClipView]:
        return [view for view in self.query(ClipView) if view.display and view is not leader]

    def action_step(self, by: int) -> None:
        if not (steps := self._steps):
            return
        index = steps.index(self.step) if self.step in steps else len(steps) - 1
        wanted = max(0, min(len(steps) - 1, index + by))
        self.step = None if wanted == len(steps) - 1 else steps[wanted]
        self._draw()

    def action_prompt(self, by: int) -> None:
        self.number += by
        self._draw()

    def action_other_runs(self, by: int) -> None:
        """Show the next runs, if not all fit."""
        self._first = max(0, self._first + by)
        self._draw()

    def action_play(self) -> None:
        """Play or pause all clips."""
        leader = self._leader
        leader.playing = not leader.playing
        for view in self._others(leader):
            if leader.playing:
                view.playing = True
            else:
                view.pause_at(leader.position)

    def action_frame(self, by: int) -> None:
        """Pause all clips and move them by some frames."""
        leader = self._leader
        leader.frame(by)
        for view in self._others(leader):
            view.pause_at(leader.position)
