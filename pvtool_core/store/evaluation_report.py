"""Results of `pv eval` in a run folder, read from report.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pvtool_core.errors import BrokenRun
from pvtool_core.settings.jobs import REPORT
from pvtool_core.store.runs import RunFolder
from pvtool_core.untrusted import Irregular, TooLarge, is_folder, parse_json, read_regular

_REPORT_BYTES = 1 << 26
EVALUATION, CHECKPOINT_EVALUATION = "evaluation", "evaluation-checkpoints"
"""Default folders of evaluations, in the run folder."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval; `low` and `high` are None for one prompt only."""

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """Return the estimate of a JSON object. Raises ValueError, TypeError or KeyError."""
        low, high = value.get("low"), value.get("high")
        return cls(
            mean=float(value["mean"]),
            low=None if low is None else float(low),
            high=None if high is None else float(high),
        )

    @property
    def excludes_zero(self) -> bool:
        """Return whether 0 is outside of the interval."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """A metric of an evaluation: means and differences from the reference, by method.

    `rewarded` is true for a score that training optimises.
    """

    name: str
    label: str
    rewarded: bool
    means: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """An evaluation: the number of clips by method, and the results.

    `reference` is the method that differences are taken against, or empty. `skipped` and `failed`
    are the numbers of metrics without weights and of clips that could not be scored.
    """

    path: Path
    clips: Mapping[str, int]
    reference: str
    metrics: tuple[MetricResult, ...]
    alarms: tuple[str, ...]
    skipped: int
    failed: int


def read_report(folder: RunFolder, place: str = EVALUATION) -> EvaluationReport | None:
    """Return the results of the evaluation of a run; None if it was not evaluated.

    Raises BrokenRun if the file is invalid.
    """
    path = folder.path / place / REPORT
    if not is_folder(path.parent):
        return None
    try:
        return _parse(path, parse_json(read_regular(path, _REPORT_BYTES)))
    except FileNotFoundError:
        return None
    except (Irregular, TooLarge) as error:
        raise BrokenRun(path, f"it {error.problem}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokenRun(path, str(error)) from error


def report_stamp(folder: RunFolder) -> tuple[int, int] | None:
    """Return a value that changes with the report of a run; None without one."""
    try:
        found = (folder.path / EVALUATION / REPORT).lstat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _parse(path: Path, report: Mapping[str, Any]) -> EvaluationReport:
    methods: dict[str, dict[str, Any]] = dict(report["methods"])
    return EvaluationReport(
        path=path,
        clips={str(name): int(method["clips"]) for name, method in methods.items()},
        reference=str(report["reference"] or ""),
        metrics=tuple(
            MetricResult(
                name=str(name),
                label=str(metric["label"]),
                rewarded=bool(metric["reward"]),
                means=_estimates(methods, "means", name),
                differences=_estimates(methods, "differences", name),
            )
            for name, metric in report["metrics"].items()
        ),
        alarms=tuple(map(str, report["alarms"])),
        skipped=len(report["skipped"]),
        failed=len(report["failed"]),
    )


def _estimates(
    methods: Mapping[str, Mapping[str, Any]], kind: str, metric: str
) -> dict[str, Estimate]:
    """Return the estimates of a metric by method; a value of a set of clips has no interval."""
    found: dict[str, Estimate] = {}
    for name, method in methods.items():
        if value := method.get(kind, {}).get(metric):
            found[name] = Estimate.parse(value)
        elif kind == "means" and (number := method.get("sets", {}).get(metric)) is not None:
            found[name] = Estimate(mean=float(number), low=None, high=None)
    return found
