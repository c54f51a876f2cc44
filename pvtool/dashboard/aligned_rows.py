"""Rows of text with aligned columns, for tables that are only read."""

from collections.abc import Sequence

from rich.cells import cell_len
from textual.content import Content

from pvtool.text import plain

_GAP = "  "


def aligned_rows(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: bool = False
) -> list[Content]:
    """Return a muted header and the rows, with columns as wide as needed.

    `right` aligns all columns but the first to the right.
    """
    lines = [list(header), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(line[index]) for line in lines) for index in range(len(header))]

    def text(line: Sequence[str]) -> str:
        cells = [
            _padded(cell, width, right and index > 0)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return _GAP.join(cells).rstrip()

    return [
        Content.styled(text(lines[0]), "$text-muted"),
        *(Content(text(each)) for each in lines[1:]),
    ]


def _padded(cell: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if right else cell + space
