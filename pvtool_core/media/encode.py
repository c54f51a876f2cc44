"""Encode clips: write, describe, sign if requested, read back, and only then rename."""

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageSequence, PngImagePlugin

from pvtool_core.errors import UsageError
from pvtool_core.files import publish, working_folder
from pvtool_core.media import ffmpeg
from pvtool_core.media.c2pa import Credentials, read_credentials, sign
from pvtool_core.media.decode import Pixels, enlarge
from pvtool_core.media.ffmpeg import ENCODERS, ClipBroken
from pvtool_core.media.metadata import (
    Facts,
    as_tags,
    facts_of_tags,
    mark_gif,
    mark_mp4,
    read_facts,
    xmp,
)
from pvtool_core.settings.formats import FORMATS, Format
from pvtool_core.settings.jobs import EncodingConfig
from pvtool_core.settings.references import load_named

PLAIN = EncodingConfig()

# Identical files need a fixed number of threads: x264 records it, and x265 depends on it.
# CRF 17 of x264 is the reference; the other codecs have the value with equal SSIM.
_X265 = "log-level=error:info=0:pools=4:frame-threads=1"
_CODECS = {
    "h264": ("-crf", "17", "-preset", "medium"),
    "h265": ("-crf", "17", "-preset", "medium", "-tag:v", "hvc1", "-x265-params", _X265),
    "av1": ("-crf", "11", "-preset", "6"),
}
# Encoders read primaries and transfer from the frames, so a filter must set them.
_TAGS = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
_TO_BT709 = (
    "-vf",
    "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int,"
    f"format=yuv420p,{_TAGS}",
)
_BT709 = (
    "-colorspace",
    "bt709",
    "-color_primaries",
    "bt709",
    "-color_trc",
    "bt709",
    "-color_range",
    "tv",
)
_SMALL = 512 * 512  # pixels up to which one thread is fastest

# One palette per clip avoids flicker; ordered dithering compresses well.
_GIF_COLOURS = (
    "split[a][b];[a]palettegen[palette];[b][palette]paletteuse=dither=bayer:bayer_scale=4"
)
_GIF_FPS = 50  # browsers show faster ones at 10
_WEBP_QUALITY = 90
_TIME_UNIT = 1 / _GIF_FPS


@dataclass(frozen=True)
class ClipFile:
    """Content of a clip: frames, frames per second, metadata and encoding."""

    frames: Pixels
    fps: int
    facts: Facts
    encoding: EncodingConfig

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.fps


def write_clip(
    clip: Path, frames: Pixels, fps: int, facts: Facts, encoding: EncodingConfig = PLAIN
) -> list[Path]:
    """Write a clip in each of its formats, as `clip` with their suffixes; return the paths.

    png is a folder of frames with the name of the clip. Raises ClipBroken, UsageError (missing
    codec, odd sides, an invalid certificate), or OSError, also on a full disk.
    """
    check_size(frames, encoding)
    credentials = (
        read_credentials(Path(encoding.certificate), Path(encoding.key))
        if encoding.certificate
        else None
    )
    what = ClipFile(enlarge(frames, encoding.upscale), fps, facts, encoding)
    with working_folder(clip) as folder:
        made = [
            _write(folder / clip.name, FORMATS[name], what, credentials)
            for name in encoding.formats
        ]
        return publish(made, clip.parent)


def check_size(frames: Pixels, encoding: EncodingConfig) -> None:
    """Check that each format can hold frames of this size. Raises UsageError."""
    height, width = (side * encoding.upscale for side in frames.shape[1:3])
    for name in encoding.formats:
        if FORMATS[name].even_sides and (height % 2 or width % 2):
            others = [other.name for other in FORMATS.values() if not other.even_sides]
            raise UsageError(
                f"Format {name} cannot hold {width}×{height} pixels: its sides must be even.",
                f"Use one of {', '.join(others)}.",
            )


def _write(clip: Path, form: Format, what: ClipFile, credentials: Credentials | None) -> Path:
    path = form.path(clip)
    load_named(form.writer)(path, what)
    if credentials:
        for file in sorted(path.iterdir()) if path.is_dir() else (path,):
            sign(file, credentials, f"{clip.name}.{form.name}", form.media_type)
    load_named(form.checker)(path, what)
    return path


def write_mp4(path: Path, clip: ClipFile) -> None:
    """Write an mp4 that plays while it loads; the key `pv` requires use_metadata_tags."""
    tags = path.with_suffix(".tags")
    tags.write_bytes(as_tags(clip.facts))
    threads = "1" if clip.frames[0].size <= 3 * _SMALL else "4"
    codec = (
        "-c:v",
        ENCODERS[clip.encoding.codec],
        *_CODECS[clip.encoding.codec],
        "-pix_fmt",
        "yuv420p",
        *_BT709,
    )
    metadata = ("-f", "ffmetadata", "-i", str(tags), "-map", "0:v", "-map_metadata", "1")
    form = ("-movflags", "+faststart+use_metadata_tags", "-f", "mp4")
    _encode(path, clip, *metadata, *_TO_BT709, *codec, "-threads", threads, *form)
    mark_mp4(path)


def write_gif(path: Path, clip: ClipFile) -> None:
    """Write an animated GIF with one palette."""
    slower = f"fps={_GIF_FPS}," if clip.fps > _GIF_FPS else ""
    loop = {0: "0", 1: "-1"}.get(
        clip.encoding.loop, str(clip.encoding.loop - 1)
    )  # it counts repetitions
    _encode(path, clip, "-filter_complex", slower + _GIF_COLOURS, "-loop", loop, "-f", "gif")
    mark_gif(path, clip.facts)


def _encode(path: Path, clip: ClipFile, *how: str) -> None:
    height, width = clip.frames.shape[1:3]
    raw = (
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        str(clip.fps),
        "-i",
        "pipe:0",
    )
    ffmpeg.ask(path, *raw, *how, "-y", str(path), stdin=clip.frames.tobytes())


def write_webp(path: Path, clip: ClipFile) -> None:
    """Write an animated WebP."""
    first, *others = [Image.fromarray(frame) for frame in clip.frames]
    options = {"xmp": xmp(clip.facts), "loop": clip.encoding.loop, "duration": _milliseconds(clip)}
    first.save(
        path,
        "WEBP",
        save_all=True,
        append_images=others,
        quality=_WEBP_QUALITY,
        method=4,
        **options,
    )


def _milliseconds(clip: ClipFile) -> list[int]:
    """Return the duration of each frame, rounded without accumulating errors."""
    ends = [round(1000 * count / clip.fps) for count in range(len(clip.frames) + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]


def write_images(path: Path, clip: ClipFile) -> None:
    """Write numbered images; the first contains the metadata."""
    path.mkdir()
    for number, frame in enumerate(clip.frames):
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp(None if number else clip.facts).decode())
        Image.fromarray(frame).save(path / f"{number:04d}.png", pnginfo=info)


def check_mp4(path: Path, clip: ClipFile) -> None:
    """Decode every frame in one process and return the tags."""
    outputs = ("-map", "0:v", "-f", "null", "-", "-f", "ffmetadata", "pipe:1")
    answer = ffmpeg.ask(path, "-xerror", "-progress", "pipe:2", "-i", str(path), *outputs)
    there = int(re.findall(r"^frame=\s*(\d+)", answer.messages, re.MULTILINE)[-1])
    if there != len(clip.frames):
        raise ClipBroken(path, f"it holds {there} of {len(clip.frames)} frames")
    _check_facts(path, facts_of_tags(path, answer.output.decode()), clip)


def check_animation(path: Path, clip: ClipFile) -> None:
    """Check frames by time: equal frames may have been merged into a longer one."""
    shown = 0
    with Image.open(path) as picture:
        for frame in ImageSequence.Iterator(picture):
            frame.load()
            shown += frame.info.get("duration", 0)
    moving = bool((clip.frames != clip.frames[:1]).any())  # a still webp becomes a single image
    if moving and abs(shown / 1000 - clip.seconds) > _TIME_UNIT:
        raise ClipBroken(path, f"it lasts {shown / 1000:g} of {clip.seconds:g} seconds")
    _check_facts(path, read_facts(path), clip)


def check_images(path: Path, clip: ClipFile) -> None:
    """Decode every image of a folder, and compare number and metadata."""
    files = sorted(path.iterdir())
    for file in files:
        with Image.open(file) as picture:
            picture.load()
    if len(files) != len(clip.frames):
        raise ClipBroken(path, f"it holds {len(files)} of {len(clip.frames)} frames")
    _check_facts(path, read_facts(path), clip)


def _check_facts(path: Path, there: Facts, clip: ClipFile) -> None:
    if there != json.loads(json.dumps(clip.facts)):
        raise ClipBroken(path, "its metadata are lost")
