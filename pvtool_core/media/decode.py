"""Decode clips. Pixels are uint8 RGB, (frames, height, width, 3)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from pvtool_core.errors import BadPicture
from pvtool_core.media import ffmpeg
from pvtool_core.media.ffmpeg import CONTAINERS, ClipBroken
from pvtool_core.media.photos import BLACK, SUFFIXES, durations, natural_order, read_animation
from pvtool_core.settings.formats import FORMATS, format_of
from pvtool_core.settings.references import load_named

Pixels = NDArray[np.uint8]
_PPM = rb"P6\n(\d+) (\d+)\n255\n"


def enlarge(frames: Pixels, factor: int) -> Pixels:
    """Return pixels upscaled by an integer factor (nearest neighbour)."""
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def frames_of(path: Path, box: int = 0) -> Pixels:
    """Return every frame of a clip in one of our formats; with `box`, fitted into such a square.

    With `box`, frames are fitted into such a square. Raises ClipBroken.
    """
    form = format_of(path)
    if form is None:
        raise ClipBroken(path, f"its format is not one of {', '.join(FORMATS)}")
    return load_named(form.decoder)(path, box)


def decode_animation(path: Path, box: int) -> Pixels:
    """Return the frames of a GIF or WebP. Raises ClipBroken."""
    return _of_pictures(path, [path], box)


def decode_images(path: Path, box: int) -> Pixels:
    """Return the images of a folder, in natural order, or one image. Raises ClipBroken."""
    files = natural_order(path.glob("[!.]*.png")) if path.is_dir() else [path]
    return _of_pictures(path, files, box)


def frames_of_any(path: Path, count: int) -> Pixels:
    """Return the first `count` frames of any animation or video, on black.

    Colour tags are respected, with BT.709 as the default; frames_of assumes files of `pv render`.
    Raises ClipBroken or BadPicture.
    """
    if path.suffix.lower() in SUFFIXES:
        return np.stack([np.asarray(frame) for frame in islice(read_animation(path, BLACK), count)])
    matrix = "" if _names_its_matrix(path) else ":in_color_matrix=bt709"
    how = ("-vf", f"scale=flags=accurate_rnd+full_chroma_inp{matrix}", "-frames:v", str(count))
    how += ("-fps_mode", "passthrough")
    frames = _of_video(
        path,
        how,
        "rgba",
        "pam",
        rb"P7\nWIDTH (\d+)\nHEIGHT (\d+)\nDEPTH 4\n[^\n]*\n[^\n]*\nENDHDR\n",
    )
    colours, alpha = frames[..., :3], frames[..., 3:]
    if (alpha == 255).all():
        return colours
    return ((colours.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)


SAMPLED_FRAMES, SAMPLED_SIDE = 64, 1024
_MOST_PIXELS = 1 << 26  # of a frame in a file of a stranger


def sample_of(path: Path) -> Pixels:
    """Return the first frames of any image, animation or video, of limited number and size.

    Larger frames are fitted into a square. Raises ClipBroken or BadPicture.
    """
    if path.suffix.lower() in SUFFIXES:
        found: list[Pixels] = []
        for picture in islice(read_animation(path, BLACK), SAMPLED_FRAMES):
            picture.thumbnail((SAMPLED_SIDE, SAMPLED_SIDE))
            found.append(np.asarray(picture))
        return np.stack(found)
    size = f"w='min(iw,{SAMPLED_SIDE})':h='min(ih,{SAMPLED_SIDE})'"
    scale = f"scale={size}:force_original_aspect_ratio=decrease:in_color_matrix=bt709"
    how = ("-vf", scale, "-frames:v", str(SAMPLED_FRAMES), "-fps_mode", "passthrough")
    limits = ("-max_pixels", str(_MOST_PIXELS))
    return _of_video(path, how, "rgb24", "ppm", _PPM, limits)


@dataclass(frozen=True, eq=False)
class Footage:
    """Frames of a video of any program, and its mean frames per second.

    `notes` are warnings for the user, as sentences.
    """

    frames: Pixels
    fps: float
    notes: tuple[str, ...] = ()


MOST_FRAMES = 1024
MOST_BYTES = 2 << 30
"""Limits of a decoded clip; further frames are cut, with a note."""


def footage_of(path: Path) -> Footage:
    """Return the frames of any animation or video at their own rate, without repeated frames.

    Raises ClipBroken or BadPicture.
    """
    if path.is_dir():
        raise ClipBroken(path, "a folder of images has no frame rate; encode it as a video")
    height, width = frames_of_any(path, 1).shape[1:3]
    count = max(2, min(MOST_FRAMES, MOST_BYTES // (4 * height * width)))
    if path.suffix.lower() in SUFFIXES:
        times = [0.0, *accumulate(durations(path))]
        total = len(times) - 1
    else:
        times = _video_times(path, count + 1)
        total = len(times)
    frames = frames_of_any(path, count)
    fps, notes = _rate(times[: len(frames) + 1])
    if total > len(frames):
        notes += (f"{path.name} has more than {len(frames)} frames; the rest is not scored.",)
    return Footage(frames, fps, tuple(notes))


_UNKNOWN_RATE = 8.0
_EVEN = 0.2
"""Largest relative deviation of a frame's duration from the mean at a constant rate."""


def _rate(times: list[float]) -> tuple[float, tuple[str, ...]]:
    """Return frames per second from the times of the frames in seconds, and notes."""
    steps = [after - before for before, after in pairwise(times)]
    if not steps or min(steps) <= 0:
        if len(times) < 2:
            return _UNKNOWN_RATE, ()
        return _UNKNOWN_RATE, (f"The frame rate is unknown; {_UNKNOWN_RATE:g} per second assumed.",)
    mean = fmean(steps)
    if max(abs(step - mean) for step in steps) <= _EVEN * mean + 1e-3:
        return 1 / mean, ()
    note = (
        f"The frame rate varies from {1 / max(steps):.3g} to {1 / min(steps):.3g} per second; "
        f"its mean of {1 / mean:.3g} is used, and motion is not comparable."
    )
    return 1 / mean, (note,)


def _video_times(path: Path, count: int) -> list[float]:
    """Return the times of the first `count` frames in seconds, by ffmpeg."""
    how = ("-map", "0:v:0", "-fps_mode", "passthrough", "-frames:v", str(count))
    words = ("-v", "info", *CONTAINERS, "-i", str(path), *how, "-vf", "showinfo", "-f", "null", "-")
    messages = ffmpeg.ask(path, *words).messages
    return [float(time) for time in re.findall(r" pts_time:([-\d.e]+)", messages)]


def _names_its_matrix(path: Path) -> bool:
    """Return whether the video declares its colour matrix: `yuv420p(tv, bt470bg/…)`."""
    messages = ffmpeg.ask(
        path, "-v", "info", *CONTAINERS, "-i", str(path),
        "-map", "0:v:0", "-frames:v", "1", "-f", "null", "-",
    ).messages  # fmt: skip
    facts = re.search(r"Video: [^\n]*?, \w+\(([^()]*)\)", messages)
    return bool(facts and re.search(r"bt\d|smpte|fcc|ycgco|gbr", facts[1]))


def _of_pictures(path: Path, files: list[Path], box: int) -> Pixels:
    try:
        frames = [frame for file in files for frame in _pictures(file, box)]
    except BadPicture as error:
        raise ClipBroken(path, error.message.rstrip(".")) from error
    if not frames:
        raise ClipBroken(path, "no image found")
    return np.stack(frames)


def _pictures(file: Path, box: int) -> Iterator[Pixels]:
    for picture in read_animation(file):
        if box:
            picture.thumbnail((box, box))
        yield np.asarray(picture)


def decode_video(path: Path, box: int) -> Pixels:
    """Return the frames of a video that pv wrote, by ffmpeg. Raises ClipBroken."""
    smaller = (
        f":w='min(iw,{box})':h='min(ih,{box})':force_original_aspect_ratio=decrease" if box else ""
    )
    convert = f"scale=in_color_matrix=bt709:in_range=tv:flags=accurate_rnd+full_chroma_inp{smaller}"
    return _of_video(path, ("-vf", convert), "rgb24", "ppm", _PPM)


def _of_video(
    path: Path,
    how: tuple[str, ...],
    pixels: str,
    form: str,
    begin: bytes,
    limits: tuple[str, ...] = (),
) -> NDArray[np.uint8]:
    """Decode to consecutive images; each header contains the size and matches `begin`."""
    words = ("-pix_fmt", pixels, "-f", "image2pipe", "-c:v", form, "pipe:1")
    source = (*limits, *CONTAINERS, "-i", str(path), "-map", "0:v:0")
    raw = ffmpeg.ask(path, *source, *how, *words).output
    header = re.match(begin, raw)
    if not header:
        raise ClipBroken(path, "no video stream found")
    width, height, channels = int(header[1]), int(header[2]), {"rgb24": 3, "rgba": 4}[pixels]
    pictures = np.frombuffer(raw, np.uint8).reshape(-1, header.end() + height * width * channels)
    return pictures[:, header.end() :].reshape(-1, height, width, channels)
