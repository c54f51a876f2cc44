"""What the trajectory cache holds, and the limit to it; torch-free, so that commands can look. See trajectories.py."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pvtool_core.paths import cache_dir

_TRIMMED_TO = 0.9  # so that the next one to come does not trim again


def trajectories_dir() -> Path:
    return cache_dir() / "trajectories"


@dataclass(frozen=True)
class Entry:
    """Everything kept for one prompt and seed. `used` is when it was last read or written, in unix seconds."""

    path: Path
    bytes: int
    used: float


def entries(root: Path) -> list[Entry]:
    """What is kept, the least recently used first."""
    return sorted(_entries(root), key=lambda entry: entry.used)


def _entries(root: Path) -> Iterator[Entry]:
    for folder in root.glob("[!.]*"):
        try:
            size = sum(file.stat().st_size for file in folder.iterdir())
            yield Entry(folder, size, folder.stat().st_mtime)
        except (FileNotFoundError, NotADirectoryError):  # removed by another process, or none of ours
            continue


def clear(root: Path) -> list[Entry]:
    """Remove everything; give back what it was."""
    removed = entries(root)
    for entry in removed:
        _remove(entry)
    return removed


def _remove(entry: Entry) -> None:
    aside = entry.path.with_name(f".{entry.path.name}.removed")  # in one go, so that nobody reads a half
    try:
        entry.path.rename(aside)
    except OSError:  # another process was first, or this one may not
        return
    shutil.rmtree(aside, ignore_errors=True)


class Limit:
    """Keeps `root` under `most` bytes as it grows: what was used least recently goes first."""

    def __init__(self, root: Path, most: int) -> None:
        self._root, self._most = root, most
        self._bytes = sum(entry.bytes for entry in _entries(root))

    def added(self, size: int) -> None:
        """Count what was just written, and make room if it was too much."""
        self._bytes += size
        if self._bytes > self._most:
            self._trim()

    def _trim(self) -> None:
        found = entries(self._root)
        self._bytes = sum(entry.bytes for entry in found)  # other processes write and remove, too
        for entry in found[:-1]:  # never what was just written, which is about to be used
            if self._bytes <= _TRIMMED_TO * self._most:
                return
            _remove(entry)
            self._bytes -= entry.bytes
