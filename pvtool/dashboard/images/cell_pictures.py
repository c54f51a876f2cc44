"""Pictures in terminals without placeholders: parts of them replace Kitty's placeholders in frames.

Textual draws, covers and cuts rows of placeholders like any text; the driver then replaces each run
of them by the part of the picture that belongs to these cells.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import ClassVar, Protocol

from pvtool.dashboard.images import kitty
from pvtool.dashboard.images.half_blocks import Drawing

_MAX_PARTS = 256
_CELL = f"{kitty.PLACEHOLDER}[{kitty.diacritics()}]{{2}}"
_TOKEN = re.compile(rf"\x1b\[(?P<line>\d+);\d+H|\x1b\[(?P<style>[\d;]*)m(?P<run>(?:{_CELL})+)")
_COLOUR = re.compile(r"(?:^|;)38;2;(\d+);(\d+);(\d+)")


class CellImage(Protocol):
    """Image of whole cells, which any part of a row can be drawn from.

    `scrolls` means that drawing in the last line of the screen may scroll it.
    """

    scrolls: ClassVar[bool]

    def part(self, row: int, first: int, end: int) -> str:
        """Return the command that draws the cells from `first` up to `end` of a row."""
        ...


class CellPicture:
    """Frame as a picture of cells: whole rows are encoded at once, parts of rows when painted."""

    def __init__(self, image: CellImage, columns: int, rows: int) -> None:
        self.image_id = kitty.new_image_id()
        self.scrolls = image.scrolls
        self._image, self._columns = image, columns
        self._rows = [image.part(row, 0, columns) for row in range(rows)]
        self._parts: dict[tuple[int, int, int], str] = {}

    def draw(self) -> Drawing:
        """Return the rows of placeholders; rows with equal pixels compare as equal."""
        rows = kitty.draw(self.image_id, self._columns, len(self._rows))
        return tuple(
            replace(row, pixels=encoded, size=len(encoded) + self._columns + 40)
            for row, encoded in zip(rows, self._rows, strict=True)
        )

    def part(self, row: int, first: int, end: int) -> str:
        """Return the command that draws the cells from `first` up to `end` of a row."""
        if not (row < len(self._rows) and end <= self._columns):
            return ""
        if (first, end) == (0, self._columns):
            return self._rows[row]
        if (row, first, end) not in self._parts:
            if len(self._parts) >= _MAX_PARTS:
                self._parts.clear()
            self._parts[row, first, end] = self._image.part(row, first, end)
        return self._parts[row, first, end]


def replace_placeholders(text: str, pictures: Mapping[int, CellPicture], lines: int) -> str:
    """Replace the placeholders in a frame by parts of pictures, or by spaces for unknown ids.

    `lines` is the height of the screen: its last line stays empty where a picture would scroll it.
    """
    if kitty.PLACEHOLDER not in text:
        return text
    line = 0

    def replaced(token: re.Match[str]) -> str:
        nonlocal line
        if token["line"]:
            line = int(token["line"])
            return token[0]
        picture = pictures.get(_image_id(token["style"]))
        fits = picture is not None and not (picture.scrolls and line >= lines)
        row, first, last = (_numbers()[token["run"][place]] for place in (1, 2, -1))
        part = picture.part(row, first, last + 1) if picture and fits else ""
        return f"\x1b[{token['style']}m{_paint(part, last + 1 - first)}"

    return _TOKEN.sub(replaced, text)


def _paint(part: str, columns: int) -> str:
    """Erase the cells with spaces, draw over them, and leave the cursor to their right.

    Terminals leave the cursor in different places after a picture; after text in the last column,
    moving it back would be off by one. It is therefore saved and restored.
    """
    spaces = " " * columns
    return f"\x1b7{spaces}\x1b8{part}\x1b8\x1b[{columns}C" if part else spaces


def _image_id(style: str) -> int:
    """Return the text colour, which is the image id."""
    if not (colour := _COLOUR.search(style)):
        return 0
    red, green, blue = map(int, colour.groups())
    return red << 16 | green << 8 | blue


@cache
def _numbers() -> dict[str, int]:
    return {mark: number for number, mark in enumerate(kitty.diacritics())}
