"""Looks at all runs of a data folder, again and again, and only at what may have changed."""

from dataclasses import dataclass, field
from pathlib import Path

from pvtool.facts import RunFacts, run_facts
from pvtool_core.runs import RunFolder, State, list_runs

_ENDED = frozenset({State.FINISHED, State.STOPPED, State.FAILED})
_Seen = tuple[int, int]


@dataclass
class Runs:
    """The runs under `root`. `look` reads files, so it belongs into a thread; one at a time."""

    root: Path
    _known: dict[str, tuple[_Seen, RunFacts]] = field(default_factory=dict[str, tuple[_Seen, RunFacts]])

    def look(self) -> list[RunFacts]:
        """Every run there is, newest first."""
        folders = list_runs(self.root)
        self._known = {name: known for name, known in self._known.items() if name in {run.name for run in folders}}
        return [self._facts(folder) for folder in reversed(folders)]

    def folder(self, name: str) -> RunFolder:
        return RunFolder(self.root / name)

    def _facts(self, folder: RunFolder) -> RunFacts:
        seen = _changed(folder.exit), _changed(folder.events)
        known = self._known.get(folder.name)
        if known and known[0] == seen and known[1].state in _ENDED:
            return known[1]
        facts = run_facts(folder)
        self._known[folder.name] = seen, facts
        return facts


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
