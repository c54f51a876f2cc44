"""Kitty's graphics protocol by Unicode placeholders: a picture is sent once and then drawn as text.

Its number is the text's colour, and two marks on each character say which row and column of it is shown; so tmux and
Textual, which know nothing of pictures, move and cover it rightly.
"""

import random
from base64 import standard_b64encode
from collections.abc import Iterator
from functools import cache, partial
from itertools import count

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from pvtool.dashboard.images.decode import Frame
from pvtool.dashboard.images.half_blocks import CellRow, Drawing

_PLACEHOLDER = "\U0010eeee"
_CHUNK = 4096
_MARKS = (  # the protocol's marks for row and column 0, 1, 2 …, as ranges of code points
    "305 30D-30E 310 312 33D-33F 346 34A-34C 350-352 357 35B 363-36F 483-487 592-595 597-599 59C-5A1 5A8-5A9 5AB-5AC "
    "5AF 5C4 610-617 657-65B 65D-65E 6D6-6DC 6DF-6E2 6E4 6E7-6E8 6EB-6EC 730 732-733 735-736 73A 73D 73F-741 743 745 "
    "747 749-74A 7EB-7F1 7F3 816-819 81B-823 825-827 829-82D 951 953-954 F82-F83 F86-F87 135D-135F 17DD 193A 1A17 "
    "1A75-1A7C 1B6B 1B6D-1B73 1CD0-1CD2 1CDA-1CDB 1CE0 1DC0-1DC1 1DC3-1DC9 1DCB-1DCC 1DD1-1DE6 1DFE 20D0-20D1 "
    "20D4-20D7 20DB-20DC 20E1 20E7 20E9 20F0 2CEF-2CF1 2DE0-2DFF"
)


@cache
def marks() -> str:
    """A character for each row or column number; a picture is at most this many cells wide and high."""
    bounds = (part.partition("-") for part in _MARKS.split())
    return "".join(
        chr(code)
        for low, _, high in bounds
        for code in range(int(low, 16), int(high or low, 16) + 1)
    )


@cache
def _numbers() -> Iterator[int]:
    """Picture numbers of 24 bits, begun anywhere: another program's pictures on this terminal have numbers too."""
    return count(random.randrange(1 << 20, 1 << 23))  # noqa: S311 — nothing here is secret


def new_number() -> int:
    return next(_numbers())


def draw(number: int, columns: int, rows: int) -> Drawing:
    """The placeholders of a picture. Every cell names its row and column, so that any part of it can be repainted."""
    style = Style.from_color(Color.from_rgb(number >> 16, number >> 8 & 255, number & 255))
    return tuple(_row(style, number, columns, row) for row in range(rows))


def _row(style: Style, number: int, columns: int, row: int) -> CellRow:
    text = "".join(f"{_PLACEHOLDER}{marks()[row]}{mark}" for mark in marks()[:columns])
    return CellRow(
        (number, row), len(text.encode()) + 24, partial(Strip, [Segment(text, style)], columns)
    )


def transmission(frame: Frame, number: int, columns: int, rows: int, tmux: bool) -> str:
    """What sends a PNG under this number, to be fitted into so many cells."""
    data = standard_b64encode(frame.data).decode()
    pieces = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
    keys = f"a=T,U=1,f=100,t=d,i={number},c={columns},r={rows},q=2,"
    said = "".join(
        f"\x1b_G{keys if at == 0 else 'q=2,'}m={int(at < len(pieces) - 1)};{piece}\x1b\\"
        for at, piece in enumerate(pieces)
    )
    return _through_tmux(said) if tmux else said


def removal(number: int, tmux: bool) -> str:
    """What frees a picture with its data."""
    said = f"\x1b_Ga=d,d=I,i={number},q=2\x1b\\"
    return _through_tmux(said) if tmux else said


def _through_tmux(said: str) -> str:
    return "\x1bPtmux;" + said.replace("\x1b", "\x1b\x1b") + "\x1b\\"
