"""Summaries of all runs of a data folder, reading only files that may have changed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pvtool_core.store.run_index import RunIndex
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import RunSummary


@dataclass
class Runs:
    """Runs under `root`.

    `summarize` reads files: call it in a thread, one call at a time.
    """

    root: Path
    _index: RunIndex = field(init=False)

    def __post_init__(self) -> None:
        self._index = RunIndex(self.root)

    def summarize(self) -> list[RunSummary]:
        """Return the summaries of all runs, newest first."""
        return list(reversed(self._index.facts()))

    def folder(self, name: str) -> RunFolder:
        return RunFolder(self.root / name)


class RunsApp(Protocol):
    """Application with all runs and their newest summaries, as screens use it."""

    runs: Runs
    summaries: list[RunSummary] | None
