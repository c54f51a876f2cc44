"""Delete runs that are not running; used by commands and dashboard."""

import shutil
from collections.abc import Sequence
from contextlib import nullcontext

from pvtool_core.errors import Busy, UsageError
from pvtool_core.store.liveness import LIVE
from pvtool_core.store.runs import RunFolder
from pvtool_core.untrusted import exists, is_file


def check_removable(folder: RunFolder) -> RunFolder:
    """Return the folder of a run. Raises UsageError for a link, which is not deleted."""
    if folder.path.is_symlink():
        raise UsageError(
            f"{folder.name} is a link to {folder.path.readlink()}, which pv does not delete.",
            f"Remove {folder.path} yourself.",
        )
    return folder


def delete_run(folder: RunFolder) -> None:
    """Delete a run. Raises Busy while its engine, which holds the lock, is running."""
    with (
        folder.lock()
        if is_file(folder.lock_file) or not exists(folder.lock_file)
        else nullcontext()
    ):
        shutil.rmtree(folder.path)


def delete_runs(folders: Sequence[RunFolder]) -> None:
    """Delete runs with their checkpoints and samples, after a check of all of them.

    Raises Busy if an engine is running, and UsageError for a link.
    """
    for folder in map(check_removable, folders):
        if folder.state() in LIVE:
            raise Busy(folder.name)
    for folder in folders:
        delete_run(folder)
