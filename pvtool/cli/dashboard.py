"""`pv dashboard`."""

from pathlib import Path
from typing import Annotated

import typer

from pvtool.cli.options import DataFolders, Images, run_names
from pvtool.jobs.other_machines import runs_folders
from pvtool_core.batches.folder import BatchFolder, list_batches
from pvtool_core.errors import Missing
from pvtool_core.paths import batches_dir, check_utf8, runs_dir
from pvtool_core.store.runs import RunFolder, find_run

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def dashboard(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            autocompletion=run_names,
            help="Run, batch, or its folder. [default: all]",
        ),
    ] = None,
    data: DataFolders = None,
    images: Images = None,
) -> None:
    """Show and control runs and batches. Closing the dashboard does not stop them."""
    from pvtool.dashboard.opening import open_dashboard

    others = runs_folders(data or [])
    open_dashboard(runs_dir(), run_or_batch(run) if run else None, images, others)


def run_or_batch(name: str) -> RunFolder | BatchFolder:
    """Return the batch of that name or in that folder, otherwise the run.

    Raises Missing or BadName.
    """
    path = Path(name)
    if (path / "items.jsonl").is_file():
        return BatchFolder(check_utf8(path.absolute()))
    named = [batch for batch in list_batches(batches_dir()) if batch.name == name]
    return named[0] if named else folder_of(name)


def folder_of(run: str) -> RunFolder:
    """Return the run of that name or in that folder, which may be a copy.

    Raises Missing or BadName.
    """
    path = Path(run)
    if "/" not in run and not (path / "config.toml").is_file():
        return find_run(runs_dir(), run)
    if not path.is_dir():
        raise Missing("folder", run, "Use a run's name, or the folder of one.")
    return RunFolder(check_utf8(path.absolute()))
