"""Draw images as rows of half blocks, two pixels each, or as a ramp of grey characters.

Colours cost bytes at each repaint, and a row is sent again if any of its pixels changed. Colours
are therefore rounded to distinguishable or supported ones, by an ordered dither that is the same
for every frame.
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
    """Row of an image: its pixels, its approximate size in bytes, and its drawing function.

    Pixels are compared to detect changes. A row is drawn when it is painted: keeping drawn clips
    would create so many objects that garbage collection blocks the screen for a tenth of a second.
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
_BYTES_PER_SEGMENT = {"truecolor": 42, "256": 25, "16": 15, "none": 0}


def draw(frame: Frame, colours: Colours, dark: bool = True) -> Drawing:
    """Draw a frame as half blocks in the given colours, or as a character ramp without colours."""
    if colours == "none":
        return tuple(_ramp(frame, dark))
    return tuple(_half_blocks(frame, colours))


def _half_blocks(frame: Frame, colours: Colours) -> Iterator[CellRow]:
    quantized = _quantize(frame, colours)
    line = frame.width * 3
    for top in range(0, frame.height * line, 2 * line):
        pixels = quantized[top : top + 2 * line]
        segments = 1 + sum(left != right for left, right in pairwise(_cells(pixels)))
        yield CellRow(
            pixels,
            segments * _BYTES_PER_SEGMENT[colours] + 3 * frame.width,
            partial(_strip, pixels, colours),
        )


def _strip(pixels: bytes, colours: Colours) -> Strip:
    """Join equal neighbours into segments; cells with two equal pixels become spaces."""
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


@lru_cache(1 << 14)  # holds the styles of a whole clip
def _style(above: Pixel, below: Pixel, colours: Colours) -> Style:
    """Return a style with its escape sequence already computed, for fast painting."""
    style = Style.from_color(None if above == below else _colour(above), _colour(below))
    Strip.render_ansi(style, _SYSTEMS[colours])
    return style


@lru_cache(1 << 12)
def _colour(pixel: Pixel) -> Color:
    return Color.from_rgb(*pixel)


def _quantize(frame: Frame, colours: Colours) -> bytes:
    if colours == "truecolor":
        return frame.data.translate(_nearest(_TRUE_LEVELS))
    return dither(frame, _CUBE_LEVELS if colours == "256" else _COARSE_LEVELS)


def dither(frame: Frame, levels: tuple[int, ...]) -> bytes:
    """Round each channel to one of the two nearest `levels`, by a position-dependent threshold."""
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
    def quantize(value: int) -> int:
        below = max(level for level in levels if level <= value)
        above = min(level for level in levels if level >= value)
        return (
            above
            if above > below and (value - below) / (above - below) > 0.15 + 0.7 * (rank + 0.5) / 16
            else below
        )

    return bytes(quantize(value) for value in range(256))


def _ramp(frame: Frame, dark: bool) -> Iterator[CellRow]:
    """Draw with a ramp of characters: dense is bright on a dark theme and dark on a light one."""
    ramp = _RAMP if dark else _RAMP[::-1]
    line = frame.width * 3
    for y in range(frame.height // 2):
        top = y * 2 * line
        pixels = zip(
            *(_triplets(frame.data[start : start + line]) for start in (top, top + line)),
            strict=True,
        )
        text = "".join(
            ramp[_brightness(*above, *below) * len(ramp) // 256] for above, below in pixels
        )
        yield CellRow(text, frame.width, partial(Strip, [Segment(text)], frame.width))


def _brightness(*channels: int) -> int:
    red, green, blue = (channels[i] + channels[i + 3] for i in range(3))
    return (299 * red + 587 * green + 114 * blue) // 2000
