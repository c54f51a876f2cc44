"""Pictures as rows of characters: half blocks, which are two pixels each, or a ramp of greys where there is no colour.

A colour costs bytes at each repaint, and a row is sent again if any pixel of it changed; so colours are rounded to what
the eye tells apart, or to what the terminal has, by an ordered dither that is the same for every frame.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import groupby, pairwise

from rich.color import Color, ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from pvtool.dashboard.images.decode import Frame
from pvtool.terminal import Colours


@dataclass(frozen=True, slots=True)
class CellRow:
    """A line of a picture: what tells whether it changed, about how many bytes it sends, and what draws it.

    It is drawn when it is painted: a clip that is kept drawn is so many objects that Python's search for garbage among
    them would stop the screen for a tenth of a second.
    """

    pixels: object
    size: int
    draw: Callable[[], Strip]

    @property
    def strip(self) -> Strip:
        return self.draw()


Drawing = tuple[CellRow, ...]
Pixel = tuple[int, int, int]

_BAYER = ((0, 8, 2, 10), (12, 4, 14, 6), (3, 11, 1, 9), (15, 7, 13, 5))
_TRUE_LEVELS = tuple(min(255, 8 * step + 4) for step in range(32))
_CUBE_LEVELS = (0, 95, 135, 175, 215, 255)
_COARSE_LEVELS = (0, 85, 170, 255)
_SYSTEMS = {
    "truecolor": ColorSystem.TRUECOLOR,
    "256": ColorSystem.EIGHT_BIT,
    "16": ColorSystem.STANDARD,
}
_RAMP = " .:-=+*#%@"
_SENT = {"truecolor": 42, "256": 25, "16": 15, "none": 0}


def draw(frame: Frame, colours: Colours, dark: bool = True) -> Drawing:
    """Half blocks in these colours, or a ramp of characters where there are none."""
    if colours == "none":
        return tuple(_ramp(frame, dark))
    return tuple(_half_blocks(frame, colours))


def _half_blocks(frame: Frame, colours: Colours) -> Iterator[CellRow]:
    toned = _toned(frame, colours)
    line = frame.width * 3
    for top in range(0, frame.height * line, 2 * line):
        pixels = toned[top : top + 2 * line]
        pieces = 1 + sum(left != right for left, right in pairwise(_cells(pixels)))
        yield CellRow(
            pixels, pieces * _SENT[colours] + 3 * frame.width, partial(_strip, pixels, colours)
        )


def _strip(pixels: bytes, colours: Colours) -> Strip:
    """Neighbours of the same colours are one piece of text; where upper and lower are the same it is spaces."""
    segments = [
        Segment((" " if cell[0] == cell[1] else "▀") * len(list(run)), _style(*cell, colours))
        for cell, run in groupby(_cells(pixels))
    ]
    return Strip(segments, len(pixels) // 6)


def _cells(pixels: bytes) -> Iterator[tuple[Pixel, Pixel]]:
    half = len(pixels) // 2
    return zip(_triplets(pixels[:half]), _triplets(pixels[half:]), strict=True)


def _triplets(line: bytes) -> Iterator[Pixel]:
    return zip(line[0::3], line[1::3], line[2::3], strict=True)


@lru_cache(1 << 14)  # the styles of a whole clip, so that they are made in its first round only
def _style(above: Pixel, below: Pixel, colours: Colours) -> Style:
    """A style that knows already what it sends, so that painting does not work that out."""
    style = Style.from_color(None if above == below else _colour(above), _colour(below))
    Strip.render_ansi(style, _SYSTEMS[colours])
    return style


@lru_cache(1 << 12)
def _colour(pixel: Pixel) -> Color:
    return Color.from_rgb(*pixel)


def _toned(frame: Frame, colours: Colours) -> bytes:
    if colours == "truecolor":
        return frame.data.translate(_nearest(_TRUE_LEVELS))
    return _dithered(frame, _CUBE_LEVELS if colours == "256" else _COARSE_LEVELS)


def _dithered(frame: Frame, levels: tuple[int, ...]) -> bytes:
    """Each channel at one of `levels`: the lower or the upper neighbour, by a threshold that depends on the place."""
    line = frame.width * 3
    out = bytearray(frame.data)
    for y in range(frame.height):
        for phase in range(4):
            table = _threshold(levels, _BAYER[y % 4][phase])
            for channel in range(3):
                places = slice(y * line + phase * 3 + channel, (y + 1) * line, 12)
                out[places] = frame.data[places].translate(table)
    return bytes(out)


@cache
def _nearest(levels: tuple[int, ...]) -> bytes:
    return bytes(min(levels, key=lambda level: abs(level - value)) for value in range(256))


@cache
def _threshold(levels: tuple[int, ...], rank: int) -> bytes:
    def chosen(value: int) -> int:
        below = max(level for level in levels if level <= value)
        above = min(level for level in levels if level >= value)
        return (
            above
            if above > below and (value - below) / (above - below) > 0.15 + 0.7 * (rank + 0.5) / 16
            else below
        )

    return bytes(chosen(value) for value in range(256))


def _ramp(frame: Frame, dark: bool) -> Iterator[CellRow]:
    """A denser character where more of the reader's ink is wanted: light on dark, dark on light."""
    ramp = _RAMP if dark else _RAMP[::-1]
    line = frame.width * 3
    for y in range(frame.height // 2):
        top = y * 2 * line
        pixels = zip(
            *(_triplets(frame.data[at : at + line]) for at in (top, top + line)), strict=True
        )
        text = "".join(
            ramp[_brightness(*above, *below) * len(ramp) // 256] for above, below in pixels
        )
        yield CellRow(text, frame.width, partial(Strip, [Segment(text)], frame.width))


def _brightness(*channels: int) -> int:
    red, green, blue = (channels[at] + channels[at + 3] for at in range(3))
    return (299 * red + 587 * green + 114 * blue) // 2000
