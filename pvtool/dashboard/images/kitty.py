"""Kitty graphics protocol with Unicode placeholders: an image is sent once and then drawn as text.

The text colour is the image id, and two diacritics on each character give row and column, so that
tmux and Textual move and cover images correctly without knowing about them.
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

PLACEHOLDER = "\U0010eeee"
_CHUNK = 4096
_DIACRITICS = (  # the protocol's diacritics for row and column 0, 1, 2 …, as ranges of code points
    "305 30D-30E 310 312 33D-33F 346 34A-34C 350-352 357 35B 363-36F 483-487 592-595 597-599 "
    "59C-5A1 5A8-5A9 5AB-5AC 5AF 5C4 610-617 657-65B 65D-65E 6D6-6DC 6DF-6E2 6E4 6E7-6E8 6EB-6EC "
    "730 732-733 735-736 73A 73D 73F-741 743 745 747 749-74A 7EB-7F1 7F3 816-819 81B-823 825-827 "
    "829-82D 951 953-954 F82-F83 F86-F87 135D-135F 17DD 193A 1A17 1A75-1A7C 1B6B 1B6D-1B73 "
    "1CD0-1CD2 1CDA-1CDB 1CE0 1DC0-1DC1 1DC3-1DC9 1DCB-1DCC 1DD1-1DE6 1DFE 20D0-20D1 20D4-20D7 "
    "20DB-20DC 20E1 20E7 20E9 20F0 2CEF-2CF1 2DE0-2DFF"
)


@cache
def diacritics() -> str:
    """Return the diacritics by row or column number; their count limits the size of an image."""
    bounds = (part.partition("-") for part in _DIACRITICS.split())
    return "".join(
        chr(code)
        for low, _, high in bounds
        for code in range(int(low, 16), int(high or low, 16) + 1)
    )


@cache
def _image_ids() -> Iterator[int]:
    """Return image ids of 24 bits with a random start, as other programs use ids too."""
    return count(random.randrange(1 << 20, 1 << 23))  # noqa: S311 — nothing here is secret


def new_image_id() -> int:
    return next(_image_ids())


def draw(image_id: int, columns: int, rows: int) -> Drawing:
    """Return the placeholder rows of an image.

    Every cell has its row and column, so that any part can be repainted.
    """
    style = Style.from_color(Color.from_rgb(image_id >> 16, image_id >> 8 & 255, image_id & 255))
    return tuple(_row(style, image_id, columns, row) for row in range(rows))


def _row(style: Style, image_id: int, columns: int, row: int) -> CellRow:
    text = "".join(f"{PLACEHOLDER}{diacritics()[row]}{column}" for column in diacritics()[:columns])
    return CellRow(
        (image_id, row), len(text.encode()) + 24, partial(Strip, [Segment(text, style)], columns)
    )


def transmit_command(frame: Frame, image_id: int, columns: int, rows: int, tmux: bool) -> str:
    """Return the command that sends a PNG with this id, scaled to fit into the cells."""
    data = standard_b64encode(frame.data).decode()
    chunks = [data[index : index + _CHUNK] for index in range(0, len(data), _CHUNK)]
    keys = f"a=T,U=1,f=100,t=d,i={image_id},c={columns},r={rows},q=2,"
    command = "".join(
        f"\x1b_G{keys if index == 0 else 'q=2,'}m={int(index < len(chunks) - 1)};{chunk}\x1b\\"
        for index, chunk in enumerate(chunks)
    )
    return _through_tmux(command) if tmux else command


def delete_command(image_id: int, tmux: bool) -> str:
    """Return the command that deletes an image and its data."""
    command = f"\x1b_Ga=d,d=I,i={image_id},q=2\x1b\\"
    return _through_tmux(command) if tmux else command


def _through_tmux(command: str) -> str:
    return "\x1bPtmux;" + command.replace("\x1b", "\x1b\x1b") + "\x1b\\"
