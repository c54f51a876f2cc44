"""Size and limit of the trajectory cache on disk; an entry is one trajectory."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

_TRIMMED_TO = 0.9  # of the limit, so that the next entry does not trim again


@dataclass(frozen=True)
class CacheEntry:
    """One trajectory; `used` is the last write or use of one of its files, in unix seconds."""

    path: Path
    bytes: int
    used: float


def entries(root: Path) -> list[CacheEntry]:
    """Return the entries under `root`, least recently used first.

    Other processes may add and remove entries meanwhile.
    """
    try:
        folders = [
            Path(found.path)
            for found in os.scandir(root)
            if found.is_dir() and not found.name.startswith(".")
        ]
    except FileNotFoundError:
        return []
    return sorted(filter(None, map(_entry, folders)), key=lambda entry: entry.used)


def _entry(folder: Path) -> CacheEntry | None:
    """Return the entry in a folder; None if it was removed or is empty."""
    try:
        facts = [file.stat() for file in os.scandir(folder)]
    except FileNotFoundError:
        return None
    return (
        CacheEntry(
            folder, sum(fact.st_size for fact in facts), max(fact.st_mtime for fact in facts)
        )
        if facts
        else None
    )


def clear(root: Path) -> list[CacheEntry]:
    """Delete all entries and return them."""
    gone = entries(root)
    remove(root, gone)
    return gone


def remove(root: Path, unwanted: list[CacheEntry]) -> None:
    """Delete these entries, each at once for concurrent readers."""
    if not unwanted:
        return
    with tempfile.TemporaryDirectory(prefix=".removing-", dir=root) as bin:
        for entry in unwanted:
            try:
                entry.path.rename(Path(bin) / entry.path.name)
            except FileNotFoundError:  # deleted by another process
                continue
    for left in root.glob(".removing-*"):  # left by a killed process
        shutil.rmtree(left, ignore_errors=True)


class Limit:
    """Keeps `root` below `most` bytes as it grows, by removing the least recently used entries."""

    def __init__(self, root: Path, most: int) -> None:
        self._root, self._most = root, most
        self._bytes = sum(entry.bytes for entry in entries(root))

    def added(self, size: int) -> None:
        """Add the size of new files, and remove entries above the limit."""
        self._bytes += size
        if self._bytes > self._most:
            self._trim()

    def _trim(self) -> None:
        found = entries(self._root)
        self._bytes = sum(entry.bytes for entry in found)  # other processes also write and remove
        unwanted: list[CacheEntry] = []
        for entry in found[:-1]:  # never the newest, which will be used
            if self._bytes <= _TRIMMED_TO * self._most:
                break
            unwanted.append(entry)
            self._bytes -= entry.bytes
        remove(self._root, unwanted)
