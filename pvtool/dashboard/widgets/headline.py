"""Headline of a run: two lines, and a third for problems."""

import time

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from pvtool.dashboard.follow.run import RunView
from pvtool.dashboard.follow.run_history import LIKENESS_CURVE, RunHistory
from pvtool.dashboard.marks import BEST, number, state_content
from pvtool.dashboard.widgets.progress import ProgressLine
from pvtool.text import duration, plain
from pvtool_core.settings.sample_metrics import LIKENESS
from pvtool_core.store.liveness import State

_SILENCE_SECONDS = 600.0


class Headline(Vertical):
    """State, name, step, remaining time, likeness, losses, and alarms."""

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
        self._alarm = (False, "")

    def compose(self) -> ComposeResult:
        yield Static(classes="line", id="summary")
        yield ProgressLine(classes="line", id="progress")
        yield Static(id="alarm", markup=False)

    def show(self, run: RunView) -> None:
        """Show the current state."""
        self.query_one("#summary", Static).update(
            _summary(run, self.app.size.width - 2), layout=False
        )
        self.query_one(ProgressLine).show(*_progress(run))
        if (current := alarm(run)) != self._alarm:  # a change causes a layout of the whole screen
            self._alarm = is_error, message = current
            field = self.query_one("#alarm", Static)
            field.update(plain(message))
            field.set_class(bool(message), "-shown")
            field.set_class(not is_error, "-mild")


def _summary(run: RunView, width: int) -> Content:
    """Return state, name, step, and as many smoothed values as fit into `width` cells."""
    summary, history = run.summary, run.history
    step = max(summary.step, history.step)
    parts = [state_content(summary.state), Content.styled(summary.run, "bold")]
    if summary.identity:
        parts.append(Content(f"{summary.identity} on {summary.preset}"))
    parts.append(Content(f"step {step}/{summary.iterations}"))
    if summary.state == State.RUNNING and history.eta:
        parts.append(Content(f"{duration(history.eta)} left"))
    figures: list[Content] = []
    if LIKENESS_CURVE in history.curves:
        figures.append(Content(f"likeness {number(history.curves[LIKENESS_CURVE].last)}"))
    if best := history.scores.best:
        likeness = number(best.scores[LIKENESS])
        figures.append(Content.styled(f"{BEST} {likeness} at {best.step}", "$text-success"))
    figures += [
        Content(f"{info.label or name} {number(trend.mean)}{trend.arrow}")
        for name, info in run.objective.losses.items()
        if name in history.curves and (trend := history.curves[name].trend)
    ]
    for figure in figures:
        longer = Content("  ").join([*parts, figure])
        if longer.cell_length > width:
            break
        parts.append(figure)
    return Content("  ").join(parts)


def _progress(run: RunView) -> tuple[float, str]:
    """Return the completed fraction from 0 to 1, and the text after the bar."""
    stage, done, total = run.history.stage
    summary = run.summary
    if summary.state in {State.STARTING, State.RUNNING} and stage and stage != "training":
        fraction = done / total if total else 0.0
        text = f" {stage} {done}/{total}" if total else f" {stage}"
    else:
        fraction = summary.step / summary.iterations if summary.iterations else 0.0
        text = f" {fraction:.0%}"
    return fraction, text


def alarm(run: RunView) -> tuple[bool, str]:
    """Return whether the most urgent problem is an error, and its message (empty without one)."""
    summary, exit_record, history = run.summary, run.snapshot.exit_record, run.history
    if run.read_error or summary.problem:
        return True, f"{run.read_error} {summary.problem}".strip()
    if summary.state == State.LOST:
        resume = f"Press r to resume {_resume_point(run)}."
        return True, f"Engine process lost. {resume} Check the engine output in the log."
    if summary.state == State.FAILED and exit_record:
        return True, f"{exit_record.message or exit_record.reason} {exit_record.hint}".strip()
    if summary.state == State.FINISHED and exit_record and exit_record.reason:
        return False, f"Training ended early. {exit_record.reason}"
    silence = time.time() - history.last_update
    if summary.state == State.RUNNING and silence > _max_silence(history):
        minutes = f"{silence // 60:.0f}"
        return False, f"No events for {minutes} minutes; the engine is alive. Check its log."
    if history.alarms:
        newest, count = history.alarms[-1], len(history.alarms)
        more = f" ({count} warnings in the log)" if count > 1 else ""
        return newest.is_error, newest.message + more
    if history.unreadable:
        skipped = f"Unreadable lines in events.jsonl skipped: {history.unreadable}."
        return False, f"{skipped} The log shows them."
    return False, ""


def _max_silence(history: RunHistory) -> float:
    """Return the seconds without events before a warning: ten minutes, or five slower steps."""
    seconds = history.curves["seconds"].last if "seconds" in history.curves else None
    return max(_SILENCE_SECONDS, 5 * (seconds or 0.0))


def _resume_point(run: RunView) -> str:
    steps = run.history.checkpoints
    return f"from step {steps[-1]}" if steps else "from the beginning"
