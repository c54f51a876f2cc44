"""Pictures as rows of characters: half blocks, which are two pixels each, or a ramp of greys where there is no colour.

A colour costs bytes at each repaint, and a row is sent again if any pixel of it changed; so colours are rounded to what
the eye tells apart, or to what the terminal has, by an ordered dither that is the same for every frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby

from rich.color import Color, ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from pvtool.dashboard.pictures import Frame
from pvtool.dashboard.terminal import Colours


@dataclass(frozen=True)
class Row:
    """A line of a picture: what it looks like, what tells whether it changed, and about how many bytes it sends."""

    strip: Strip
    pixels: object
    size: int


Drawing = tuple[Row, ...]

_BAYER = ((0, 8, 2, 10), (12, 4, 14, 6), (3, 11, 1, 9), (15, 7, 13, 5))
_TRUE_LEVELS = tuple(min(255, 8 * step + 4) for step in range(32))
_CUBE_LEVELS = (0, 95, 135, 175, 215, 255)
_COARSE_LEVELS = (0, 85, 170, 255)
_SYSTEMS = {"truecolor": ColorSystem.TRUECOLOR, "256": ColorSystem.EIGHT_BIT, "16": ColorSystem.STANDARD}
_RAMP = " .:-=+*#%@"
_SENT = {"truecolor": 42, "256": 25, "16": 15, "none": 0}


def draw(frame: Frame, colours: Colours, dark: bool = True) -> Drawing:
    """Half blocks in these colours, or a ramp of characters where there are none."""
    if colours == "none":
        return tuple(_ramp(frame, dark))
    return tuple(_half_blocks(frame, colours))


def _half_blocks(frame: Frame, colours: Colours) -> Iterator[Row]:
    toned = _toned(frame, colours)
    line = frame.width * 3
    for top in range(0, frame.height * line, 2 * line):
        pixels = toned[top : top + 2 * line]
        segments = [Segment(text, style) for text, style in _runs(pixels[:line], pixels[line:], colours)]
        size = len(segments) * _SENT[colours] + 3 * frame.width
        yield Row(Strip(segments, frame.width), pixels, size)


def _runs(upper: bytes, lower: bytes, colours: Colours) -> Iterator[tuple[str, Style]]:
    """Neighbours of the same colours as one piece of text; a space where upper and lower are the same."""
    for (above, below), run in groupby(zip(_triplets(upper), _triplets(lower), strict=True)):
        yield (" " if above == below else "▀") * len(list(run)), _style(above, below, colours)


def _triplets(line: bytes) -> Iterator[tuple[int, int, int]]:
    return zip(line[0::3], line[1::3], line[2::3], strict=True)


@lru_cache(1 << 13)
def _style(above: tuple[int, int, int], below: tuple[int, int, int], colours: Colours) -> Style:
    """A style that knows already what it sends, so that painting does not work that out."""
    style = Style.from_color(None if above == below else Color.from_rgb(*above), Color.from_rgb(*below))
    Strip.render_ansi(style, _SYSTEMS[colours])
    return style


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
        return above if above > below and (value - below) / (above - below) > 0.15 + 0.7 * (rank + 0.5) / 16 else below

    return bytes(chosen(value) for value in range(256))


def _ramp(frame: Frame, dark: bool) -> Iterator[Row]:
    """A denser character where more of the reader's ink is wanted: light on dark, dark on light."""
    ramp = _RAMP if dark else _RAMP[::-1]
    line = frame.width * 3
    for y in range(frame.height // 2):
        top = y * 2 * line
        pixels = zip(*(_triplets(frame.data[at : at + line]) for at in (top, top + line)), strict=True)
        text = "".join(ramp[_brightness(*above, *below) * len(ramp) // 256] for above, below in pixels)
        yield Row(Strip([Segment(text)], frame.width), text, frame.width)


def _brightness(*channels: int) -> int:
    red, green, blue = (channels[at] + channels[at + 3] for at in range(3))
    return (299 * red + 587 * green + 114 * blue) // 2000
