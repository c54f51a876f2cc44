"""Clips in and out of files, and pictures of many clips at once. Frames are uint8 RGB, (frames, height, width, 3)."""

import errno
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pvtool_core.errors import PvError

Frames = NDArray[np.uint8]

_BT709 = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv")
_ENCODING = ("-c:v", "libx264", "-crf", "17", "-preset", "medium", "-pix_fmt", "yuv420p")


class ClipBroken(PvError):
    """A file that holds no whole clip."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path.name} is no whole clip: {problem}.", "Render it again.")


def write_clip(path: Path, frames: Frames, fps: int, facts: Mapping[str, Any]) -> None:
    """Write a clip as its suffix says, .mp4 or .gif; under its name there is a whole clip or none.

    Raises ClipBroken, or OSError on a full disk.
    """
    temporary = path.with_name(f".writing-{path.name}")
    try:
        if path.suffix == ".gif":
            write_gif(temporary, frames, fps)
        else:
            write_mp4(temporary, frames, fps, facts)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def to_pixels(frames: Tensor) -> Frames:
    """Frames (n, 3, height, width) in [0, 1] as uint8 (n, height, width, 3)."""
    return (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def write_mp4(path: Path, frames: Frames, fps: int, facts: Mapping[str, Any]) -> None:
    """Write an H.264 file that any player shows; `facts` go into its metadata as JSON, under `pv` and `comment`.

    The custom key survives only with use_metadata_tags. Raises OSError (also ENOSPC, in ffmpeg's words) or ClipBroken.
    """
    height, width = frames.shape[1:3]
    words = json.dumps(facts, ensure_ascii=False)
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0")
    tags = ("-metadata", f"pv={words}", "-metadata", f"comment={words}", "-movflags", "+faststart+use_metadata_tags")
    convert = ("-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int")
    _ffmpeg(path, *source, *convert, *_ENCODING, *_BT709, *tags, "-f", "mp4", "-y", str(path), stdin=frames.tobytes())
    check_mp4(path, frames, facts)


def write_gif(path: Path, frames: Frames, fps: int) -> None:
    """Write a looping GIF. It cannot carry metadata; the sidecar does."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, format="GIF", save_all=True, append_images=others, duration=round(1000 / fps), loop=0)


def check_mp4(path: Path, frames: Frames, facts: Mapping[str, Any]) -> None:
    """Read a file back. Raises ClipBroken unless all frames and facts are there."""
    there = read_mp4(path)
    if there.shape != frames.shape:
        raise ClipBroken(path, f"it holds {there.shape[0]} of {frames.shape[0]} frames")
    if read_facts(path) != json.loads(json.dumps(facts)):
        raise ClipBroken(path, "its metadata are lost")


def read_mp4(path: Path) -> Frames:
    """Every frame of a video file. Raises ClipBroken."""
    said = _run("-i", str(path), "-f", "null", "-").stderr.decode(errors="replace")
    size = re.search(r"Video: .*?, (\d+)x(\d+)", said)
    if not size:
        raise ClipBroken(path, "there is no video in it")
    width, height = int(size[1]), int(size[2])
    convert = ("-vf", "scale=in_color_matrix=bt709:in_range=tv:flags=accurate_rnd+full_chroma_inp")
    raw = _ffmpeg(path, "-i", str(path), *convert, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1")
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def read_facts(path: Path) -> dict[str, Any]:
    """What write_mp4 put into the file. Raises ClipBroken."""
    text = _ffmpeg(path, "-i", str(path), "-f", "ffmetadata", "pipe:1").decode()
    entry = re.search(r"^pv=((?:\\[\s\S]|[^\\\n])*)$", text, re.MULTILINE)
    if not entry:
        raise ClipBroken(path, "pv did not write it")
    return json.loads(re.sub(r"\\([\s\S])", r"\1", entry[1]))


def _ffmpeg(path: Path, *words: str, stdin: bytes = b"") -> bytes:
    done = _run(*words, stdin=stdin)
    if done.returncode:
        complaint = (done.stderr.decode(errors="replace").strip().splitlines() or ["ffmpeg gave no reason"])[-1]
        if "No space left" in done.stderr.decode(errors="replace"):
            raise OSError(errno.ENOSPC, complaint, str(path))
        raise ClipBroken(path, complaint)
    return done.stdout


def _run(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([_ffmpeg_path(), "-hide_banner", *words], input=stdin, capture_output=True, check=False)


@cache
def _ffmpeg_path() -> str:
    from imageio_ffmpeg import get_ffmpeg_exe

    return get_ffmpeg_exe()


def enlarge(frames: Frames, factor: int) -> Frames:
    """Frames `factor` times as large, by whole pixels: nothing is invented between them."""
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


@dataclass(frozen=True)
class SheetRow:
    """A line of a contact sheet: what it says at its left, and pictures (height, width, 3) of any size."""

    label: str
    pictures: Sequence[NDArray[np.uint8]]


def write_contact_sheet(path: Path, rows: Sequence[SheetRow], tile: int = 128) -> None:
    """Rows of pictures, each fitted into a square of `tile` pixels, as one PNG."""
    gap, margin, words = 4, 16, 18
    columns = max(len(row.pictures) for row in rows)
    line = tile + words + gap
    sheet = Image.new("RGB", (2 * margin + columns * (tile + gap), 2 * margin + len(rows) * line), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for number, row in enumerate(rows):
        top = margin + number * line
        draw.text((margin, top), row.label, fill="black", font=font)
        for column, picture in enumerate(row.pictures):
            sheet.paste(_fitted(picture, tile), (margin + column * (tile + gap), top + words))
    temporary = path.with_name(f".{path.name}.writing")
    sheet.save(temporary, format="PNG")
    temporary.replace(path)


def _fitted(picture: NDArray[np.uint8], tile: int) -> Image.Image:
    image = Image.fromarray(picture)
    scale = tile / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resized = image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)
    square = Image.new("RGB", (tile, tile), "white")
    square.paste(resized, ((tile - size[0]) // 2, (tile - size[1]) // 2))
    return square
