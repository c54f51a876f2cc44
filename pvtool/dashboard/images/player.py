"""A clip as it is played: its frames made ready for a room of a given size, and the budget that all clips share."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic
from typing import TypeVar

from pvtool.dashboard.images import half_blocks, kitty
from pvtool.dashboard.images.decode import Box, Film, Frame, decode
from pvtool.terminal import Pictures, Terminal

_MOST_NUMBERS = 32
_STILLS = {".png", ".jpg", ".jpeg", ".webp"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Sheet:
    """What the terminal is given once for a frame: a number for it, what sends it, and what frees it."""

    number: int
    transmission: str
    removal: str


@dataclass(frozen=True)
class Playback:
    """Frames ready to draw. Of the file's `total` frames every `stride`-th is here; `fps` is the rate of those here."""

    drawings: Sequence[half_blocks.Drawing]
    fps: float
    total: int
    stride: int
    whole: bool
    sheets: Sequence[Sheet] = ()


async def load_playback(
    path: Path, columns: int, rows: int, terminal: Terminal, dark: bool
) -> Playback:
    """Read and draw a file for so many cells. Raises Unshowable."""
    if terminal.pictures is Pictures.KITTY:
        return await _wind_sheets(
            path, min(columns, len(kitty.marks())), min(rows, len(kitty.marks())), terminal
        )
    width, height = terminal.cell
    film = await decode(path, Box(columns, 2 * rows, height / 2 / width))
    drawings = await asyncio.to_thread(
        lambda: [half_blocks.draw(frame, terminal.colours, dark) for frame in film.frames]
    )
    return _reel(film, 1, drawings)


async def _wind_sheets(path: Path, columns: int, rows: int, terminal: Terminal) -> Playback:
    """A clip at half the sharpness of the screen, a still at all of it: a clip is many pictures to send."""
    width, height = terminal.cell
    part = 1 if path.suffix.lower() in _STILLS else 2
    film = await decode(path, Box(columns * width // part, rows * height // part), "png")
    frames, stride = _thinned(film.frames, _MOST_NUMBERS)
    size = _cells(frames[0], columns, rows, terminal.cell)
    numbers = [kitty.new_number() for _ in frames]
    sheets = [
        Sheet(
            number,
            kitty.transmission(frame, number, *size, terminal.tmux),
            kitty.removal(number, terminal.tmux),
        )
        for number, frame in zip(numbers, frames, strict=True)
    ]
    return _reel(film, stride, [kitty.draw(number, *size) for number in numbers], sheets)


def _reel(
    film: Film, stride: int, drawings: Sequence[half_blocks.Drawing], sheets: Sequence[Sheet] = ()
) -> Playback:
    return Playback(drawings, film.fps / stride, len(film.frames), stride, film.whole, sheets)


def _thinned(frames: Sequence[_T], most: int) -> tuple[Sequence[_T], int]:
    """No more than `most` frames, evenly out of all of them, and the distance between them."""
    stride = -(-len(frames) // max(1, most))
    return frames[::stride], stride


def _cells(frame: Frame, columns: int, rows: int, cell: tuple[int, int]) -> tuple[int, int]:
    """How many columns and rows a picture takes in that room."""
    scale = min(columns * cell[0] / frame.width, rows * cell[1] / frame.height)
    across, down = (
        max(1, round(frame.width * scale / cell[0])),
        max(1, round(frame.height * scale / cell[1])),
    )
    return min(across, columns), min(down, rows)


class Budget:
    """Bytes a second for all moving pictures together."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._free_at = 0.0

    def wait(self) -> float:
        """Seconds until something may be sent."""
        return max(0.0, self._free_at - monotonic())

    def spend(self, size: int) -> None:
        self._free_at = max(self._free_at, monotonic()) + size / self.rate


@cache
def budget(rate: int) -> Budget:
    """The one budget of this process."""
    return Budget(rate)
