"""`pv runs tensorboard` and `pv runs wandb`: export the log of a run, also while it is running."""

from pathlib import Path
from typing import Annotated

import typer

from pvtool.cli.options import Json, RunName
from pvtool.output import Output
from pvtool.text import shown
from pvtool_core.log_export.points import LogExport, LogWriter
from pvtool_core.paths import runs_dir
from pvtool_core.store.event_log import iter_records
from pvtool_core.store.events import parse_event
from pvtool_core.store.runs import RunFolder, find_run
from pvtool_core.store.summary import job_of
from pvtool_core.supervisor import follow

Follow = Annotated[
    bool, typer.Option("--follow", "-f", help="Follow new events until the run ends.")
]


def tensorboard(
    run: RunName,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder; the log is in its subfolder RUN.")
    ] = Path("tensorboard"),
    samples: Annotated[
        bool, typer.Option("--samples/--no-samples", help="Include sample clips.")
    ] = True,
    follow_on: Follow = False,
    as_json: Json = False,
) -> None:
    """Write the curves and sample clips of a run as TensorBoard event files.

    An earlier export to the folder is replaced. Needs `pip install pvtool[tensorboard]`.
    """
    from pvtool_core.log_export.tensorboard_log import TensorBoardLog

    folder = find_run(runs_dir(), run)
    job_of(folder)
    target = out.absolute() / folder.name
    exported = _export(folder, TensorBoardLog(target), samples, follow_on)
    Output(as_json).result(
        {"run": run, "path": str(target), "points": exported.points, "clips": exported.clips},
        f"Wrote {_counts(exported)} to {shown(target)}.\nShow them with "
        f"`tensorboard --logdir {shown(out.absolute())}`.",
    )


def wandb(
    run: RunName,
    project: Annotated[
        str, typer.Option(metavar="NAME", help="Project of Weights & Biases.", show_default=False)
    ],
    samples: Annotated[
        bool, typer.Option("--samples/--no-samples", help="Upload sample clips.")
    ] = False,
    follow_on: Follow = False,
    as_json: Json = False,
) -> None:
    """Log the curves and settings of a run to Weights & Biases.

    Sample clips show the person, and are uploaded with --samples only. Identity, prompts and paths
    are left out, but the name of the run is not. Needs `pip install pvtool[wandb]`.
    """
    from pvtool_core.log_export.wandb_log import WandbLog

    folder = find_run(runs_dir(), run)
    exported = _export(folder, WandbLog(folder, project), samples, follow_on)
    Output(as_json).result(
        {"run": run, "project": project, "points": exported.points, "clips": exported.clips},
        f"Logged {_counts(exported)} of {run} to the project {project}.",
    )


def _export(folder: RunFolder, writer: LogWriter, samples: bool, follow_on: bool) -> LogExport:
    exported = LogExport(folder, writer, samples)
    try:
        if follow_on:
            follow(folder, exported.add)
        else:
            for record in iter_records(folder.events):
                exported.add(parse_event(record))
    finally:
        writer.close()
    return exported


def _counts(exported: LogExport) -> str:
    return f"{exported.points} values and {exported.clips} sample clips"
