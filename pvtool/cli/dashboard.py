"""`pv dashboard`, and what watching a run means where there is no terminal."""

from pathlib import Path
from typing import Annotated

import typer

from pvtool.cli.options import run_names
from pvtool_core.batches.folder import BatchFolder, list_batches
from pvtool_core.errors import Missing
from pvtool_core.paths import batches_dir, check_utf8, runs_dir
from pvtool_core.store.runs import RunFolder, find_run

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Images = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Pictures by kitty, blocks or off; auto, or nothing, asks the terminal.",
    ),
]


@app.command()
def dashboard(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", autocompletion=run_names, help="A run, a batch, or its folder."
        ),
    ] = None,
    images: Images = None,
) -> None:
    """See and steer all runs and batches in this terminal. Closing it changes nothing for them."""
    from pvtool.dashboard.opening import open_dashboard

    open_dashboard(runs_dir(), run_or_batch(run) if run else None, images)


def run_or_batch(name: str) -> RunFolder | BatchFolder:
    """The batch of that name or in that folder, or else the run. Raises Missing or BadName."""
    path = Path(name)
    if (path / "items.jsonl").is_file():
        return BatchFolder(check_utf8(path.absolute()))
    named = [batch for batch in list_batches(batches_dir()) if batch.name == name]
    return named[0] if named else folder_of(name)


def folder_of(run: str) -> RunFolder:
    """The run of that name, or in that folder, which may have been copied from elsewhere. Raises Missing or BadName."""
    path = Path(run)
    if "/" not in run and not (path / "config.toml").is_file():
        return find_run(runs_dir(), run)
    if not path.is_dir():
        raise Missing("folder", run, "Give a run's name, or the folder of one.")
    return RunFolder(check_utf8(path.absolute()))
