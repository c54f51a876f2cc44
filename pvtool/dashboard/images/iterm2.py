"""Images by iTerm2's protocol: PNG files that the terminal scales to a number of cells."""

import struct
import zlib
from base64 import standard_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pvtool.dashboard.images.decode import Frame

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB = struct.pack(">BBBBB", 8, 2, 0, 0, 0)  # 8 bits per channel, three channels
_UP = b"\2"  # filter: differences from the line above
_ROUNDED = bytes(min(255, (value & 0xF8) + 4) for value in range(256))


@dataclass(frozen=True)
class ITerm2Image:
    """Image of whole cells: lines of RGB, and the size of a cell in pixels of the image."""

    scrolls: ClassVar[bool] = False

    lines: Sequence[bytes]
    cell: tuple[int, int]

    @classmethod
    def of(cls, frame: Frame, cell: tuple[int, int]) -> "ITerm2Image":
        """Cut a frame into lines, with colours rounded to 5 bits per channel: half the bytes."""
        data, line = frame.data.translate(_ROUNDED), 3 * frame.width
        return cls([data[at : at + line] for at in range(0, len(data), line)], cell)

    def part(self, row: int, first: int, end: int) -> str:
        """Return the command that draws the cells from `first` up to `end` of a row."""
        width, height = self.cell
        columns = slice(3 * first * width, 3 * end * width)
        lines = [line[columns] for line in self.lines[row * height : (row + 1) * height]]
        data = _png(lines)
        keys = (
            f"inline=1;size={len(data)};width={end - first};height=1;preserveAspectRatio=0;"
            "doNotMoveCursor=1"  # an extension of WezTerm, ignored by others
        )
        return f"\x1b]1337;File={keys}:{standard_b64encode(data).decode()}\x07"


def _png(lines: Sequence[bytes]) -> bytes:
    above = bytes(len(lines[0]))
    filtered: list[bytes] = []
    for line in lines:
        filtered.append(_UP + _subtract(line, above))
        above = line
    header = struct.pack(">II", len(lines[0]) // 3, len(lines)) + _RGB
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(filtered))), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(*part) for part in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _subtract(line: bytes, above: bytes) -> bytes:
    """Subtract all bytes at once, modulo 256: the top bits are set aside so that none borrows."""
    top = int.from_bytes(b"\x80" * len(line))
    minuend, subtrahend = int.from_bytes(line), int.from_bytes(above)
    difference = ((minuend | top) - (subtrahend & ~top)) ^ ((minuend ^ ~subtrahend) & top)
    return difference.to_bytes(len(line))
