"""Delete runs that are not running; used by the dashboard."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack

from pvtool_core.errors import Busy, UsageError
from pvtool_core.store.liveness import LIVE
from pvtool_core.store.runs import RunFolder
from pvtool_core.untrusted import exists, is_file


def delete_runs(folders: Sequence[RunFolder]) -> None:
    """Delete runs with their checkpoints and samples: all of them, or none.

    Raises Busy if an engine is running, and UsageError for a link.
    """
    for folder in folders:
        if folder.path.is_symlink():
            raise UsageError(
                f"{folder.name} is a link to {folder.path.readlink()}, which pv does not delete.",
                f"Remove {folder.path} yourself.",
            )
        if folder.state() in LIVE:
            raise Busy(folder.name)
    with ExitStack() as locks:  # a live engine holds the lock
        for folder in folders:
            if is_file(folder.lock_file) or not exists(folder.lock_file):
                locks.enter_context(folder.lock())
        for folder in folders:
            shutil.rmtree(folder.path)
