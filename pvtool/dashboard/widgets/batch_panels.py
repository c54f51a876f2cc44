"""What a batch of clips looks like: how far it is, its engines, what failed, and the newest clips."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static
from textual.widgets.option_list import Option

from pvtool.dashboard import keys
from pvtool.dashboard.follow.batch import BatchSnapshot, Worker
from pvtool.dashboard.follow.batch_history import BatchHistory, ClipEvent, ClipState, WorkerProgress
from pvtool.dashboard.marks import prompt_words, state_words
from pvtool.dashboard.widgets.choices import Choices
from pvtool.dashboard.widgets.picture import ClipView
from pvtool.dashboard.widgets.progress import ProgressLine
from pvtool.text import duration, plain, shown
from pvtool_core.store.liveness import State

_CLIP_COLUMNS = 60
_MOST_CLIPS = 4
_MOST_FAILURES = 500
_COUNTED = {
    ClipState.DONE: "made",
    ClipState.SKIPPED: "there before",
    ClipState.ELSEWHERE: "made elsewhere",
    ClipState.FAILED: "failed",
}


@dataclass
class BatchView:
    """All that a batch's screen knows at one moment. `now` is what the rate is of: the end, once it has ended."""

    path: Path
    seen: BatchSnapshot
    rendering: BatchHistory = field(default_factory=BatchHistory)
    now: float = 0.0
    trouble: str = ""
    read: bool = False


class BatchProgress(Vertical):
    """One batch in three lines, and what is wrong with it in a fourth."""

    DEFAULT_CSS = """
    BatchProgress {
        height: auto;
        padding: 0 1;
        .line { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
        #bar { color: $primary; }
        #alarm { height: auto; max-height: 3; padding: 0 1; display: none; }
        #alarm { background: $error-muted; color: $text-error; }
        #alarm.-shown { display: block; }
        #alarm.-mild { background: $warning-muted; color: $text-warning; }
    }
    """

    def compose(self) -> ComposeResult:
        yield Static(classes="line", id="facts")
        yield ProgressLine(classes="line", id="bar")
        yield Static(classes="line", id="counts")
        yield Static(id="alarm", markup=False)

    def show(self, known: BatchView) -> None:
        """Say what is known now."""
        self.query_one("#facts", Static).update(_facts(known), layout=False)
        self.query_one(ProgressLine).show(*_bar(known.rendering))
        self.query_one("#counts", Static).update(_counts(known), layout=False)
        bad, words = alarm(known)
        field = self.query_one("#alarm", Static)
        field.set_class(bool(words), "-shown").set_class(not bad, "-mild")
        field.update(plain(words))


def _facts(known: BatchView) -> Content:
    seen, rendering = known.seen, known.rendering
    parts = [state_words(seen.state), Content.styled(seen.name, "bold")]
    parts.append(Content(f"{grouped(rendering.there)}/{grouped(rendering.total)} clips"))
    if rate := rendering.rate(known.now):
        parts.append(Content(f"{hourly(rate)} an hour"))
    if seen.live and (left := rendering.eta(known.now)) is not None:
        parts.append(Content(f"{duration(left)} left"))
    return Content("  ").join(parts)


def _bar(rendering: BatchHistory) -> tuple[float, str]:
    share = rendering.there / rendering.total if rendering.total else 0.0
    return share, f" {int(100 * share)}%"  # 100 only when all are there


def _counts(known: BatchView) -> Content:
    rendering = known.rendering
    parts = [
        Content.styled(
            f"{grouped(count)} {words}", "$text-error" if outcome is ClipState.FAILED else ""
        )
        for outcome, words in _COUNTED.items()
        if (count := rendering.failed if outcome is ClipState.FAILED else rendering.counts[outcome])
        or outcome is ClipState.DONE
    ]
    parts += [Content(f"{grouped(rendering.left)} to make")] if rendering.left else []
    parts += (
        [Content.styled(f"in {plain(shown(Path(known.seen.out)))}", "$text-muted")]
        if known.seen.out
        else []
    )
    return Content("  ").join(parts)


def alarm(known: BatchView) -> tuple[bool, str]:
    """What a person should know at once, and whether it is bad; empty words if all is well."""
    seen = known.seen
    if known.trouble or seen.problem:
        return True, f"{known.trouble} {seen.problem}".strip()
    if lost := [worker.name for worker in seen.workers if worker.state is State.LOST]:
        rest = (
            "the others make its clips"
            if seen.live
            else "the same `pv render` goes on with what is missing"
        )
        return True, f"{', '.join(lost)} is gone and left no word; {rest}."
    if failed := [
        worker for worker in seen.workers if worker.state is State.FAILED and worker.problem
    ]:
        return True, f"{failed[0].name}: {failed[0].problem}" if len(seen.workers) > 1 else failed[
            0
        ].problem
    if warnings := [words for hand in known.rendering.hands.values() for words in hand.warnings]:
        return False, warnings[-1] + (f" ({len(warnings)} warnings)" if len(warnings) > 1 else "")
    if known.rendering.unreadable:
        return (
            False,
            f"{known.rendering.unreadable} lines of events.jsonl are unreadable, and left out.",
        )
    return False, ""


def grouped(number: int) -> str:
    """`12345` as `12 345`."""
    return f"{number:,}".replace(",", " ")


def hourly(rate: float) -> str:
    """Clips an hour, with a decimal only where there are few."""
    return f"{rate:.1f}" if rate < 10 else grouped(round(rate))


class Workers(VerticalScroll):
    """One line an engine: how it is, on what, and what it is at."""

    DEFAULT_CSS = """
    Workers { height: auto; max-height: 4; padding: 0 1; }
    Workers > Static { text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self) -> None:
        super().__init__(can_focus=False)

    def compose(self) -> ComposeResult:
        yield Static()

    def show(self, known: BatchView) -> None:
        """List the engines."""
        hands, workers = known.rendering.hands, known.seen.workers
        lines = [
            _worker_line(worker, hands.get(worker.name, WorkerProgress())) for worker in workers
        ]
        self.query_one(Static).update(
            Content("\n").join(lines) if lines else "No engine has begun yet."
        )


def _worker_line(worker: Worker, hand: WorkerProgress) -> Content:
    parts = [
        state_words(worker.state),
        Content(worker.name),
        Content.styled(_device(worker, hand), "$text-muted"),
    ]
    if worker.state in {State.STARTING, State.RUNNING} and hand.stage[0] == "loading":
        parts.append(Content("loading the model"))
    elif hand.newest:
        parts.append(
            Content(f"{hand.newest.identity}, seed {hand.newest.seed}: ")
            + prompt_words(hand.newest.prompt)
        )
    return Content("  ").join(parts)


def _device(worker: Worker, hand: WorkerProgress) -> str:
    """What it computes on, with its newest figures where there is an accelerator."""
    index = int(number) if (number := worker.device.partition(":")[2]).isdecimal() else 0
    for device in hand.devices if worker.device != "cpu" else ():
        used, total, load = (
            device.get(name) for name in ("memory_used", "memory_total", "utilisation")
        )
        if device.get("index") == index and used is not None and total:
            busy = f" {load:.0f} %" if load is not None else ""
            return f"{worker.device} {device.get('name', '')} {used / 2**30:.1f}/{total / 2**30:.0f} GiB{busy}"
    return worker.device


class Newest(Horizontal):
    """The clips that were made last, playing, as many as there is room for."""

    DEFAULT_CSS = """
    Newest { height: 1fr; min-height: 6; }
    Newest ClipView { margin: 0 1; }
    Newest #none { width: 1fr; height: 1fr; content-align: center middle; color: $text-muted; }
    """

    def compose(self) -> ComposeResult:
        yield Static("No clip yet.", id="none")
        for number in range(_MOST_CLIPS):
            clip = ClipView(id=f"clip-{number}")
            clip.display = False
            yield clip

    @property
    def room(self) -> int:
        """How many clips fit beside one another."""
        return max(1, min(_MOST_CLIPS, self.size.width // _CLIP_COLUMNS))

    def show(self, clips: Sequence[ClipEvent]) -> None:
        """Play these; one that plays already goes on where it is."""
        self.query_one("#none").display = not clips
        for clip, told in zip(self.query(ClipView), [*clips, *[None] * _MOST_CLIPS], strict=False):
            clip.display = told is not None
            if told and (clip.path != told.film or not clip.frames):
                clip.show(told.film, plain(f"{told.identity}, seed {told.seed}: {told.prompt}"))

    def play(self) -> None:
        """Play all, or hold all."""
        clips = [clip for clip in self.query(ClipView) if clip.display]
        playing = not any(clip.playing for clip in clips)
        for clip in clips:
            clip.playing = playing


class FailureList(Choices):
    """The clips that failed, the newest first, each with its reason."""

    BINDINGS = keys.FAILURES
    DEFAULT_CSS = """
    FailureList { height: auto; max-height: 6; display: none; border-top: solid $panel; padding: 0 1; }
    FailureList { border-title-color: $text-error; text-wrap: nowrap; text-overflow: ellipsis; }
    FailureList:focus { border-top: solid $accent; }
    FailureList.-some { display: block; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._listed: tuple[int, str] = (0, "")

    def show(self, rendering: BatchHistory) -> None:
        """List them, unless they are the same as before."""
        failures = rendering.all_failures
        state = (len(failures), failures[-1].path if failures else "")
        if state == self._listed:
            return
        self._listed = state
        self.set_class(bool(failures), "-some")
        self.fill(map(_failure, reversed(failures[-_MOST_FAILURES:])))
        more = (
            f", the newest {_MOST_FAILURES} of them here" if len(failures) > _MOST_FAILURES else ""
        )
        self.border_title = f"{grouped(len(failures))} failed{more}; enter shows all of a reason"


def _failure(told: ClipEvent) -> Option:
    who = Content.styled(plain(told.who), "bold")
    return Option(Content.assemble(who, "  ", plain(told.reason)), id=told.path)
