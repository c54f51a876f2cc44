"""Table that updates only cells that changed."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable


class Table(DataTable[Text]):
    """DataTable that updates only changed cells and keeps its cursor on the same row."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Open", tooltip="Open the selected row"),
        Binding("g,home", "first", show=False),
        Binding("G,end", "last", show=False),
    ]

    def action_first(self) -> None:
        """Go to the first row."""
        self.move_cursor(row=0)

    def action_last(self) -> None:
        """Go to the last row."""
        self.move_cursor(row=self.row_count - 1)

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, cursor_type="row")
        self._widths: dict[str, int] = {}
        self._headings: dict[str, Text] = {}
        self._rows: dict[str, list[Text]] = {}

    def show(
        self,
        columns: Sequence[str],
        rows: dict[str, list[Text]],
        headings: Mapping[str, Text] | None = None,
    ) -> None:
        """Show `rows`, by name, under `columns`, whose names are their default headings."""
        known = headings or {}
        now = {name: known.get(name) or Text(_heading(name)) for name in columns}
        widths = {
            name: _width(now[name], [row[i] for row in rows.values()])
            for i, name in enumerate(columns)
        }
        before, self._rows = self._rows, rows
        if (widths, now, list(rows)) == (self._widths, self._headings, list(before)):
            self._update_cells(before)
        else:
            self._widths, self._headings = widths, now
            self._build(list(before))

    def _update_cells(self, before: dict[str, list[Text]]) -> None:
        for row, cells in self._rows.items():
            if cells is before[row]:
                continue
            for name, cell, old in zip(self._widths, cells, before[row], strict=True):
                if cell != old:
                    self.update_cell(row, name, cell)

    def _build(self, before: list[str]) -> None:
        current = before[self.cursor_row] if 0 <= self.cursor_row < len(before) else None
        self.clear(columns=True)
        for name, width in self._widths.items():
            self.add_column(self._headings[name], key=name, width=width)
        for row, cells in self._rows.items():
            self.add_row(*cells, key=row)
        if current in self._rows:
            self.move_cursor(row=list(self._rows).index(current))


def _heading(name: str) -> str:
    return name[:1].upper() + name[1:]


def _width(heading: Text, cells: list[Text]) -> int:
    """Return the width of a column in cells."""
    return max(map(cell_len, [str(heading), *map(str, cells)]))
