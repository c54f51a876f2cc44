"""Sixel graphics: bands of six rows of pixels, drawn once for each colour of a fixed palette.

Format: VT330/VT340 Programmer Reference Manual, volume 2, chapter 14. The registers have the same
colours in every image, as some terminals share them between all images on the screen.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from pvtool.dashboard.images.decode import Frame
from pvtool.dashboard.images.half_blocks import dither

_STEPS = 6  # of each channel; sixel colours are percentages, so these are exact
_LEVELS = tuple(255 * step // (_STEPS - 1) for step in range(_STEPS))
_BAND = 6
_CHARACTERS = bytes(63 + bits if bits < 64 else 0 for bits in range(256))
_RUN = re.compile(rb"(.)\1{3,}")


@dataclass(frozen=True)
class SixelImage:
    """Image of whole cells: lines of palette indices, each pixel repeated `scale` (1 or 2) times.

    `cell` is the size of a cell on the screen; the last repetition in a cell of odd size is cut.
    """

    scrolls: ClassVar[bool] = True  # some terminals move the cursor below an image

    lines: Sequence[bytes]
    cell: tuple[int, int]
    scale: int

    @classmethod
    def of(cls, frame: Frame, cell: tuple[int, int], scale: int) -> "SixelImage":
        indices = _indices(dither(frame, _LEVELS))
        starts = range(0, len(indices), frame.width)
        return cls([indices[at : at + frame.width] for at in starts], cell, scale)

    def part(self, row: int, first: int, end: int) -> str:
        """Return the command that draws the cells from `first` up to `end` of a row."""
        across, down = (-(-length // self.scale) for length in self.cell)
        columns = slice(first * across, end * across)
        lines = [line[columns] for line in self.lines[row * down : (row + 1) * down]]
        width, height = (end - first) * self.cell[0], self.cell[1]
        definitions = "".join(map(_definition, sorted(set().union(*lines))))
        bands = b"-".join(self._band(lines, top, width) for top in range(0, height, _BAND))
        return f'\x1bP0;1q"1;1;{width};{height}{definitions}{bands.decode()}\x1b\\'

    def _band(self, lines: Sequence[bytes], top: int, width: int) -> bytes:
        """Draw each colour of a band: bit n of a character is its pixel in the n-th row.

        The colour that takes most bytes fills the whole band first, and the others cover it.
        """
        bits: dict[int, int] = {}
        for y in range(top, min(top + _BAND, self.cell[1])):
            bits[y // self.scale] = bits.get(y // self.scale, 0) | 1 << (y - top)
        used = [(lines[index], weight) for index, weight in bits.items()]
        drawn: dict[int, bytes] = {}
        for colour in sorted(set().union(*(line for line, _ in used))):
            # A line of ones and zeros is a large number, so that all its pixels are added at once.
            added = sum(
                int.from_bytes(line.translate(_mask(colour)), "little") * weight
                for line, weight in used
            )
            sixels = added.to_bytes(len(lines[0]), "little").translate(_CHARACTERS)
            drawn[colour] = _shorten(self._repeat(sixels).rstrip(b"?"))
        ground = max(drawn, key=lambda colour: len(drawn[colour]))
        del drawn[ground]
        filled = b"!%d%c" % (width, _CHARACTERS[sum(bits.values())])
        parts = [(ground, filled), *drawn.items()]
        return b"$".join(b"#%d%b" % part for part in parts)

    def _repeat(self, sixels: bytes) -> bytes:
        if self.scale == 1:
            return sixels
        repeated = bytearray(2 * len(sixels))
        repeated[0::2] = repeated[1::2] = sixels
        if odd := self.cell[0] % 2:
            cell = self.cell[0] + odd
            del repeated[cell - 1 :: cell]
        return bytes(repeated)


def _shorten(sixels: bytes) -> bytes:
    return _RUN.sub(lambda run: b"!%d%b" % (len(run[0]), run[1]), sixels)


def _indices(pixels: bytes) -> bytes:
    """Return the palette index of each pixel whose channels have the levels of the palette."""
    added = sum(
        int.from_bytes(pixels[channel::3].translate(_weighted(_STEPS ** (2 - channel))), "little")
        for channel in range(3)
    )
    return added.to_bytes(len(pixels) // 3, "little")


@cache
def _weighted(weight: int) -> bytes:
    return bytes(value * (_STEPS - 1) // 255 * weight for value in range(256))


@cache
def _mask(colour: int) -> bytes:
    return bytes(int(value == colour) for value in range(256))


@cache
def _definition(colour: int) -> str:
    steps = (colour // _STEPS**2, colour // _STEPS % _STEPS, colour % _STEPS)
    return f"#{colour};2;" + ";".join(str(step * 100 // (_STEPS - 1)) for step in steps)
