"""Clips out of files. Frames are uint8 RGB, (frames, height, width, 3)."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from torch import Tensor

from pvtool_core import ffmpeg
from pvtool_core.errors import NotFinite
from pvtool_core.ffmpeg import ClipBroken

Frames = NDArray[np.uint8]


def to_pixels(frames: Tensor) -> Frames:
    """Return frames (n, 3, height, width) in [0, 1] as uint8 (n, height, width, 3). Raises NotFinite."""
    if not frames.isfinite().all():
        raise NotFinite("decoded frames")
    return (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def enlarge(frames: Frames, factor: int) -> Frames:
    """Frames `factor` times as large, by whole pixels: nothing is invented between them."""
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def frames_of(path: Path, box: int = 0) -> Frames:
    """Every frame of a video, gif or webp, or of a folder of pictures; with `box`, small enough for such a square.

    Raises ClipBroken.
    """
    if path.is_dir():
        return _of_pictures(path, sorted(path.glob("[!.]*.png")), box)
    return _of_pictures(path, [path], box) if path.suffix in (".gif", ".webp") else _of_video(path, box)


def _of_pictures(path: Path, files: list[Path], box: int) -> Frames:
    try:
        frames = [frame for file in files for frame in _pictures(file, box)]
    except (OSError, SyntaxError) as error:
        raise ClipBroken(path, str(error).rstrip(".")) from error
    if not frames:
        raise ClipBroken(path, "there is no picture in it")
    return np.stack(frames)


def _pictures(file: Path, box: int) -> Iterator[Frames]:
    with Image.open(file) as image:
        for frame in ImageSequence.Iterator(image):
            picture = frame.convert("RGB")
            if box:
                picture.thumbnail((box, box))
            yield np.asarray(picture)


def _of_video(path: Path, box: int) -> Frames:
    """As PPM, whose pictures each begin with their size."""
    smaller = f":w='min(iw,{box})':h='min(ih,{box})':force_original_aspect_ratio=decrease" if box else ""
    convert = f"scale=in_color_matrix=bt709:in_range=tv:flags=accurate_rnd+full_chroma_inp{smaller}"
    words = ("-i", str(path), "-map", "0:v:0", "-vf", convert, "-f", "image2pipe", "-c:v", "ppm", "pipe:1")
    raw = ffmpeg.ask(path, *words).output
    header = re.match(rb"P6\n(\d+) (\d+)\n255\n", raw)
    if not header:
        raise ClipBroken(path, "there is no video in it")
    width, height = int(header[1]), int(header[2])
    pictures = np.frombuffer(raw, np.uint8).reshape(-1, header.end() + height * width * 3)
    return pictures[:, header.end() :].reshape(-1, height, width, 3)
