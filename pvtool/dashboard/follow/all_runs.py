"""Summaries of all runs of data folders, reading only files that may have changed."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from pvtool_core.store.run_index import RunIndex
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import RunSummary


class _Machine:
    """Runs of another machine, named MACHINE:RUN; without its folder, those of the last reading."""

    def __init__(self, name: str, root: Path) -> None:
        self._name, self._index = name, RunIndex(root)
        self._known: dict[str, tuple[RunSummary, RunSummary]] = {}

    def summarize(self) -> list[RunSummary]:
        with suppress(OSError):  # a mount that is lost for a while
            self._known = {run.run: self._named(run) for run in self._index.facts()}
        return [named for _, named in self._known.values()]

    def _named(self, run: RunSummary) -> tuple[RunSummary, RunSummary]:
        """Return a summary and the one with the new name, the same object if unchanged."""
        known = self._known.get(run.run)
        if known and known[0] == run:
            return known
        return run, replace(run, run=f"{self._name}:{run.run}")


@dataclass
class Runs:
    """Runs under `root`, and those of other machines: `others` are their folders by name.

    `summarize` reads files: call it in a thread, one call at a time.
    """

    root: Path
    others: Mapping[str, Path] = field(default_factory=dict[str, Path])
    _index: RunIndex = field(init=False)
    _machines: list[_Machine] = field(init=False)

    def __post_init__(self) -> None:
        self._index = RunIndex(self.root)
        self._machines = [_Machine(name, root) for name, root in self.others.items()]

    def summarize(self) -> list[RunSummary]:
        """Return the summaries of all runs, newest first."""
        own = list(reversed(self._index.facts()))
        foreign = [run for machine in self._machines for run in machine.summarize()]
        return (
            sorted([*own, *foreign], key=lambda run: run.started, reverse=True) if foreign else own
        )

    def folder(self, name: str) -> RunFolder:
        """Return the folder of a run, which a summary names."""
        machine, _, run = name.rpartition(":")
        return RunFolder(self.others.get(machine, self.root) / run, name)

    def machine_of(self, folder: RunFolder) -> str:
        """Return the name of the other machine with this folder, or ""."""
        roots = {root: name for name, root in self.others.items()}
        return roots.get(folder.path.parent, "")


class RunsApp(Protocol):
    """Application with all runs and their newest summaries, as screens use it."""

    runs: Runs
    summaries: list[RunSummary] | None
