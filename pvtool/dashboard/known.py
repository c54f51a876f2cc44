"""All that a run's screen knows at one moment, handed to each of its panes."""

from dataclasses import dataclass
from pathlib import Path

from pvtool.dashboard.history import History
from pvtool.facts import RunFacts
from pvtool_core.config import TrainJob
from pvtool_core.runs import ExitRecord


@dataclass
class Known:
    """`job` and `ended` are None until they are read, or where they cannot be; `overlay` is another run's history."""

    path: Path
    facts: RunFacts
    history: History
    job: TrainJob | None = None
    ended: ExitRecord | None = None
    overlay: History | None = None
    overlay_name: str = ""
    overlay_job: TrainJob | None = None

    def references(self) -> list[Path]:
        """The photos of the person, where this machine has them."""
        folder = Path(self.job.identity.folder) if self.job else None
        return sorted((folder / "references").glob("[!.]*")) if folder else []
