"""`pv renders`: batches of clips in the data folder."""

from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Self

import typer

from pvtool.cli.options import Json
from pvtool.dashboard.follow.batch import BatchSnapshot, read_history, take_snapshot
from pvtool.dashboard.follow.batch_history import BatchHistory
from pvtool.output import Output
from pvtool.tables import Table
from pvtool.text import moment, shown
from pvtool_core.batches.folder import BatchFolder, list_batches, read_items
from pvtool_core.paths import batches_dir, path_of
from pvtool_core.settings.jobs import RenderItem

app = typer.Typer(
    help="Batches of clips.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


@app.callback()
def renders() -> None:
    """Batches of clips."""


@dataclass(frozen=True)
class Batch:
    """A batch at one moment: its state, its clips and what became of them."""

    snapshot: BatchSnapshot
    history: BatchHistory
    items: list[RenderItem]
    problem: str

    @classmethod
    def read(cls, folder: BatchFolder) -> Self:
        """Read a batch. Raises nothing, whatever its files contain."""
        snapshot, items, history = take_snapshot(folder), list[RenderItem](), BatchHistory()
        problem = snapshot.problem or next((each.problem for each in snapshot.workers), "")
        try:
            history = read_history(folder)
            items = read_items(folder.items)
        except (OSError, ValueError, TypeError) as error:
            problem = problem or f"Cannot read {folder.items}: {error}."
        history.expected, history.refused = snapshot.expected, snapshot.refused
        return cls(snapshot, history, items, problem)

    def table(self) -> dict[str, Any]:
        """Return it as a table for JSON."""
        return {
            "batch": self.snapshot.name,
            "state": str(self.snapshot.state),
            "identities": list(dict.fromkeys(item.identity for item in self.items)),
            "prompts": list(dict.fromkeys(item.prompt for item in self.items)),
            "runs": list(dict.fromkeys(item.run for item in self.items if item.run)),
            "done": self.history.existing,
            "failed": self.history.failed,
            "total": self.history.total,
            "likeness": self.history.mean_likeness,
            "started": self.started,
            "path": str(batches_dir() / self.snapshot.name),
            "out": self.snapshot.out,
            "problem": self.problem,
        }

    @property
    def started(self) -> str:
        """Return when the batch was created, which its name says; "" for another name."""
        try:
            created = datetime.strptime(self.snapshot.name[:15], "%Y%m%d-%H%M%S")
        except ValueError:
            return ""
        return created.astimezone().isoformat(timespec="seconds")


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=0, help="Number of batches to list; 0 lists all.")] = 20,
    as_json: Json = False,
) -> None:
    """List batches of clips, newest first."""
    output, folders = Output(as_json), list_batches(batches_dir())[::-1]
    batches = [Batch.read(folder) for folder in islice(folders, limit or None)]
    rows = [batch.table() for batch in batches]
    columns = ["batch", "identity", "prompts", "run", "state", "clips", "failed", "likeness"]
    columns += ["started", "folder"]
    optional = ["likeness", "batch", "run", "started", "failed"]
    table = Table.of(columns, list(map(_cells, rows)), optional)
    output.rows("batches", rows, table, "No batches. Each `pv render NAME PROMPT...` creates one.")
    if more := len(folders) - len(batches):
        noun = "batch" if more == 1 else "batches"
        output.say(f"… and {more} older {noun}: --limit 0 lists all.")
    for row in rows:
        if row["problem"]:
            output.say(f"Warning: {row['batch']}: {row['problem']}")


def _cells(row: dict[str, Any]) -> dict[str, str | None]:
    return {
        "batch": row["batch"],
        "identity": _short(row["identities"]),
        "prompts": _short(row["prompts"]),
        "run": _short(row["runs"]),
        "state": row["state"],
        "clips": f"{row['done']}/{row['total']}",
        "failed": str(row["failed"] or "–"),
        "likeness": None if row["likeness"] is None else f"{row['likeness']:.2f}",
        "started": moment(row["started"]),
        "folder": shown(path_of(row["out"])),
    }


def _short(names: list[str]) -> str:
    """Return the first of several names, and how many more there are."""
    return "–" if not names else names[0] + (f" + {len(names) - 1}" if names[1:] else "")
