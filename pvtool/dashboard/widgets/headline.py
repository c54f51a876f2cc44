"""One run in two lines, and what is wrong with it in a third that nobody overlooks."""

import time

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from pvtool.dashboard.follow.run import RunView
from pvtool.dashboard.follow.run_history import RunHistory
from pvtool.dashboard.marks import number, state_words
from pvtool.dashboard.widgets.progress import ProgressLine
from pvtool.text import duration, plain
from pvtool_core.store.liveness import State

_PATIENCE = 600.0


class Headline(Vertical):
    """State, name, step, time left, newest figures; and alarms."""

    DEFAULT_CSS = """
    Headline {
        height: auto;
        padding: 0 1;
        .line { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
        #progress { color: $primary; }
        #alarm { height: auto; max-height: 3; padding: 0 1; display: none; }
        #alarm { background: $error-muted; color: $text-error; }
        #alarm.-shown { display: block; }
        #alarm.-mild { background: $warning-muted; color: $text-warning; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._said = (False, "")

    def compose(self) -> ComposeResult:
        yield Static(classes="line", id="facts")
        yield ProgressLine(classes="line", id="progress")
        yield Static(id="alarm", markup=False)

    def show(self, known: RunView) -> None:
        """Say what is known now."""
        self.query_one("#facts", Static).update(
            _facts(known, self.app.size.width - 2), layout=False
        )
        self.query_one(ProgressLine).show(*_progress(known))
        if (
            said := alarm(known)
        ) != self._said:  # the line below it moves, and all is laid out anew
            self._said = bad, words = said
            field = self.query_one("#alarm", Static)
            field.update(plain(words))
            field.set_class(bool(words), "-shown")
            field.set_class(not bad, "-mild")


def _facts(known: RunView, width: int) -> Content:
    """State, name, step, and as many of the smoothed figures as fit into `width` cells."""
    facts, history = known.facts, known.history
    step = max(facts.step, history.step)
    parts = [state_words(facts.state), Content.styled(facts.run, "bold")]
    if facts.identity:
        parts.append(Content(f"{facts.identity} on {facts.preset}"))
    parts.append(Content(f"step {step}/{facts.iterations}"))
    if facts.state == State.RUNNING and history.eta:
        parts.append(Content(f"{duration(history.eta)} left"))
    figures = [
        Content(f"{info.label or name} {number(trend.mean)}{trend.arrow}")
        for name, info in known.objective.losses.items()
        if name in history.curves and (trend := history.curves[name].trend)
    ]
    for figure in figures:
        longer = Content("  ").join([*parts, figure])
        if longer.cell_length > width:
            break
        parts.append(figure)
    return Content("  ").join(parts)


def _progress(known: RunView) -> tuple[float, str]:
    """Share that is done, from 0 to 1, and the words behind the bar."""
    stage, done, total = known.history.stage
    facts = known.facts
    if facts.state in {State.STARTING, State.RUNNING} and stage and stage != "training":
        share, words = (
            (done / total if total else 0.0),
            f" {stage} {done}/{total}" if total else f" {stage}",
        )
    else:
        share = facts.step / facts.iterations if facts.iterations else 0.0
        words = f" {share:.0%}"
    return share, words


def alarm(known: RunView) -> tuple[bool, str]:
    """What a person should know at once, and whether it is bad; empty words if all is well."""
    facts, ended, history = known.facts, known.seen.ended, known.history
    if known.trouble or facts.problem:
        return True, f"{known.trouble} {facts.problem}".strip()
    if facts.state == State.LOST:
        return (
            True,
            f"The engine is gone and left no word. r goes on {_from_where(known)}; its log tells more.",
        )
    if facts.state == State.FAILED and ended:
        return True, f"{ended.message or ended.reason} {ended.hint}".strip()
    if facts.state == State.RUNNING and (quiet := time.time() - history.told) > _patience(history):
        return (
            False,
            f"Nothing new for {quiet // 60:.0f} minutes; the engine lives. Its log may tell why.",
        )
    if history.alarms:
        newest, count = history.alarms[-1], len(history.alarms)
        return newest.bad, newest.message + (f" ({count} warnings in the log)" if count > 1 else "")
    if history.unreadable:
        return (
            False,
            f"{history.unreadable} lines of events.jsonl are unreadable, and left out; the log shows them.",
        )
    return False, ""


def _patience(history: RunHistory) -> float:
    """How long an engine may be silent, in seconds: ten minutes, or five of its steps where these take longer."""
    seconds = history.curves["seconds"].last if "seconds" in history.curves else None
    return max(_PATIENCE, 5 * (seconds or 0.0))


def _from_where(known: RunView) -> str:
    steps = known.history.checkpoints
    return f"from step {steps[-1]}" if steps else "from the beginning"
