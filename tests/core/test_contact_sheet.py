"""Contact sheets: one row per clip, for batches of any size."""

from pathlib import Path

import numpy as np
from PIL import Image

from pvtool_core.media.contact_sheet import (
    FRAMES,
    ROWS,
    TILE,
    SheetRow,
    write_contact_sheet,
    write_sheets,
)
from pvtool_core.media.decode import Pixels
from pvtool_core.media.encode import write_clip
from pvtool_core.settings.jobs import EncodingConfig

RED, GREEN = (200, 0, 0), (0, 200, 0)


def plain(colour: tuple[int, int, int], frames: int, height: int = 112, width: int = 112) -> Pixels:
    return np.full((frames, height, width, 3), colour, np.uint8)


def pixels_of(sheet: Path) -> Pixels:
    with Image.open(sheet) as image:
        return np.asarray(image.convert("RGB"))


def area(sheet: Path, colour: tuple[int, int, int]) -> int:
    """Return the number of pixels with about this red and green."""
    return int((np.abs(pixels_of(sheet).astype(int) - colour) < 12).all(-1).sum())


def test_each_row_starts_with_its_reference(tmp_path: Path) -> None:
    (reference,) = plain(GREEN, 1)
    clip = plain(RED, 4, 48, 72)
    rows = [
        SheetRow("mara, before", [reference, *clip]),
        SheetRow("mara, after", [reference, *clip[:2]]),
    ]
    write_contact_sheet(tmp_path / "sheet.png", rows, tile=64)
    assert area(tmp_path / "sheet.png", GREEN) == 2 * 64 * 64
    assert pixels_of(tmp_path / "sheet.png").shape[1] > 5 * 64
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.png"]


def test_long_label_stays_on_one_line(tmp_path: Path) -> None:
    row = [*plain(GREEN, 2)]
    write_contact_sheet(tmp_path / "short.png", [SheetRow("", row)])
    write_contact_sheet(tmp_path / "long.png", [SheetRow("a word\n" * 5000, row)])
    assert (
        area(tmp_path / "short.png", GREEN) == area(tmp_path / "long.png", GREEN) == 2 * 128 * 128
    )
    right = pixels_of(tmp_path / "long.png")[:30, -16:]
    assert (right == 255).all()


def test_sheet_reads_all_output_formats(tmp_path: Path) -> None:
    paths: list[Path] = []
    for suffix in ("mp4", "gif", "webp", "png"):
        frames = plain(GREEN, 20, 256, 128)
        frames[::2] += 4  # a webp would merge equal frames
        paths += write_clip(
            tmp_path / f"as-{suffix}", frames, 8, {}, EncodingConfig(formats=(suffix,))
        )
    (sheet,) = write_sheets(tmp_path / "contact-sheet", [(path.name, path) for path in paths])
    assert sheet == tmp_path / "contact-sheet.png"
    assert area(sheet, GREEN) == len(paths) * FRAMES * TILE * TILE // 2


def test_a_large_batch_takes_several_sheets(tmp_path: Path) -> None:
    (clip,) = write_clip(
        tmp_path / "clip", plain(GREEN, 2, 32, 32), 8, {}, EncodingConfig(formats=("gif",))
    )
    sheets = write_sheets(
        tmp_path / "contact-sheet", [(str(number), clip) for number in range(ROWS + 1)]
    )
    assert [sheet.name for sheet in sheets] == ["contact-sheet-01.png", "contact-sheet-02.png"]
    assert [area(sheet, GREEN) for sheet in sheets] == [2 * ROWS * TILE * TILE, 2 * TILE * TILE]
    assert write_sheets(tmp_path / "contact-sheet", []) == []
