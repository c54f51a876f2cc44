"""Looks at all runs of a data folder, again and again, and only at what may have changed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pvtool_core.store.run_index import RunIndex
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import RunSummary


@dataclass
class Runs:
    """The runs under `root`. `look` reads files, so it belongs into a thread; one at a time."""

    root: Path
    _index: RunIndex = field(init=False)

    def __post_init__(self) -> None:
        self._index = RunIndex(self.root)

    def look(self) -> list[RunSummary]:
        """Every run there is, newest first."""
        return list(reversed(self._index.facts()))

    def folder(self, name: str) -> RunFolder:
        return RunFolder(self.root / name)


class FollowsRuns(Protocol):
    """The application as screens see it: all runs and the newest summaries of them."""

    runs: Runs
    facts: list[RunSummary] | None
