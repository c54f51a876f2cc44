"""Open the dashboard.

The terminal is queried first, because Textual reads its colour settings when it is imported.
"""

from collections.abc import Mapping
from pathlib import Path

from pvtool.output import on_terminal
from pvtool_core.batches.folder import BatchFolder
from pvtool_core.errors import UsageError
from pvtool_core.store.runs import RunFolder


def open_dashboard(
    root: Path,
    first: RunFolder | BatchFolder | None = None,
    images: str | None = None,
    others: Mapping[str, Path] | None = None,
) -> None:
    """Show `first`, or the runs under `root`, until the dashboard is closed.

    `others` are folders of runs of other machines by name. Raises UsageError without a terminal.
    """
    if not on_terminal():
        raise UsageError(
            "The dashboard needs a terminal.",
            "Use `pv runs list` and `pv runs logs RUN --follow` instead.",
        )
    from pvtool.terminal import prepare, probe

    terminal = probe(images)
    prepare(terminal)
    from pvtool.dashboard.app import Dashboard

    Dashboard(terminal, root, first, others).run()
