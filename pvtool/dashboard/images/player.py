"""Load clips for playback at display size, and limit the bytes that all clips send together."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic
from typing import TypeVar

from pvtool.dashboard.images import half_blocks, kitty
from pvtool.dashboard.images.cell_pictures import CellPicture
from pvtool.dashboard.images.decode import Box, DecodedClip, Frame, decode
from pvtool.dashboard.images.iterm2 import ITerm2Image
from pvtool.dashboard.images.sixel import SixelImage
from pvtool.terminal import Pictures, Terminal
from pvtool_core.settings.formats import is_moving

_MAX_STORED_FRAMES = 32
_T = TypeVar("_T")


@dataclass(frozen=True)
class KittyImage:
    """A frame stored in the terminal: its id and the commands that send and delete it."""

    image_id: int
    transmit: str
    delete: str


@dataclass(frozen=True)
class Playback:
    """Frames ready to draw.

    `total` is the number of frames in the file; every `stride`-th is included, and `fps` is the
    rate of these.
    """

    drawings: Sequence[half_blocks.Drawing]
    fps: float
    total: int
    stride: int
    complete: bool
    images: Sequence[KittyImage | CellPicture] = ()


async def load_playback(
    path: Path, columns: int, rows: int, terminal: Terminal, dark: bool
) -> Playback:
    """Decode a file for an area of cells. Raises DecodeError."""
    if terminal.pictures not in (Pictures.BLOCKS, Pictures.OFF):
        load = _load_kitty if terminal.pictures is Pictures.KITTY else _load_cell_pictures
        limit = len(kitty.diacritics())
        return await load(path, min(columns, limit), min(rows, limit), terminal)
    width, height = terminal.cell
    decoded = await decode(path, Box(columns, 2 * rows, height / 2 / width))
    drawings = await asyncio.to_thread(
        lambda: [half_blocks.draw(frame, terminal.colours, dark) for frame in decoded.frames]
    )
    return _playback(decoded, 1, drawings)


def _moves(path: Path) -> bool:
    """Return whether a file is an animation; False for an unreadable file, reported by `decode`."""
    try:
        return is_moving(path)
    except OSError:
        return False


async def _load_kitty(path: Path, columns: int, rows: int, terminal: Terminal) -> Playback:
    """Load a clip at half the resolution of the screen, or a still image at full resolution.

    A clip consists of many images to send.
    """
    width, height = terminal.cell
    scale = 2 if await asyncio.to_thread(_moves, path) else 1
    decoded = await decode(path, Box(columns * width // scale, rows * height // scale), "png")
    frames, stride = _subsample(decoded.frames, _MAX_STORED_FRAMES)
    size = _cells(frames[0], columns, rows, terminal.cell)
    ids = [kitty.new_image_id() for _ in frames]
    images = [
        KittyImage(
            image_id,
            kitty.transmit_command(frame, image_id, *size, terminal.tmux),
            kitty.delete_command(image_id, terminal.tmux),
        )
        for image_id, frame in zip(ids, frames, strict=True)
    ]
    return _playback(decoded, stride, [kitty.draw(image_id, *size) for image_id in ids], images)


async def _load_cell_pictures(path: Path, columns: int, rows: int, terminal: Terminal) -> Playback:
    """Load a file as pictures of cells, at the same resolutions as for Kitty."""
    width, height = terminal.cell
    scale = 2 if await asyncio.to_thread(_moves, path) else 1
    unit = across, down = -(-width // scale), -(-height // scale)
    box = Box(columns * across, rows * down, height * across / (down * width), unit)
    decoded = await decode(path, box)
    frames, stride = _subsample(decoded.frames, _MAX_STORED_FRAMES)

    def picture(frame: Frame) -> CellPicture:
        image = (
            SixelImage.of(frame, terminal.cell, scale)
            if terminal.pictures is Pictures.SIXEL
            else ITerm2Image.of(frame, unit)
        )
        return CellPicture(image, frame.width // across, frame.height // down)

    images = await asyncio.to_thread(lambda: [picture(frame) for frame in frames])
    return _playback(decoded, stride, [image.draw() for image in images], images)


def _playback(
    decoded: DecodedClip,
    stride: int,
    drawings: Sequence[half_blocks.Drawing],
    images: Sequence[KittyImage | CellPicture] = (),
) -> Playback:
    fps, total = decoded.fps / stride, len(decoded.frames)
    return Playback(drawings, fps, total, stride, decoded.complete, images)


def _subsample(frames: Sequence[_T], limit: int) -> tuple[Sequence[_T], int]:
    """Return at most `limit` evenly spaced frames, and the distance between them."""
    stride = -(-len(frames) // max(1, limit))
    return frames[::stride], stride


def _cells(frame: Frame, columns: int, rows: int, cell: tuple[int, int]) -> tuple[int, int]:
    """Return the columns and rows that an image takes within the available size."""
    scale = min(columns * cell[0] / frame.width, rows * cell[1] / frame.height)
    across, down = (
        max(1, round(frame.width * scale / cell[0])),
        max(1, round(frame.height * scale / cell[1])),
    )
    return min(across, columns), min(down, rows)


class Budget:
    """Limit of the bytes per second of all moving images together."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._free_at = 0.0

    def wait(self) -> float:
        """Return the seconds until the next bytes may be sent."""
        return max(0.0, self._free_at - monotonic())

    def spend(self, size: int) -> None:
        self._free_at = max(self._free_at, monotonic()) + size / self.rate


@cache
def budget(rate: int) -> Budget:
    """Return the budget shared by the whole process."""
    return Budget(rate)
