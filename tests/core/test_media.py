"""Clips in files: all frames come back, with all that was said about them, or the file is no clip."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from pvtool_core.media import (
    ClipBroken,
    SheetRow,
    enlarge,
    read_facts,
    read_mp4,
    to_pixels,
    write_clip,
    write_contact_sheet,
    write_gif,
    write_mp4,
)

FACTS = {"prompt": "<V> man; 'runs' = \"fast\" #1 \\ 速い\nnext line", "seed": 3, "nested": {"a": [1, 2.5, None]}}


def moving_square(frames: int = 8, height: int = 48, width: int = 72) -> np.ndarray:
    clip = np.full((frames, height, width, 3), (40, 90, 160), np.uint8)
    for number in range(frames):
        clip[number, 12:28, 4 + 5 * number : 20 + 5 * number] = (220, 60, 30)
    return clip


def test_frames_come_back_from_an_mp4_nearly_as_they_were(tmp_path: Path) -> None:
    clip = enlarge(moving_square(), 2)
    write_mp4(tmp_path / "clip.mp4", clip, 8, FACTS)
    back = read_mp4(tmp_path / "clip.mp4")
    assert back.shape == clip.shape
    error = np.abs(back.astype(int) - clip)
    assert error.mean() < 2  # the colours are right: a wrong matrix is off by 5 and more
    assert np.abs(back[3, :16].astype(int).mean((0, 1)) - clip[3, :16].mean((0, 1))).max() < 3


def test_the_facts_travel_inside_the_mp4(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", moving_square(), 8, FACTS)
    assert read_facts(tmp_path / "clip.mp4") == FACTS


def test_an_mp4_says_what_players_need_and_can_be_shown_while_it_loads(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", moving_square(), 8, FACTS)
    content = (tmp_path / "clip.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    words = [get_ffmpeg_exe(), "-i", str(tmp_path / "clip.mp4")]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stderr
    assert "yuv420p(tv, bt709" in said
    assert "72x48" in said
    assert "8 fps" in said


def test_a_cut_off_file_is_no_clip(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", moving_square(), 8, FACTS)
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 4])
    with pytest.raises(ClipBroken, match=r"cut\.mp4"):
        read_mp4(tmp_path / "cut.mp4")


def test_a_file_of_another_program_has_no_facts(tmp_path: Path) -> None:
    source = ("-f", "lavfi", "-i", "testsrc=size=64x64:duration=0.5:rate=8")
    subprocess.run([get_ffmpeg_exe(), "-v", "error", *source, str(tmp_path / "other.mp4")], check=True)
    with pytest.raises(ClipBroken, match="pv did not write it"):
        read_facts(tmp_path / "other.mp4")


def test_a_gif_shows_every_frame_at_its_time(tmp_path: Path) -> None:
    write_gif(tmp_path / "clip.gif", moving_square(), 8)
    with Image.open(tmp_path / "clip.gif") as gif:
        assert (getattr(gif, "n_frames", 1), gif.size, gif.info["loop"]) == (8, (72, 48), 0)
        assert 110 <= gif.info["duration"] <= 130


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_clip_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, suffix: str) -> None:
    clip = tmp_path / f"clip.{suffix}"
    with pytest.raises((ClipBroken, ValueError)):
        write_clip(clip, moving_square(height=0), 8, FACTS)
    clip.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_clip(clip, moving_square(), 8, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == [clip.name]
    clip.rmdir()
    write_clip(clip, moving_square(), 8, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == [clip.name]


def test_frames_of_a_model_become_pixels() -> None:
    frames = torch.tensor([0.0, 0.5, 1.2]).view(1, 3, 1, 1).expand(2, 3, 4, 6)
    pixels = to_pixels(frames)
    assert pixels.shape == (2, 4, 6, 3)
    assert pixels[0, 0, 0].tolist() == [0, 128, 255]


def test_enlarging_invents_nothing() -> None:
    clip = moving_square()
    large = enlarge(clip, 3)
    assert large.shape == (8, 144, 216, 3)
    assert (large[:, 1::3, 2::3] == clip).all()


def test_a_contact_sheet_shows_every_row_from_its_reference_on(tmp_path: Path) -> None:
    reference = np.full((112, 112, 3), (0, 200, 0), np.uint8)
    clip = moving_square(4)
    rows = [SheetRow("mara, before", [reference, *clip]), SheetRow("mara, after", [reference, *clip[:2]])]
    write_contact_sheet(tmp_path / "sheet.png", rows, tile=64)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    greens = (pixels == (0, 200, 0)).all(-1)
    assert greens.sum() == 2 * 64 * 64
    assert pixels.shape[1] > 5 * 64
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.png"]
