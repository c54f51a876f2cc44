"""Decode clips and photos at display size with ffmpeg in a separate process.

A second process reads the formats that ffmpeg cannot read, and passes their frames to ffmpeg.

Time and memory are limited whatever the file contains; failures have a message for the user.
"""

import asyncio
import os
import re
import stat
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal

from pvtool_core.errors import PvError
from pvtool_core.settings.formats import format_of, is_moving

READER = (sys.executable, "-P", "-m", "pvtool_core.media.stream")
MAX_FRAMES = 400
_MAX_PIXELS = 100_000_000
_TIMEOUT = 30.0
_PNG_END = b"IEND\xaeB`\x82"


class DecodeError(PvError):
    """A file that cannot be shown."""

    def __init__(self, path: Path, problem: str, hint: str = "") -> None:
        super().__init__(f"{path.name} {problem}.", hint)


@dataclass(frozen=True)
class Box:
    """Available size of an image.

    `width` and `height` in pixels; `pixel_height` is the height of a pixel relative to its width.
    Raw frames have multiples of `unit` as width and height.
    """

    width: int
    height: int
    pixel_height: float = 1.0
    unit: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class Frame:
    """An image: raw RGB, row by row, or the bytes of a PNG file."""

    width: int
    height: int
    data: bytes


@dataclass(frozen=True)
class DecodedClip:
    """Frames of a file in order; `complete` is false if the file is truncated."""

    frames: tuple[Frame, ...]
    fps: float
    complete: bool = True


async def decode(path: Path, box: Box, form: Literal["raw", "png"] = "raw") -> DecodedClip:
    """Decode the frames of a file, scaled to fit into `box`.

    A PNG is never larger than its source. Raises DecodeError.
    """
    ffmpeg = await asyncio.to_thread(_ffmpeg, path)
    options = _raw_options(box) if form == "raw" else _png_options(box)
    with await asyncio.to_thread(_open, path) as file:
        form_of_clip = format_of(path)
        readable = form_of_clip is None or not form_of_clip.rate_reader or not is_moving(path)
        try:
            async with asyncio.timeout(_TIMEOUT):
                if readable:
                    status, output, log = await _run_ffmpeg(ffmpeg, file, options)
                else:
                    status, output, log = await _run_reader(path, ffmpeg, options)
        except TimeoutError:
            problem = f"took more than {_TIMEOUT:.0f} seconds to decode"
            raise DecodeError(path, problem) from None
    frames = tuple(_raw_frames(output) if form == "raw" else _png_frames(output))
    if not frames:
        raise DecodeError(path, _describe_failure(log))
    rate = re.search(r"Video: .*?, ([\d.]+)(k?) fps", log)
    fps = float(rate[1]) * (1000 if rate[2] else 1) if rate else 0.0
    return DecodedClip(frames, fps or 8.0, complete=status == 0)


def _open(path: Path) -> BinaryIO:
    """Open a regular file; folders and pipes, which could block the reader, are rejected."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError(path, "is not a regular file")
        if not status.st_size:
            raise DecodeError(path, "is empty")
        return path.open("rb")
    except FileNotFoundError:
        raise DecodeError(path, "no longer exists") from None
    except OSError as error:
        raise DecodeError(path, f"cannot be read: {error.strerror}") from None


@cache
def _find_ffmpeg() -> str:
    from imageio_ffmpeg import get_ffmpeg_exe

    return get_ffmpeg_exe()


def _ffmpeg(path: Path) -> str:
    try:
        return _find_ffmpeg()
    except (ImportError, RuntimeError):
        raise DecodeError(path, "cannot be decoded: ffmpeg not found", "Run `pv doctor`.") from None


def _raw_options(box: Box) -> list[str]:
    """Return ffmpeg options for raw frames at display size, of whole units."""
    width = f"min({box.width},{box.height}*{box.pixel_height:.4f}*dar)"
    height = f"min({box.height},{box.width}/(dar*{box.pixel_height:.4f}))"
    across, down = box.unit
    scale = (
        f"scale=w='{across}*max(1,round({width}/{across}))'"
        f":h='{down}*max(1,round({height}/{down}))':flags=area"
    )
    return ["-vf", scale, "-c:v", "ppm"]


def _png_options(box: Box) -> list[str]:
    """Return ffmpeg options for PNGs with a palette of 256 colours, a third of the full size."""
    shrink = f"min(1,min({box.width}/(iw*sar),{box.height}/ih))"
    fit = f"scale=w='max(1,round({shrink}*iw*sar))':h='max(1,round({shrink}*ih))'"
    palette = (
        "split[a][b];[a]palettegen=stats_mode=single:reserve_transparent=0[p];"
        "[b][p]paletteuse=new=1:dither=bayer:bayer_scale=4"
    )
    return ["-vf", f"{fit}:flags=area,setsar=1,{palette}", "-c:v", "png"]


async def _run_reader(path: Path, ffmpeg: str, options: list[str]) -> tuple[int, bytes, str]:
    """Run the reader of a format, and ffmpeg on its frames; return status, output and log."""
    receiving, sending = os.pipe()
    with os.fdopen(receiving, "rb") as frames:
        with os.fdopen(sending, "wb") as pipe:
            command = (*READER, str(path.absolute()), str(MAX_FRAMES))
            reader = await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=pipe, stderr=PIPE
            )
        async with _ended(reader):
            status, output, log = await _run_ffmpeg(ffmpeg, frames, options, "ppm_pipe")
            frames.close()  # a reader that has more frames ends
            _, told = await reader.communicate()
    return status or reader.returncode or 0, output, told.decode(errors="replace") + log


async def _run_ffmpeg(
    ffmpeg: str, file: BinaryIO, options: list[str], demuxer: str = ""
) -> tuple[int, bytes, str]:
    """Run ffmpeg on an open file, so that special characters in its name have no effect."""
    limits = [
        "-hide_banner",
        "-nostdin",
        "-nostats",
        "-xerror",
        "-threads",
        "1",
        "-max_pixels",
        str(_MAX_PIXELS),
    ]
    source = [*(["-f", demuxer] if demuxer else []), "-i", "fd:", "-map", "0:v:0"]
    frames = ["-frames:v", str(MAX_FRAMES), "-fps_mode", "passthrough"]
    command = [ffmpeg, *limits, *source, *frames, *options, "-f", "image2pipe", "pipe:1"]
    process = await asyncio.create_subprocess_exec(*command, stdin=file, stdout=PIPE, stderr=PIPE)
    async with _ended(process):
        output, log = await process.communicate()
    return process.returncode or 0, output, log.decode(errors="replace")


@asynccontextmanager
async def _ended(process: Process) -> AsyncGenerator[None]:
    """Kill the process in the end if it is still running, and wait for its end."""
    try:
        yield
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _raw_frames(output: bytes) -> Iterator[Frame]:
    """Split concatenated PPM files: `P6 width height 255`, followed by the pixels."""
    end = 0
    while header := re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s").match(output, end):
        width, height = int(header[1]), int(header[2])
        end = header.end() + width * height * 3
        if end <= len(output):
            yield Frame(width, height, output[header.end() : end])


def _png_frames(output: bytes) -> Iterator[Frame]:
    for data in output.split(_PNG_END)[:-1]:
        yield Frame(int.from_bytes(data[16:20]), int.from_bytes(data[20:24]), data + _PNG_END)


_INVALID = "is not an image or is corrupt"
_FAILURES = {
    "moov atom not found": "is incomplete or still being written",
    "max_pixels": "is too large to display",
    "Picture size": "is too large to display",
    "Invalid data found": _INVALID,
    "matches no streams": "contains no images",
    "End of file": _INVALID,
}


def _describe_failure(log: str) -> str:
    return next((problem for text, problem in _FAILURES.items() if text in log), _INVALID)
