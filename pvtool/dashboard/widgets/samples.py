"""Clips drawn while training, step by step, beside the person's photo and what the model made before."""

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
from pvtool.dashboard.follow.run_history import Sample
from pvtool.dashboard.marks import prompt_words
from pvtool.dashboard.widgets.picture import ClipView

_NONE = "No sample yet. s draws some now; training.sample_every draws them by itself."


class Samples(Widget, can_focus=True):
    """Reference, before training, and a step's clip of one prompt; the newest step until another one is chosen."""

    BINDINGS = keys.CLIPS
    DEFAULT_CSS = """
    Samples {
        height: 1fr;
        layout: vertical;
        Horizontal { height: 1fr; }
        ClipView { width: 1fr; height: 1fr; margin: 0 1; }
        #words { height: 2; padding: 0 1; text-overflow: ellipsis; }
        &.-alone #reference, &.-alone #before { display: none; }
        &:focus #words { color: $text-accent; }
    }
    """
    step: var[int | None] = var(None)
    """The step that was chosen; None follows the newest."""
    number: var[int] = var(0)
    """Which of the step's clips."""

    def __init__(self, *, classes: str = "") -> None:
        super().__init__(classes=classes)
        self._samples: dict[int, list[Sample]] = {}
        self._path = Path()
        self._read = False

    def compose(self) -> ComposeResult:
        yield Static(id="words")
        with Horizontal():
            yield ClipView("reference", id="reference")
            yield ClipView("before training", id="before", led=True)
            yield ClipView("now", id="now")

    def show(self, known: RunView) -> None:
        """Take in the samples that there are now."""
        self._path, self._read = known.path, known.read
        self._samples = {}
        for sample in known.history.samples:
            self._samples.setdefault(sample.step, []).append(sample)
        references = known.seen.references
        self._put("#reference", references[0] if references else None, "reference")
        self._draw()

    def _draw(self) -> None:
        sample = self._chosen()
        if sample is None:
            self.query_one("#words", Static).update(
                _NONE if self._read else "Reading…", layout=False
            )
            return
        first = self._sample(min(self._samples))
        steps = sorted(self._samples)
        place = "newest" if self.step is None else f"{steps.index(sample.step) + 1} of {len(steps)}"
        self._put("#now", self._path / sample.path, f"step {sample.step}, {place}")
        self._put(
            "#before",
            self._path / first.path,
            "before training" if first.step == 0 else f"step {first.step}",
        )
        count = len(self._samples[sample.step])
        about = f"  clip {self.number % count + 1} of {count}, seed {sample.seed}  {sample.path}"
        self.query_one("#words", Static).update(
            Content.assemble(prompt_words(sample.prompt), (about, "$text-muted")), layout=False
        )

    def _put(self, name: str, path: Path | None, title: str) -> None:
        """Show a file, unless it is shown already: reading it costs a process."""
        clip = self.query_one(name, ClipView)
        if (clip.path, clip.title) != (
            path,
            title,
        ) or not clip.frames:  # it may have been on its way when it was tried
            clip.show(path, title)

    def _chosen(self) -> Sample | None:
        step = self.step if self.step in self._samples else max(self._samples, default=None)
        return None if step is None else self._sample(step)

    def _sample(self, step: int) -> Sample:
        clips = self._samples[step]
        return clips[self.number % len(clips)]

    def on_clip_view_turned(self, event: ClipView.Turned) -> None:
        """What was before and what is now are compared frame by frame."""
        event.stop()
        if event.clip.id == "now":
            self.query_one("#before", ClipView).follow(event.frame)

    def action_step(self, by: int) -> None:
        steps = sorted(self._samples)
        if not steps:
            return
        at = steps.index(self.step) if self.step in steps else len(steps) - 1
        wanted = max(0, min(len(steps) - 1, at + by))
        self.step = None if wanted == len(steps) - 1 else steps[wanted]
        self._draw()

    def action_prompt(self, by: int) -> None:
        self.number += by
        self._draw()

    def action_play(self) -> None:
        now = self.query_one("#now", ClipView)
        now.playing = not now.playing
        self.query_one("#before", ClipView).playing = now.playing

    def action_frame(self, by: int) -> None:
        for clip in self.query("#now, #before").results(ClipView):
            clip.playing = False
            clip.frame(by)

    @property
    def alone(self) -> bool:
        """Whether the clip is enlarged."""
        return self.has_class("-alone")

    def action_enlarge(self) -> None:
        self.toggle_class("-alone")

    def action_copy_path(self) -> None:
        if sample := self._chosen():
            self.run_worker(
                copy(self, str(self._path / sample.path)), group="copy", exit_on_error=False
            )
