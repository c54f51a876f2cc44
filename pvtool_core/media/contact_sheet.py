"""Contact sheets: one image with frames of many clips."""

from bisect import bisect
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pvtool_core.files import replace_file
from pvtool_core.media.decode import frames_of

ROWS = 40
FRAMES = 8
TILE = 128
_READERS = 4

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class SheetRow:
    """A row of a contact sheet: its label, and images (height, width, 3) of any size."""

    label: str
    pictures: Sequence[NDArray[np.uint8]]


def write_sheets(prefix: Path, clips: Sequence[tuple[str, Path]]) -> list[Path]:
    """Write a row with label and some frames per clip: prefix.png, or prefix-01.png and so on.

    Clips are files or folders written by write_clip, read one sheet at a time. Raises ClipBroken.
    """
    parts = [clips[start : start + ROWS] for start in range(0, len(clips), ROWS)]
    endings = (
        [".png"]
        if len(parts) == 1
        else [f"-{number:02d}.png" for number in range(1, len(parts) + 1)]
    )
    paths = [prefix.with_name(prefix.name + ending) for ending in endings]
    for path, part in zip(paths, parts, strict=True):
        write_contact_sheet(path, list(_rows(part)), TILE)
    return paths


def _rows(clips: Sequence[tuple[str, Path]]) -> Iterator[SheetRow]:
    with ThreadPoolExecutor(_READERS) as pool:
        pictures = pool.map(_some_frames, (path for _, path in clips))
        for (label, _), frames in zip(clips, pictures, strict=True):
            yield SheetRow(label, frames)


def _some_frames(path: Path) -> Sequence[NDArray[np.uint8]]:
    frames = frames_of(path, box=TILE)
    chosen = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
    return list(frames[chosen])


def write_contact_sheet(path: Path, rows: Sequence[SheetRow], tile: int = 128) -> None:
    """Write rows of images, each fitted into a square of `tile` pixels, as one PNG."""
    gap, margin, words = 4, 16, 18
    columns = max(len(row.pictures) for row in rows)
    line = tile + words + gap
    sheet = Image.new(
        "RGB", (2 * margin + columns * (tile + gap), 2 * margin + len(rows) * line), "white"
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for number, row in enumerate(rows):
        top = margin + number * line
        draw.text(
            (margin, top), _cut(row.label, font, sheet.width - 2 * margin), fill="black", font=font
        )
        for column, picture in enumerate(row.pictures):
            sheet.paste(_fitted(picture, tile), (margin + column * (tile + gap), top + words))
    replace_file(path, iio.imwrite("<bytes>", np.asarray(sheet), extension=".png"))


def _cut(label: str, font: Font, width: int) -> str:
    """Return the label on one line, truncated to the width."""
    line = " ".join(label[:width].split())
    if font.getlength(line) <= width:
        return line
    fits = bisect(range(len(line)), width, key=lambda count: font.getlength(f"{line[:count]}…"))
    return f"{line[: fits - 1]}…"


def _fitted(picture: NDArray[np.uint8], tile: int) -> Image.Image:
    image = Image.fromarray(picture)
    scale = tile / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resized = image.resize(
        size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    )
    square = Image.new("RGB", (tile, tile), "white")
    square.paste(resized, ((tile - size[0]) // 2, (tile - size[1]) // 2))
    return square
