"""Clips to watermark, and what happens to clips on their way: codecs, cropping, resizing."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from pvtool_core.media import ffmpeg
from pvtool_core.media.decode import Pixels, frames_of_any

_GIF = "split[a][b];[a]palettegen[palette];[b][palette]paletteuse=dither=bayer:bayer_scale=4"


def scene(seed: int, side: int = 512, frames: int = 8) -> Pixels:
    """Return moving discs before coloured waves with texture and noise, drawn from the seed."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / side
    texture = np.kron(draw.normal(0, 8, (side // 8, side // 8, 3)), np.ones((8, 8, 1)))
    phases, speeds = draw.uniform(0, 6, 3), draw.normal(0, 0.01, (8, 2))
    places, colours = draw.uniform(0, 1, (8, 2)), draw.uniform(0, 255, (8, 3))
    sizes = draw.uniform(0.05, 0.25, 8)
    clip: list[Pixels] = []
    for time in range(frames):
        waves = [
            np.sin(6 * rows * (band + 1) + 4 * columns + phases[band] + 0.1 * time)
            for band in range(3)
        ]
        image = 128 + 60 * np.stack(waves, axis=-1) + texture
        for place, speed, colour, size in zip(places, speeds, colours, sizes, strict=True):
            row, column = place + speed * time
            inside = np.clip((size - np.hypot(rows - row, columns - column)) * 60, 0, 1)[..., None]
            image = image * (1 - inside) + colour * inside
        noisy = image + draw.normal(0, 2, image.shape)
        clip.append(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
    return np.stack(clip)


def resized(frames: Pixels, width: int, height: int) -> Pixels:
    size = (width, height)
    images = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.asarray(image) for image in images])


def half(frames: Pixels) -> Pixels:
    return resized(frames, frames.shape[2] // 2, frames.shape[1] // 2)


def cropped(frames: Pixels) -> Pixels:
    """Return the frames without a tenth of each side, more at the top and the right."""
    height, width = frames.shape[1:3]
    top, left = round(0.08 * height), round(0.03 * width)
    return frames[:, top : top + round(0.9 * height), left : left + round(0.9 * width)]


def encoded(suffix: str, *how: str) -> Callable[[Pixels], Pixels]:
    """Return a function that encodes frames by ffmpeg and decodes the file."""

    def attack(frames: Pixels) -> Pixels:
        height, width = frames.shape[1:3]
        raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "8")
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"clip{suffix}"
            ffmpeg.ask(path, *raw, "-i", "pipe:0", *how, str(path), stdin=frames.tobytes())
            return frames_of_any(path, len(frames))

    return attack


def _h264(crf: int) -> Callable[[Pixels], Pixels]:
    return encoded(".mp4", "-c:v", "libx264", "-crf", str(crf), "-pix_fmt", "yuv420p")


def _h265(crf: int) -> Callable[[Pixels], Pixels]:
    quiet = ("-x265-params", "log-level=error:pools=1")
    return encoded(".mp4", "-c:v", "libx265", *quiet, "-crf", str(crf), "-pix_fmt", "yuv420p")


def together(*attacks: Callable[[Pixels], Pixels]) -> Callable[[Pixels], Pixels]:
    def attack(frames: Pixels) -> Pixels:
        for each in attacks:
            frames = each(frames)
        return frames

    return attack


ATTACKS: dict[str, Callable[[Pixels], Pixels]] = {
    "none": lambda frames: frames,
    "H.264 CRF 17": _h264(17),
    "H.264 CRF 28": _h264(28),
    "H.265 CRF 17": _h265(17),
    "H.265 CRF 28": _h265(28),
    "gif": encoded(".gif", "-filter_complex", _GIF),
    "crop 10 %": cropped,
    "half size": half,
    "half size, H.264 CRF 28": together(half, _h264(28)),
    "first half of the frames": lambda frames: frames[: len(frames) // 2],
    "darker by a fifth": lambda frames: (frames * 0.8).astype(np.uint8),
    "mirrored": lambda frames: frames[:, :, ::-1],
}
