"""Data of a run's screen, passed to each of its panes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pvtool.dashboard.follow.run_history import RunHistory
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.objectives import DEFAULT_OBJECTIVE, OBJECTIVES, ObjectiveInfo
from pvtool_core.store.evaluation_report import EvaluationReport
from pvtool_core.store.runs import ExitRecord
from pvtool_core.store.summary import RunSummary


@dataclass(frozen=True)
class RunSnapshot:
    """State of a run at one moment.

    `job`, `exit_record` and `evaluation` are None if they are missing or unreadable.
    `evaluation_problem` is why the evaluation is unreadable, and `evaluation_stamp` changes with
    its report. `checkpoints` are steps. `preset` has the settings of the run's preset by name, as
    this machine has it now; None if it has none of that name.
    """

    summary: RunSummary
    job: TrainJob | None = None
    exit_record: ExitRecord | None = None
    references: tuple[Path, ...] = ()
    checkpoints: tuple[int, ...] = ()
    evaluation: EvaluationReport | None = None
    evaluation_problem: str = ""
    evaluation_stamp: tuple[int, int] | None = None
    preset: Mapping[str, str] | None = None


@dataclass
class RunView:
    """A run as shown on its screen.

    `overlay` is the history of another run; `loaded` is true once all events have been read.
    """

    path: Path
    snapshot: RunSnapshot
    history: RunHistory
    overlay: RunHistory | None = None
    overlay_name: str = ""
    overlay_job: TrainJob | None = None
    read_error: str = ""
    loaded: bool = False

    @property
    def summary(self) -> RunSummary:
        return self.snapshot.summary

    @property
    def job(self) -> TrainJob | None:
        return self.snapshot.job

    @property
    def objective(self) -> ObjectiveInfo:
        """Return the objective of the run; the default one until its settings are read."""
        return OBJECTIVES[self.job.training.objective if self.job else DEFAULT_OBJECTIVE]


def references_of(job: TrainJob) -> tuple[Path, ...]:
    """Return the reference photos of a run's identity, if they are on this machine.

    Reads a folder: call it in a thread.
    """
    return tuple(sorted((Path(job.identity.folder) / "references").glob("[!.]*")))
