"""Temporary folders that are deleted with their process, or later if it was killed.

A killed process may leave photos and embeddings behind. A held folder is locked, and the lock ends
with the process. The parent folder is locked while a folder is created or swept, so that none is
deleted before it is held.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from pvtool_core.permissions import make_private

LOG_DAYS = 7
_KEPT = ".kept"


@contextmanager
def held_folder(parent: Path, prefix: str) -> Generator[Path]:
    """Create a private folder in `parent` and hold it until this process ends.

    The caller moves or deletes it before.
    """
    make_private(parent)
    with _locked(parent):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        descriptor = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield folder
    finally:
        os.close(descriptor)


def keep(folder: Path) -> None:
    """Keep a folder with the log of a failure for `LOG_DAYS` days."""
    (folder / _KEPT).touch(mode=0o600)


def sweep(parent: Path, *prefixes: str) -> None:
    """Delete the folders in `parent` with one of `prefixes` whose processes are dead.

    Never raises: folders that cannot be deleted are deleted by a later call.
    """
    try:
        with os.scandir(parent) as entries:
            found = [Path(entry.path) for entry in entries if entry.name.startswith(prefixes)]
    except OSError:
        return
    if found:
        with suppress(OSError), _locked(parent, fcntl.LOCK_NB):
            for folder in found:
                _sweep_one(folder)


def _sweep_one(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        if time.time() - (folder / _KEPT).stat().st_mtime < LOG_DAYS * 86400:
            return
    locks = [file for file in (folder, folder / "engine.lock") if file.exists()]
    held: list[int] = []
    try:
        held.extend(_lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) for file in locks)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # its process, or the engine that uses it, is alive
        return
    finally:
        for descriptor in held:
            os.close(descriptor)


@contextmanager
def _locked(folder: Path, mode: int = 0) -> Generator[None]:
    descriptor = _lock(folder, fcntl.LOCK_EX | mode)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, how: int) -> int:
    """Return the descriptor that holds the lock.

    Raises BlockingIOError if it is taken and `how` includes LOCK_NB.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, how)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
