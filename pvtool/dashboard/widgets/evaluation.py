"""Held-out scores of a run: those of its samples by step, and the results of `pv eval`."""

from collections.abc import Callable, Sequence

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from pvtool.dashboard.aligned_rows import aligned_rows
from pvtool.dashboard.follow.run import RunView
from pvtool.dashboard.marks import BEST
from pvtool.dashboard.widgets.identity_list import count_noun
from pvtool.text import describe_estimate, plain, shown
from pvtool_core.settings.sample_metrics import LIKENESS, SAMPLE_METRICS
from pvtool_core.store.evaluation_report import Estimate, EvaluationReport, MetricResult
from pvtool_core.store.events import ScoresEvent

_SHORTEST = 12
_NEWEST = 12
_AGAINST = "motion as a fraction of the base model's, CLIP-T as the difference"
_NOT_SCORED = "No scores yet. Samples are scored if training.score_samples is true."


class EvaluationPane(VerticalScroll, can_focus=True):
    """Tables of the scores of samples, newest first, and of the evaluation."""

    DEFAULT_CSS = """
    EvaluationPane { padding: 0 1; }
    """

    def compose(self) -> ComposeResult:
        yield Static(markup=False)

    def show(self, run: RunView) -> None:
        """Show the current scores."""
        lines = [
            _heading(
                "Samples", "motion as a fraction of the base model's, CLIP-T as the difference"
            ),
            *_samples(run),
            Content(),
            _heading("Evaluation"),
        ]
        report = run.snapshot.evaluation
        if run.snapshot.evaluation_problem:
            lines.append(Content.styled(plain(run.snapshot.evaluation_problem), "$text-error"))
        elif report is None:
            lines.append(Content(f"Not evaluated yet. Run `pv eval {run.summary.run}`."))
        else:
            lines += _evaluation(report, self.scrollable_content_region.width)
        self.query_one(Static).update(Content("\n").join(lines))


def _heading(text: str, note: str = "") -> Content:
    return Content.assemble((text, "bold $text-accent"), "  ", (note, "$text-muted"))


def _samples(run: RunView) -> list[Content]:
    """Return a row for each of the newest scored steps, and for the best one."""
    scored, best = run.history.scored_steps, run.history.scores.best
    if not scored:
        return [Content(_NOT_SCORED)]
    steps = sorted(scored, reverse=True)
    shown = [step for step in steps[:_NEWEST] if not best or step != best.step]
    if best:
        shown = sorted([*shown, best.step], reverse=True)
    names = [name for name in SAMPLE_METRICS if any(name in scored[step].scores for step in shown)]
    header = ["step", *(SAMPLE_METRICS[name].info.label for name in names), "checkpoint"]
    rows = [
        [
            str(step),
            *(_score(scored[step], name) for name in names),
            BEST if best and step == best.step else _saved(step, run.snapshot.checkpoints),
        ]
        for step in shown
    ]
    lines = aligned_rows(header, rows, right=True)
    hidden = len(steps) - len(shown)
    return [*lines, Content.styled(f"and {hidden} earlier", "$text-muted")] if hidden else lines


def _saved(step: int, checkpoints: Sequence[int]) -> str:
    return "saved" if step in checkpoints else ""


def _score(event: ScoresEvent, name: str) -> str:
    """Return a score; the likeness with its difference from the base model's clips."""
    value = SAMPLE_METRICS[name].shown(event.scores.get(name), event.base.get(name))
    if value is None:
        return ""
    if name != LIKENESS or LIKENESS not in event.base:
        return f"{value:.3f}"
    change = f"({value - event.base[LIKENESS]:+.3f})" if event.step else " " * 8
    return f"{value:.3f} {change}"


def _evaluation(report: EvaluationReport, width: int) -> list[Content]:
    """Return the results, in `width` cells if possible, and notes."""
    counts = ", ".join(f"{count} of {method}" for method, count in report.clips.items())
    notes = [f"Clips: {counts}. {shown(report.path)}"]
    if report.skipped:
        notes += [f"{count_noun(report.skipped, 'metric')} skipped: `pv eval` names them."]
    if report.failed:
        notes += [f"{count_noun(report.failed, 'clip')} could not be scored."]
    lines = _results(report, describe_estimate)
    if max(line.cell_length for line in lines) > width:
        lines = _results(report, lambda estimate: f"{estimate.mean:.3f}")
    if (excess := max(line.cell_length for line in lines) - width) > 0:
        longest = max((len(_label(metric)) for metric in report.metrics), default=0) - excess
        lines = _results(report, lambda estimate: f"{estimate.mean:.3f}", max(_SHORTEST, longest))
    return [
        *(Content.styled(f"Alarm: {plain(alarm)}", "$text-warning") for alarm in report.alarms),
        *lines,
        *(Content.styled(plain(note), "$text-muted") for note in notes),
    ]


def _results(
    report: EvaluationReport, mean: Callable[[Estimate], str], label: int = 99
) -> list[Content]:
    """Return a table of means by method and of differences, with labels of `label` characters."""
    others = [name for name in report.clips if name != report.reference and report.reference]
    header = ["metric", *report.clips, *(f"{name} - {report.reference}" for name in others)]

    def row(metric: MetricResult) -> list[str]:
        name, means = _label(metric), [metric.means.get(method) for method in report.clips]
        return [
            name if len(name) <= label else f"{name[: label - 1]}…",
            *(mean(each) if each else "" for each in means),
            *(_change(metric.differences.get(method)) for method in others),
        ]

    metrics = sorted(report.metrics, key=lambda metric: metric.rewarded)
    return aligned_rows(header, list(map(row, metrics)))


def _label(metric: MetricResult) -> str:
    return f"{metric.label} (reward)" if metric.rewarded else metric.label


def _change(estimate: Estimate | None) -> str:
    """Return a difference; one whose interval contains 0 is marked as not significant."""
    if estimate is None:
        return ""
    return describe_estimate(estimate, "+") + ("" if estimate.excludes_zero else " n.s.")
