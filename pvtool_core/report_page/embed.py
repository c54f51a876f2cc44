"""Clips and photos as data URIs.

Clips that every browser plays are embedded as they are. All others are encoded again as H.264:
also animations, since a page can neither pause an animated image nor show one of its frames.
"""

import re
import tempfile
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path

from PIL import Image

from pvtool_core.errors import BadPicture
from pvtool_core.media import ffmpeg
from pvtool_core.media.ffmpeg import CONTAINERS, ClipBroken
from pvtool_core.media.photos import BLACK, SUFFIXES, natural_order, read_animation, read_picture
from pvtool_core.untrusted import Irregular, TooLarge, read_regular

PHOTO_SIDE = 256
_POSTER_SIDE = 384
_CLIP_BYTES = 1 << 28
_PLAYABLE = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm"}
_CODECS = re.compile(r"Video: (?:h264|av1|vp8|vp9)\b[^\n]*?, yuvj?420p[(,]")
_H264 = ("-c:v", "libx264", "-crf", "17", "-preset", "medium", "-pix_fmt", "yuv420p")
_EVEN = ("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2")


@dataclass(frozen=True)
class EmbeddedClip:
    """A clip and its first frame as data URIs; `recoded` if it was encoded again."""

    source: str
    poster: str
    recoded: bool


def embed_clip(path: Path, fps: float) -> EmbeddedClip:
    """Return a clip of any format. Images of a folder and animations are shown with `fps`.

    Raises ClipBroken with the reason, and FfmpegMissing or CodecMissing.
    """
    try:
        if path.is_dir() or path.suffix.lower() in SUFFIXES:
            return _of_images(path, fps)
        kind = _PLAYABLE.get(path.suffix.lower(), "")
        content = read_regular(path, _CLIP_BYTES, follow=True)
    except (Irregular, TooLarge) as error:
        raise ClipBroken(path, error.problem) from error
    except BadPicture as error:
        raise ClipBroken(path, error.message.rstrip(".")) from error
    except OSError as error:
        raise ClipBroken(path, f"it cannot be read ({error.strerror})") from error
    poster, playable = _first_frame(path)
    if kind and playable:
        return EmbeddedClip(data_uri(kind, content), poster, recoded=False)
    recoded = _encode(path, b"", *CONTAINERS, "-i", str(path), "-map", "0:v:0")
    return EmbeddedClip(recoded, poster, recoded=True)


def _first_frame(path: Path) -> tuple[str, bool]:
    """Return the first frame as a JPEG, and whether browsers decode the video."""
    given = (*CONTAINERS, "-threads", "1", "-i", str(path), "-map", "0:v:0")
    small = ("-vf", f"scale='min({_POSTER_SIDE},iw)':-2", "-frames:v", "1")
    form = ("-c:v", "mjpeg", "-q:v", "4", "-f", "image2pipe", "pipe:1")
    answer = ffmpeg.ask(path, "-v", "info", *given, *small, *form)
    if not answer.output:
        raise ClipBroken(path, "it has no frames")
    return data_uri("image/jpeg", answer.output), bool(_CODECS.search(answer.messages))


def _of_images(path: Path, fps: float) -> EmbeddedClip:
    files = natural_order(path.glob("[!.]*.png")) if path.is_dir() else [path]
    frames = chain.from_iterable(read_animation(file, BLACK) for file in files)
    first = next(frames, None)
    if first is None:
        raise ClipBroken(path, "no image found")
    raw = first.tobytes() + b"".join(_bytes_of(path, frames, first.size))
    size = f"{first.width}x{first.height}"
    given = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{fps:g}", "-i", "pipe:0")
    first.thumbnail((_POSTER_SIDE, _POSTER_SIDE))
    return EmbeddedClip(_encode(path, raw, *given), _jpeg(first), recoded=True)


def _bytes_of(path: Path, frames: Iterable[Image.Image], size: tuple[int, int]) -> Iterable[bytes]:
    for frame in frames:
        if frame.size != size:
            raise ClipBroken(path, "its images differ in size")
        yield frame.tobytes()


def _encode(path: Path, stdin: bytes, *source: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "clip.mp4"
        form = ("-movflags", "+faststart", "-f", "mp4", str(out))
        ffmpeg.ask(path, *source, *_EVEN, *_H264, *form, stdin=stdin)
        return data_uri("video/mp4", out.read_bytes())


def embed_photo(path: Path) -> str:
    """Return a photo, scaled down, as a data URI. Raises BadPicture."""
    return _jpeg(read_picture(path, side=PHOTO_SIDE, warn=lambda _: None))


def _jpeg(picture: Image.Image) -> str:
    with BytesIO() as file:
        picture.save(file, "JPEG", quality=85)
        return data_uri("image/jpeg", file.getvalue())


def data_uri(media_type: str, content: bytes) -> str:
    """Return content as a data URI."""
    return f"data:{media_type};base64,{b64encode(content).decode()}"
