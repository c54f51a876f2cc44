"""Tables: whole in files and pipes, fitted to the width of a terminal."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, Self

from pvtool.text import plain

_GAP = 2
_TEXT = 20  # cells that a column of text keeps where possible
_EMPTY = {"", "–"}
_UNITS = {"s/step", "GiB"}  # not set in capitals in headings
_FIGURE = re.compile(r"[-+−–<?\d.,:/%×()\[\]↑↓→ ]*")
_WORDS_OF_FIGURES = re.compile(r"n\.s\.|\b(of|s|h|min|[KMGT]?i?B|[GTPE]FLOP)\b")
_INTERVAL = re.compile(r"\[[^]]*\]")
_NO_BREAK = "\ue000"  # a character of no script, since rich breaks lines at no-break spaces
_STYLED = {"state", "weights", "found"}
_STYLES = {
    "running": "green",
    "starting": "cyan",
    "paused": "yellow",
    "finished": "blue",
    "stopped": "dim",
    "failed": "red",
    "lost": "red",
    "missing": "yellow",
    "broken": "red",
    "cannot": "red",
}
"""Colours of states by their first word, in the columns of `_STYLED`."""


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; columns of figures are aligned at the right.

    Without headings, the first column names the values of the second. Columns of `optional` are
    left out on terminals if they are empty, and in this order on terminals that are too narrow for
    the longest words.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    optional: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        columns: Sequence[str],
        values: Sequence[Mapping[str, Any]],
        optional: Sequence[str] = (),
    ) -> Self:
        """Create a table of the values with these names; None is shown as a dash."""
        rows = [[_cell(row[column]) for column in columns] for row in values]
        return cls(columns, rows, optional)

    @classmethod
    def about(cls, pairs: Sequence[Sequence[str]]) -> Self:
        """Create a table of names and values without headings."""
        return cls(["", ""], pairs)

    def __str__(self) -> str:
        """Return the whole table, for searching and piping: nothing is wrapped or left out."""
        lines = self._lines()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        figures = _figures(lines[self._headed :])
        return "\n".join(
            (" " * _GAP)
            .join(
                cell.rjust(width) if is_figure else cell.ljust(width)
                for cell, width, is_figure in zip(line, widths, figures, strict=True)
            )
            .rstrip()
            for line in lines
        )

    def fitted(self, width: int, colour: bool) -> str:
        """Return the table in `width` cells, wrapped between words, with escapes for colours."""
        from rich.console import Console  # imported here for a fast start
        from rich.table import Table as RichTable
        from rich.text import Text

        lines = self._lines()
        figures = _figures(lines[self._headed :])
        whole = [[_INTERVAL.sub(_joined, cell) for cell in line] for line in lines]
        if _total([_longest_word(cells, width) for cells in zip(*whole, strict=True)]) <= width:
            lines = whole
        columns = list(zip(*lines, strict=True))
        least = [_least_width(cells, width) for cells in columns]
        kept = list(range(len(columns)))
        for name in self.optional:
            number = self.columns.index(name)
            is_empty = _EMPTY.issuperset(columns[number][self._headed :])
            if is_empty or _total([least[number] for number in kept]) > width:
                kept.remove(number)
        widths = _shrink(
            [max(map(_width, columns[number])) for number in kept],
            [least[number] for number in kept],
            [_longest_word(columns[number], width) for number in kept],
            width,
        )
        grid = RichTable(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_header=False)
        for number, cells in zip(kept, widths, strict=True):
            justify = "right" if figures[number] else "left"
            grid.add_column(width=cells, justify=justify, overflow="fold")
        for place, line in enumerate(lines):
            styles = self._styles(line) if place >= self._headed else ["bold"] * len(line)
            grid.add_row(*(Text(line[number], styles[number]) for number in kept))
        console = Console(
            file=StringIO(),
            width=width,
            force_terminal=colour,
            color_system="standard" if colour else None,
            legacy_windows=False,
        )
        with console.capture() as captured:
            console.print(grid)
        text = captured.get().replace(_NO_BREAK, " ")
        return "\n".join(line.rstrip() for line in text.splitlines())

    @property
    def _headed(self) -> bool:
        return any(self.columns)

    def _lines(self) -> list[list[str]]:
        """Return the headings, if there are any, and the rows, with escaped control characters."""
        rows = [[plain(cell) for cell in row] for row in self.rows]
        return [list(map(_heading, self.columns)), *rows] if self._headed else rows

    def _styles(self, line: Sequence[str]) -> list[str]:
        """Return the style of each cell of a row."""
        names = self.columns if self._headed else ["", line[0]]
        return [
            _STYLES.get(re.split(r"\W", cell, maxsplit=1)[0], "") if name in _STYLED else ""
            for name, cell in zip(names, line, strict=True)
        ]


def _cell(value: Any) -> str:
    return "–" if value is None else str(value)


def _heading(column: str) -> str:
    words = column.replace("_", " ").split()
    return " ".join(word if word in _UNITS else word.upper() for word in words)


def _figures(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Return for each column whether it has figures only, and not in its first place."""
    return [
        number > 0 and all(_FIGURE.fullmatch(_WORDS_OF_FIGURES.sub("", cell)) for cell in cells)
        for number, cells in enumerate(zip(*rows, strict=True))
    ]


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _joined(interval: re.Match[str]) -> str:
    return interval[0].replace(" ", _NO_BREAK)


def _longest_word(cells: Sequence[str], width: int) -> int:
    """Return the width in which no word is broken, up to half of the terminal."""
    longest = max((_width(word) for cell in cells for word in cell.split()), default=0)
    return min(width // 2, longest)


def _least_width(cells: Sequence[str], width: int) -> int:
    """Return the width in which no word is broken, and which leaves text some room."""
    return max(_longest_word(cells, width), min(_TEXT, width // 2, max(map(_width, cells))))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _shrink(widths: list[int], least: Sequence[int], words: Sequence[int], width: int) -> list[int]:
    """Return widths that fit: the widest column is narrowed first, and none below `least`.

    If that is not enough, columns are narrowed to their longest words, then further.
    """
    for limit in (least, words, [1] * len(widths)):
        while _total(widths) > width:
            wide = [number for number, cells in enumerate(widths) if cells > limit[number]]
            if not wide:
                break
            widths[max(wide, key=widths.__getitem__)] -= 1
    return widths
