"""An index of all runs in the order of their creation, which reads changed runs only.

The recorded settings of runs and the summaries of ended runs are stored in `<cache>/runs.json`,
with the time and size of the files that they were read from. The file is a cache: without it
everything is read again.
"""

import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import orjson

from pvtool_core.errors import PvError
from pvtool_core.files import replace_file
from pvtool_core.paths import run_index_file, runs_dir
from pvtool_core.store.identities import Identity
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import RunFolder, list_runs
from pvtool_core.store.summary import RunOrigin, RunSummary, run_origin, summarize_run
from pvtool_core.store.trend import Trend

_ENDED = frozenset({State.FINISHED, State.STOPPED, State.FAILED})
_FORMAT = 5
_FEW = 100  # below this number of runs, reading them is fast and no index is written
_MAX_BYTES = 1 << 26
Stamp = list[int]


class RunIndex:
    """The runs under `root`.

    The methods read files; call them in a thread from the dashboard, one at a time.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or runs_dir()
        self._file = run_index_file()
        self._origins: dict[str, tuple[Stamp, RunOrigin]] = {}
        self._facts: dict[str, tuple[list[Stamp], RunSummary]] = {}
        self._unsaved = 0
        self._load()

    def facts(self) -> list[RunSummary]:
        """Return the summary of each run, oldest first."""
        found = [(self._created(folder), self._facts_of(folder)) for folder in self._folders()]
        self._save()
        return [facts for _, facts in sorted(found, key=lambda pair: pair[0])]

    def by_identity(self) -> dict[str, list[RunFolder]]:
        """Return the runs, oldest first, by the fingerprint of their identity."""
        found: dict[str, list[tuple[float, RunFolder]]] = {}
        for folder in self._folders():
            if origin := self._origin_or_none(folder):
                found.setdefault(origin.fingerprint, []).append((origin.created, folder))
        self._save()
        return {
            fingerprint: [folder for _, folder in sorted(runs, key=lambda pair: pair[0])]
            for fingerprint, runs in found.items()
            if fingerprint
        }

    def _folders(self) -> list[RunFolder]:
        """List the runs, and remove deleted ones from the index."""
        folders = list_runs(self.root)
        names = {str(folder.path) for folder in folders}
        for known in (self._origins, self._facts):
            for name in known.keys() - names:
                if Path(name).parent == self.root:
                    del known[name]
        return folders

    def _created(self, folder: RunFolder) -> float:
        """Return when a run was created; for invalid settings, when config.toml was written."""
        if origin := self._origin_or_none(folder):
            return origin.created
        stamp = _stamp(folder.config)
        return stamp[0] / 1e9 if stamp else 0.0

    def _origin_or_none(self, folder: RunFolder) -> RunOrigin | None:
        try:
            return self._origin(folder)
        except (PvError, OSError):  # reported as the run's problem in `facts`
            return None

    def _origin(self, folder: RunFolder) -> RunOrigin:
        """Return the recorded settings of a run, from the index if they are unchanged."""
        name, stamp = str(folder.path), _stamp(folder.config)
        known = self._origins.get(name)
        if known and known[0] == stamp:
            return known[1]
        origin = run_origin(folder)
        if origin.recorded:  # otherwise the time is that of the first event, not written yet
            self._origins[name] = stamp, origin
            self._unsaved += 1
        return origin

    def _facts_of(self, folder: RunFolder) -> RunSummary:
        """Return the summary of a run, from the index if it has ended and is unchanged."""
        name = str(folder.path)
        files = (
            folder.config,
            folder.exit,
            folder.status,
            folder.best,
            folder.notes,
            folder.events,
        )
        stamps = [_stamp(file) for file in files]
        known = self._facts.get(name)
        if known and known[0] == stamps:
            return known[1]
        facts = summarize_run(folder, self._origin)
        self._facts.pop(name, None)
        if facts.state in _ENDED and not facts.problem:
            self._facts[name] = stamps, facts
            self._unsaved += 1
        return facts

    def _load(self) -> None:
        """Load the index of an earlier process; invalid entries are ignored."""
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            if self._file.stat().st_size > _MAX_BYTES:
                return
            table = cast("dict[str, Any]", orjson.loads(self._file.read_bytes()))
            if table["format"] == _FORMAT:
                self._origins = {
                    name: (stamp, _origin(values))
                    for name, (stamp, values) in table["origins"].items()
                }
                self._facts = {
                    name: (stamps, _facts(values))
                    for name, (stamps, values) in table["facts"].items()
                }

    def _save(self) -> None:
        """Save the index if enough entries are new. Errors of writing are ignored."""
        if self._unsaved < _FEW:
            return
        self._unsaved = 0
        table = {
            "format": _FORMAT,
            "origins": {
                name: (stamp, asdict(origin)) for name, (stamp, origin) in self._origins.items()
            },
            "facts": {
                name: (stamps, asdict(facts)) for name, (stamps, facts) in self._facts.items()
            },
        }
        with suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._file, orjson.dumps(table), mode=0o600)


def runs_of(person: Identity) -> list[RunFolder]:
    """Return the runs trained on this identity, oldest first.

    Those of another identity of the same name are excluded.
    """
    return RunIndex().by_identity().get(person.ref.fingerprint, [])


def _origin(values: dict[str, Any]) -> RunOrigin:
    values["sweeps"] = tuple(values["sweeps"])
    return RunOrigin(**values)


def _facts(values: dict[str, Any]) -> RunSummary:
    values["state"] = State(values["state"])
    losses = cast("dict[str, dict[str, Any] | None]", values["losses"])
    values["tags"], values["sweeps"] = tuple(values["tags"]), tuple(values["sweeps"])
    values["losses"] = {name: trend and Trend(**trend) for name, trend in losses.items()}
    return RunSummary(**values)


def _stamp(file: Path) -> Stamp:
    """Return a value that changes with the file; nothing for a missing file."""
    try:
        found = os.stat(file)  # noqa: PTH116 - thousands of files
    except OSError:
        return []
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino]
