"""All that a run's screen knows at one moment, handed to each of its panes."""

from dataclasses import dataclass
from pathlib import Path

from pvtool.dashboard.follow.run_history import History
from pvtool_core.settings.schema import TrainJob
from pvtool_core.store.runs import ExitRecord
from pvtool_core.store.summary import RunFacts


@dataclass(frozen=True)
class Seen:
    """What one look at a run found. `job` and `ended` are None where they are not there, or cannot be read."""

    facts: RunFacts
    job: TrainJob | None = None
    ended: ExitRecord | None = None
    references: tuple[Path, ...] = ()


@dataclass
class Known:
    """`overlay` is another run's history; `read` is whether the events have been read to their end once."""

    path: Path
    seen: Seen
    history: History
    overlay: History | None = None
    overlay_name: str = ""
    overlay_job: TrainJob | None = None
    trouble: str = ""
    read: bool = False

    @property
    def facts(self) -> RunFacts:
        return self.seen.facts

    @property
    def job(self) -> TrainJob | None:
        return self.seen.job


def references_of(job: TrainJob) -> tuple[Path, ...]:
    """The photos of a run's person, where this machine has them. Reads a folder: call it in a thread."""
    return tuple(sorted((Path(job.identity.folder) / "references").glob("[!.]*")))
