"""`pv cache`: the trajectory cache, shared by training and rendering."""

import time

import typer

from pvtool.cli.confirm import confirm
from pvtool.cli.options import Json, Yes
from pvtool.output import Output
from pvtool.tables import Table
from pvtool_core.models.installed import in_words
from pvtool_core.paths import trajectories_dir
from pvtool_core.store.trajectory_cache import CacheEntry, clear, entries

app = typer.Typer(
    help="Trajectory cache, shared by training and rendering.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


@app.command()
def show(as_json: Json = False) -> None:
    """Show location, number of entries and size of the trajectory cache."""
    kept = entries(trajectories_dir())
    used = (kept[0].used, kept[-1].used) if kept else (None, None)
    value = {
        "path": str(trajectories_dir()),
        "entries": len(kept),
        "bytes": _bytes(kept),
        "oldest_use": used[0],
        "newest_use": used[1],
    }
    words = [
        ["folder", str(trajectories_dir())],
        ["trajectories", str(len(kept))],
        ["size", in_words(_bytes(kept))],
    ]
    uses = [["oldest use", _moment(kept[0])], ["newest use", _moment(kept[-1])]] if kept else []
    Output(as_json).result(value, Table.about(words + uses))


@app.command("clear")
def clear_(yes: Yes = False, as_json: Json = False) -> None:
    """Delete the trajectory cache; entries are computed again when needed."""
    output = Output(as_json)
    kept = entries(trajectories_dir())
    if kept:
        confirm(f"Delete {_counted(kept)} ({in_words(_bytes(kept))})?", yes)
    gone = clear(trajectories_dir())
    text = f"Deleted {_counted(gone)}, {in_words(_bytes(gone))}." if gone else "The cache is empty."
    output.result(
        {"path": str(trajectories_dir()), "removed": len(gone), "bytes": _bytes(gone)}, text
    )


def _bytes(kept: list[CacheEntry]) -> int:
    return sum(entry.bytes for entry in kept)


def _counted(kept: list[CacheEntry]) -> str:
    return f"{len(kept)} cached {'trajectory' if len(kept) == 1 else 'trajectories'}"


def _moment(entry: CacheEntry) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
