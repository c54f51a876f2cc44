"""Compare runs: results, differing settings and metrics of evaluations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pvtool.text import describe_estimate, duration
from pvtool_core.errors import PvError
from pvtool_core.settings.jobs import BASE_METHOD, flat_settings
from pvtool_core.settings.objectives import loss_label
from pvtool_core.store.evaluation_report import Estimate, EvaluationReport, read_report
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import RunSummary, job_of, summarize_run

T = TypeVar("T")
_OF_THE_RUN = frozenset({"run", "created", "identity.folder", "identity.fingerprint"})
_MISSING = "not set"
Rows = Mapping[str, Sequence[str]]
"""Cells of each run, by the heading of the row."""


@dataclass(frozen=True)
class RunComparison:
    """Runs in the order of their names on the command line.

    `settings` are those that differ, by dotted name. `metrics` are means of the clips with the
    adapter by label; None for a run that was not evaluated.
    """

    runs: tuple[RunSummary, ...]
    settings: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, tuple[Estimate | None, ...]]
    labels: Mapping[str, str]
    alarms: tuple[str, ...] = ()

    def results(self) -> Rows:
        """Return state, likeness, losses and times; rows without any value are left out."""
        losses = dict.fromkeys(name for run in self.runs for name in run.losses)
        rows: dict[str, Callable[[RunSummary], str]] = {
            "state": lambda run: run.state,
            "step": lambda run: f"{run.step}/{run.iterations}",
            "likeness, best": _best,
            "likeness, latest": lambda run: _figure(run.newest_likeness),
            **{loss_label(name): _loss(name) for name in losses},
            "s/step": lambda run: _figure(run.seconds_per_step, 2),
            "duration": lambda run: duration(run.duration) if run.duration else "",
            "device": lambda run: run.device,
            "started": lambda run: run.started[:16].replace("T", " "),
        }
        cells = {name: [text(run) for run in self.runs] for name, text in rows.items()}
        return {name: values for name, values in cells.items() if any(values)}

    def evaluated(self) -> Rows:
        """Return each metric with its interval."""
        return {
            self.labels[name]: [describe_estimate(each) if each else "" for each in estimates]
            for name, estimates in self.metrics.items()
        }

    def table(self) -> dict[str, Any]:
        """Return it as a table for JSON, with the names of runs as keys."""
        names = [run.run for run in self.runs]
        return {
            "runs": [run.table() for run in self.runs],
            "settings": {
                key: dict(zip(names, values, strict=True)) for key, values in self.settings.items()
            },
            "metrics": {
                metric: {
                    name: {"mean": each.mean, "low": each.low, "high": each.high}
                    for name, each in zip(names, estimates, strict=True)
                    if each
                }
                for metric, estimates in self.metrics.items()
            },
            "alarms": list(self.alarms),
        }


def compare_runs(folders: Sequence[RunFolder]) -> RunComparison:
    """Compare runs; unreadable settings and reports are left out.

    Reads files: call it in a thread.
    """
    jobs = [_or_none(lambda folder=folder: job_of(folder)) for folder in folders]
    reports = [_or_none(lambda folder=folder: read_report(folder)) for folder in folders]
    labels = _labels(reports)
    return RunComparison(
        runs=tuple(summarize_run(folder) for folder in folders),
        settings=_differences([flat_settings(job) if job else {} for job in jobs]),
        metrics={name: tuple(_adapted_mean(each, name) for each in reports) for name in labels},
        labels=labels,
        alarms=tuple(
            f"{folder.name}: {alarm}"
            for folder, report in zip(folders, reports, strict=True)
            if report
            for alarm in report.alarms
        ),
    )


def _differences(settings: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return the settings that differ, with their values in each run."""
    names = dict.fromkeys(name for each in settings for name in each)
    rows = {name: tuple(each.get(name, _MISSING) for each in settings) for name in names}
    return {
        name: values
        for name, values in rows.items()
        if len(set(values)) > 1 and name not in _OF_THE_RUN
    }


def _labels(reports: Sequence[EvaluationReport | None]) -> dict[str, str]:
    """Return the labels of all metrics by name, those that training optimises last."""
    found = [metric for report in reports if report for metric in report.metrics]
    return {
        metric.name: f"{metric.label} (reward)" if metric.rewarded else metric.label
        for metric in sorted(found, key=lambda metric: metric.rewarded)
    }


def _adapted_mean(report: EvaluationReport | None, name: str) -> Estimate | None:
    """Return the mean of the first method other than the base model."""
    for metric in report.metrics if report else ():
        if metric.name == name:
            means = [mean for method, mean in metric.means.items() if method != BASE_METHOD]
            return next(iter(means), None)
    return None


def _figure(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _best(run: RunSummary) -> str:
    return "" if run.likeness is None else f"{run.likeness:.3f} at {run.best_step}"


def _loss(name: str) -> Callable[[RunSummary], str]:
    def text(run: RunSummary) -> str:
        trend = run.losses.get(name)
        return f"{trend.mean:.3f} {trend.arrow}".rstrip() if trend else ""

    return text


def _or_none(read: Callable[[], T]) -> T | None:
    """Return the result, or None if it cannot be read: the list of runs shows the problem."""
    try:
        return read()
    except (PvError, OSError):
        return None
