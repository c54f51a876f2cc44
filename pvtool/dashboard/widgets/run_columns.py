"""Columns of the list of runs: headings, cells, and values to sort by."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from pvtool.dashboard.marks import bar, number, state_cell, state_text
from pvtool.text import duration
from pvtool_core.settings.objectives import loss_label
from pvtool_core.store.summary import RunSummary

_BAR = 12
_LONGEST_BAR = 40
_PADDING = 2
_LONGEST_NOTE = 32
Colours = dict[str, str]
Value = str | float | None


@dataclass(frozen=True)
class RunColumn:
    """A column of the list of runs.

    Attributes:
        text: Cell of a run.
        value: Value to sort by; runs without one are last in both directions.
        right: Align to the right.
        descending: Sort large values first at first.
        rank: Columns with small ranks are shown first if the width is limited.
    """

    text: Callable[[RunSummary], str]
    value: Callable[[RunSummary], Value]
    right: bool = False
    descending: bool = False
    rank: int = 0


def _seconds(value: float | None) -> str:
    return duration(value) if value else ""


def _figure(value: float | None) -> str:
    return "" if value is None else number(value)


def _per_step(run: RunSummary) -> str:
    seconds = run.seconds_per_step
    return "" if seconds is None else f"{seconds:.{2 if seconds < 10 else 1}f}"


def _notes(run: RunSummary) -> str:
    """Return the tags and the note, shortened."""
    text = " ".join([*(f"#{tag}" for tag in run.tags), run.note]).rstrip()
    return text if len(text) <= _LONGEST_NOTE else f"{text[: _LONGEST_NOTE - 1]}…"


_COLUMNS: dict[str, RunColumn] = {
    "run": RunColumn(lambda run: f"{run.run} !" if run.problem else run.run, lambda run: run.run),
    "identity": RunColumn(lambda run: run.identity, lambda run: run.identity or None, rank=3),
    "preset": RunColumn(lambda run: run.preset, lambda run: run.preset or None, rank=8),
    "state": RunColumn(lambda run: state_text(run.state), lambda run: run.state, rank=1),
    "step": RunColumn(
        lambda run: f"{run.step}/{run.iterations}" if run.iterations else "–",
        lambda run: run.step,
        right=True,
        descending=True,
        rank=2,
    ),
    "progress": RunColumn(
        lambda run: "",
        lambda run: run.step / run.iterations if run.iterations else None,
        descending=True,
        rank=14,
    ),
    "left": RunColumn(lambda run: _seconds(run.eta), lambda run: run.eta, right=True, rank=5),
    "likeness": RunColumn(
        lambda run: _figure(run.likeness),
        lambda run: run.likeness,
        right=True,
        descending=True,
        rank=4,
    ),
    "latest": RunColumn(
        lambda run: _figure(run.newest_likeness),
        lambda run: run.newest_likeness,
        right=True,
        descending=True,
        rank=6,
    ),
}
_ENDING: dict[str, RunColumn] = {
    "s/step": RunColumn(_per_step, lambda run: run.seconds_per_step, right=True, rank=11),
    "duration": RunColumn(
        lambda run: _seconds(run.duration),
        lambda run: run.duration,
        right=True,
        descending=True,
        rank=12,
    ),
    "device": RunColumn(lambda run: run.device, lambda run: run.device or None, rank=13),
    "started": RunColumn(
        lambda run: run.started[:16].replace("T", " "),
        lambda run: run.started or None,
        descending=True,
        rank=9,
    ),
}


def _loss_column(name: str, rank: int) -> RunColumn:
    def text(run: RunSummary) -> str:
        trend = run.losses.get(name)
        return f"{trend.mean:.3f} {trend.arrow:1}" if trend else "–  "

    def value(run: RunSummary) -> Value:
        trend = run.losses.get(name)
        return trend.mean if trend else None

    return RunColumn(text, value, right=True, rank=rank)


def run_columns(runs: Iterable[RunSummary]) -> dict[str, RunColumn]:
    """Return all columns by heading, with one for each loss, and for notes if there are any."""
    runs = list(runs)
    losses = dict.fromkeys(name for run in runs for name in run.losses)
    middle = {
        loss_label(name): _loss_column(name, 7 if index < 2 else 10)
        for index, name in enumerate(losses)
    }
    notes = {"notes": RunColumn(_notes, lambda run: _notes(run) or None, rank=10)}
    return {**_COLUMNS, **middle, **_ENDING, **(notes if any(map(_notes, runs)) else {})}


def heading(name: str, right: bool = False, mark: str = " ") -> Text:
    """Return the heading of a column; its width is the same with and without a mark."""
    title = "" if name == "progress" else name if "/" in name else name[:1].upper() + name[1:]
    return Text(title + mark, justify="right" if right else "left")


def ordered(
    runs: Sequence[RunSummary], column: RunColumn | None, descending: bool
) -> list[RunSummary]:
    """Return the runs by the value of a column; those without a value are last.

    Runs with equal values stay in their order.
    """
    if column is None:
        return list(runs)
    known = [run for run in runs if column.value(run) is not None]
    unknown = [run for run in runs if column.value(run) is None]

    def key(run: RunSummary) -> tuple[str, float]:
        value = column.value(run)
        return (value.casefold(), 0.0) if isinstance(value, str) else ("", value or 0.0)

    return [*sorted(known, key=key, reverse=descending), *unknown]


def fitting(
    columns: Mapping[str, RunColumn], runs: Sequence[RunSummary], width: int
) -> dict[str, int]:
    """Return the columns that fit into `width` cells and their widths, in the order of `columns`.

    The bar of the progress takes some of the remaining space.
    """
    room, kept = width, dict[str, int]()
    for name, column in sorted(columns.items(), key=lambda item: item[1].rank):
        longest = max((cell_len(column.text(run)) for run in runs), default=0)
        cells = max(_BAR if name == "progress" else longest, len(heading(name).plain))
        if cells + _PADDING <= room or not kept:
            kept[name] = cells
            room -= cells + _PADDING
    if "progress" in kept:
        kept["progress"] = min(_LONGEST_BAR, kept["progress"] + max(0, room))
    return {name: kept[name] for name in columns if name in kept}


def cell_of(run: RunSummary, name: str, column: RunColumn, width: int, colours: Colours) -> Text:
    """Return the cell of a run."""
    if name == "state":
        return state_cell(run.state, colours)
    if name == "progress":
        return Text(bar(run.step / run.iterations if run.iterations else 0, width))
    return Text(column.text(run), justify="right" if column.right else "left")
