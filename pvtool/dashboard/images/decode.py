"""Clips and photos out of their files, as small as they are drawn, by ffmpeg in a process of its own.

Whatever is in a file, it costs a bounded time and memory; what cannot be shown is said in a sentence.
"""

import asyncio
import re
import stat
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal

from pvtool_core.errors import PvError

MOST_FRAMES = 400
_MOST_PIXELS = 100_000_000
_SECONDS = 30.0
_PNG_END = b"IEND\xaeB`\x82"


class Unshowable(PvError):
    """A file of which no picture can be shown."""

    def __init__(self, path: Path, problem: str, hint: str = "") -> None:
        super().__init__(f"{path.name} {problem}.", hint)


@dataclass(frozen=True)
class Box:
    """Room for a picture: pixels across and down, and how many times as high as wide a pixel is."""

    width: int
    height: int
    tallness: float = 1.0


@dataclass(frozen=True)
class Frame:
    """One picture: raw RGB, row by row, or the bytes of a PNG file."""

    width: int
    height: int
    data: bytes


@dataclass(frozen=True)
class Film:
    """A file's pictures in their order; `whole` is false where the file broke off."""

    frames: tuple[Frame, ...]
    fps: float
    whole: bool = True


async def decode(path: Path, box: Box, form: Literal["raw", "png"] = "raw") -> Film:
    """Read a file's pictures, fitted into `box`; a PNG is never larger than its source. Raises Unshowable."""
    ffmpeg = await asyncio.to_thread(_ffmpeg, path)
    with await asyncio.to_thread(_open, path) as file:
        code, output, said = await _run(
            path, ffmpeg, file, _to_raw(box) if form == "raw" else _to_png(box)
        )
    frames = tuple(_raw_frames(output) if form == "raw" else _png_frames(output))
    if not frames:
        raise Unshowable(path, _problem(said))
    rate = re.search(r"Video: .*?, ([\d.]+)(k?) fps", said)
    fps = float(rate[1]) * (1000 if rate[2] else 1) if rate else 0.0
    return Film(frames, fps or 8.0, whole=code == 0)


def _open(path: Path) -> BinaryIO:
    """A file that can be read now: no folder, and no pipe that would make the reader wait."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unshowable(path, "is no file")
        if not status.st_size:
            raise Unshowable(path, "is empty")
        return path.open("rb")
    except FileNotFoundError:
        raise Unshowable(path, "is not there any more") from None
    except OSError as error:
        raise Unshowable(path, f"cannot be read: {error.strerror}") from None


@cache
def _find_ffmpeg() -> str:
    from imageio_ffmpeg import get_ffmpeg_exe

    return get_ffmpeg_exe()


def _ffmpeg(path: Path) -> str:
    try:
        return _find_ffmpeg()
    except (ImportError, RuntimeError):
        raise Unshowable(
            path, "cannot be shown: there is no ffmpeg", "`pv doctor` says what is missing."
        ) from None


def _to_raw(box: Box) -> list[str]:
    """As many pixels as are drawn, an even number down: a character is two of them."""
    scale = (
        f"scale=w='max(1,min({box.width},round({box.height}*{box.tallness:.4f}*dar)))'"
        f":h='2*max(1,round(min({box.height},{box.width}/(dar*{box.tallness:.4f}))/2))':flags=area"
    )
    return ["-vf", scale, "-c:v", "ppm"]


def _to_png(box: Box) -> list[str]:
    """In 256 colours, chosen for each picture: a third of the bytes, hard to tell from all of them."""
    shrink = f"min(1,min({box.width}/(iw*sar),{box.height}/ih))"
    fit = f"scale=w='max(1,round({shrink}*iw*sar))':h='max(1,round({shrink}*ih))'"
    palette = "split[a][b];[a]palettegen=stats_mode=single:reserve_transparent=0[p];[b][p]paletteuse=new=1:dither=bayer"
    return ["-vf", f"{fit}:flags=area,setsar=1,{palette}:bayer_scale=4", "-c:v", "png"]


async def _run(path: Path, ffmpeg: str, file: BinaryIO, how: list[str]) -> tuple[int, bytes, str]:
    """ffmpeg gets the file open, not by name, so that no name can mean anything else to it."""
    limits = [
        "-hide_banner",
        "-nostdin",
        "-nostats",
        "-xerror",
        "-threads",
        "1",
        "-max_pixels",
        str(_MOST_PIXELS),
    ]
    what = ["-i", "fd:", "-map", "0:v:0", "-frames:v", str(MOST_FRAMES), "-fps_mode", "passthrough"]
    words = [ffmpeg, *limits, *what, *how, "-f", "image2pipe", "pipe:1"]
    process = await asyncio.create_subprocess_exec(*words, stdin=file, stdout=PIPE, stderr=PIPE)
    try:
        output, said = await asyncio.wait_for(process.communicate(), _SECONDS)
    except TimeoutError:
        raise Unshowable(path, f"took longer than {_SECONDS:.0f} seconds to read") from None
    finally:
        await _end(process)
    return process.returncode or 0, output, said.decode(errors="replace")


async def _end(process: Process) -> None:
    """Not before it is gone: nothing must be left over when its picture is no longer wanted."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _raw_frames(output: bytes) -> Iterator[Frame]:
    """PPM files one after another: `P6 width height 255`, and the pixels."""
    at = 0
    while header := re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s").match(output, at):
        width, height = int(header[1]), int(header[2])
        at = header.end() + width * height * 3
        if at <= len(output):
            yield Frame(width, height, output[header.end() : at])


def _png_frames(output: bytes) -> Iterator[Frame]:
    for data in output.split(_PNG_END)[:-1]:
        yield Frame(int.from_bytes(data[16:20]), int.from_bytes(data[20:24]), data + _PNG_END)


_PROBLEMS = {
    "moov atom not found": "is no whole clip; it may still be written",
    "max_pixels": "is too large to be shown",
    "Picture size": "is too large to be shown",
    "Invalid data found": "is no picture, or a broken one",
    "matches no streams": "holds no picture",
    "End of file": "is no picture, or a broken one",
}


def _problem(said: str) -> str:
    return next(
        (words for sign, words in _PROBLEMS.items() if sign in said),
        "is no picture, or a broken one",
    )
