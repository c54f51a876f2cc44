"""Sample clips of a run, step by step, beside a reference photo and the clip before training."""

from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.reactive import var
from textual.widget import Widget
from textual.widgets import Static

from pvtool.dashboard import keys
from pvtool.dashboard.clipboard import copy
from pvtool.dashboard.follow.run import RunView
from pvtool.dashboard.follow.run_history import RunHistory
from pvtool.dashboard.marks import BEST, prompt_content
from pvtool.dashboard.system_player import open_in_player
from pvtool.dashboard.widgets.picture import ClipView
from pvtool.dashboard.widgets.sample_grid import SampleGrid
from pvtool_core.settings.sample_metrics import LIKENESS
from pvtool_core.store.events import SampleEvent

_NONE = "No samples yet. Press s to render some now, or set training.sample_every."


class Samples(Widget, can_focus=True):
    """Reference photo, first clip and current clip of a prompt, at the newest step by default."""

    BINDINGS = keys.SAMPLES
    DEFAULT_CSS = """
    Samples {
        height: 1fr;
        layout: vertical;
        Horizontal { height: 1fr; }
        ClipView { width: 1fr; height: 1fr; margin: 0 1; }
        #caption { height: 2; padding: 0 1; text-overflow: ellipsis; }
        SampleGrid { display: none; }
        &.-grid SampleGrid { display: block; }
        &.-grid > Horizontal { display: none; }
        &.-enlarged #reference, &.-enlarged #before { display: none; }
        &:focus #caption { color: $text-accent; }
    }
    """
    step: var[int | None] = var(None)
    """The selected step; None follows the newest."""
    number: var[int] = var(0)
    """Index of the clip within the step."""

    def __init__(self, *, classes: str = "") -> None:
        super().__init__(classes=classes)
        self._samples: dict[int, list[SampleEvent]] = {}
        self._history = RunHistory()
        self._path = Path()
        self._loaded = False
        self._compared: int | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="caption")
        with Horizontal():
            yield ClipView("reference", id="reference")
            yield ClipView("before training", id="before", follower=True)
            yield ClipView("now", id="now")

    def show(self, run: RunView) -> None:
        """Show the current samples."""
        self._path, self._loaded = run.path, run.loaded
        self._samples, self._history = {}, run.history
        for sample in run.history.samples:
            self._samples.setdefault(sample.step, []).append(sample)
        references = run.snapshot.references
        self._show_clip("#reference", references[0] if references else None, "reference")
        self._draw()

    def _draw(self) -> None:
        sample = self._selected_sample()
        if sample is None:
            self.query_one("#caption", Static).update(
                _NONE if self._loaded else "Reading…", layout=False
            )
            return
        first = self._sample(
            self._compared if self._compared in self._samples else min(self._samples)
        )
        steps = sorted(self._samples)
        title = (
            f"step {sample.step}, newest"
            if self.step is None
            else f"step {sample.step}, {steps.index(sample.step) + 1} of {len(steps)}"
        )
        best = self._history.scores.best
        if best and best.step == sample.step:
            title += f"  {BEST}"
        self._show_clip("#now", self._path / sample.path, title, self._figures(sample))
        self._show_clip(
            "#before",
            self._path / first.path,
            "before training" if first.step == 0 else f"step {first.step}",
            self._figures(first),
        )
        count = len(self._samples[sample.step])
        details = f"  clip {self.number % count + 1} of {count}, seed {sample.seed}  {sample.path}"
        self.query_one("#caption", Static).update(
            Content.assemble(prompt_content(sample.prompt), (details, "$text-muted")), layout=False
        )

        if self._grid:
            self._grid.show(self._samples, self._path, sample.step, self.number)

    @property
    def _grid(self) -> SampleGrid | None:
        return self.query_one(SampleGrid) if self.has_class("-grid") else None

    def _figures(self, sample: SampleEvent) -> str:
        """Return the likeness of a sample, and how much it is above the base model's clip."""
        scored = self._history.sample_scores.get((sample.step, sample.prompt, sample.seed))
        likeness = scored.scores.get(LIKENESS) if scored else None
        if scored is None or likeness is None:
            return ""
        base = scored.base.get(LIKENESS)
        change = "" if base is None or not sample.step else f" ({likeness - base:+.3f})"
        return f"likeness {likeness:.3f}{change}"

    def _show_clip(self, name: str, path: Path | None, title: str, figures: str = "") -> None:
        """Show a file unless it is shown already, as decoding it starts a process."""
        clip = self.query_one(name, ClipView)
        shown = (clip.path, clip.title, clip.figures)
        if shown != (path, title, figures) or not clip.frames:  # retry incomplete files
            clip.show(path, title, figures)

    def _selected_sample(self) -> SampleEvent | None:
        step = self.step if self.step in self._samples else max(self._samples, default=None)
        return None if step is None else self._sample(step)

    def _sample(self, step: int) -> SampleEvent:
        clips = self._samples[step]
        return clips[self.number % len(clips)]

    def on_clip_view_frame_changed(self, event: ClipView.FrameChanged) -> None:
        """Show both clips at the same frame."""
        event.stop()
        if event.clip.id == "now":
            self.query_one("#before", ClipView).follow(event.frame)

    def action_step(self, by: int) -> None:
        steps = sorted(self._samples)
        if not steps:
            return
        index = steps.index(self.step) if self.step in steps else len(steps) - 1
        wanted = max(0, min(len(steps) - 1, index + by))
        self.step = None if wanted == len(steps) - 1 else steps[wanted]
        self._draw()

    def action_prompt(self, by: int) -> None:
        self.number += by
        self._draw()

    def action_compare(self) -> None:
        """Show the current step at the left, to compare other steps with it, or the first again."""
        sample = self._selected_sample()
        if sample:
            self._compared = None if self._compared == sample.step else sample.step
            self.set_class(self._compared is not None, "-compared")
            self._draw()

    def action_grid(self) -> None:
        """Show the samples of all prompts and steps that fit, or one sample."""
        if not self.query(SampleGrid):
            self.mount(SampleGrid())
        self.toggle_class("-grid")
        self.call_after_refresh(self._draw)

    def action_play(self) -> None:
        if self._grid:
            self._grid.play()
            return
        now, before = self.query_one("#now", ClipView), self.query_one("#before", ClipView)
        now.playing = not now.playing
        if now.playing:
            before.playing = True
        else:
            before.pause_at(now.position)

    def action_frame(self, by: int) -> None:
        if self._grid:
            self._grid.frame(by)
            return
        now = self.query_one("#now", ClipView)
        now.frame(by)
        self.query_one("#before", ClipView).pause_at(now.position)

    @property
    def enlarged(self) -> bool:
        """Return whether the clip is enlarged, or the grid is shown."""
        return self.has_class("-enlarged") or self.has_class("-grid")

    def action_enlarge(self) -> None:
        """Enlarge the clip, also out of the grid, or show it with its reference."""
        if not self.has_class("-grid"):
            self.toggle_class("-enlarged")
        else:
            self.remove_class("-grid")

    def action_open_file(self) -> None:
        if sample := self._selected_sample():
            path = self._path / sample.path
            self.run_worker(open_in_player(self, path), group="open", exit_on_error=False)

    def action_copy_path(self) -> None:
        if sample := self._selected_sample():
            self.run_worker(
                copy(self, str(self._path / sample.path)), group="copy", exit_on_error=False
            )
