"""All that a run's screen knows at one moment, handed to each of its panes."""

from dataclasses import dataclass
from pathlib import Path

from pvtool.dashboard.follow.run_history import RunHistory
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.objectives import DEFAULT_OBJECTIVE, OBJECTIVES, ObjectiveInfo
from pvtool_core.store.runs import ExitRecord
from pvtool_core.store.summary import RunSummary


@dataclass(frozen=True)
class RunSnapshot:
    """What one look at a run found. `job` and `ended` are None where they are not there, or cannot be read."""

    facts: RunSummary
    job: TrainJob | None = None
    ended: ExitRecord | None = None
    references: tuple[Path, ...] = ()


@dataclass
class RunView:
    """`overlay` is another run's history; `read` is whether the events have been read to their end once."""

    path: Path
    seen: RunSnapshot
    history: RunHistory
    overlay: RunHistory | None = None
    overlay_name: str = ""
    overlay_job: TrainJob | None = None
    trouble: str = ""
    read: bool = False

    @property
    def facts(self) -> RunSummary:
        return self.seen.facts

    @property
    def job(self) -> TrainJob | None:
        return self.seen.job

    @property
    def objective(self) -> ObjectiveInfo:
        """What the run optimises; the default as long as its settings are unknown."""
        return OBJECTIVES[self.job.training.objective if self.job else DEFAULT_OBJECTIVE]


def references_of(job: TrainJob) -> tuple[Path, ...]:
    """The photos of a run's person, where this machine has them. Reads a folder: call it in a thread."""
    return tuple(sorted((Path(job.identity.folder) / "references").glob("[!.]*")))
