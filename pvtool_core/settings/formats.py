"""The table of output formats: one row each, with all that the rest of the program knows of it.

It imports no codec: functions are named as `module:name` and imported where they are used.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pvtool_core.untrusted import open_regular

_HEADER_BYTES = 32


def _always(_: bytes) -> bool:
    return True


def _never(_: bytes) -> bool:
    return False


def _is_animated_webp(header: bytes) -> bool:
    """Return the animation flag of a WebP file (VP8X chunk of the container specification)."""
    return header[12:16] == b"VP8X" and len(header) > 20 and bool(header[20] & 2)


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of clips.

    Attributes:
        name: Value of `--format`, and first word of `how` in sidecars.
        suffix: Suffix of the file; empty for a folder of images.
        image_suffix: Suffix of the images in the folder.
        media_type: Media type of the file, or of each image in the folder.
        writer: Function that writes a `ClipFile` to a path, as `module:name`.
        checker: Function that reads a written file back and raises ClipBroken.
        decoder: Function from a path and a box to pixels (frames, height, width, 3).
        facts_reader: Function from a path to the metadata in the file.
        is_moving: Whether a file that begins with these bytes is an animation.
        rate_reader: Function from a path to frames per second, if not every ffmpeg can decode the
            format; the dashboard then reads frames with `decoder`.
        option: Setting of `EncodingConfig` that changes the file, if any.
        option_label: Word before its value in `how`.
        encoder: Name of the encoder that ffmpeg needs, `{codec}` for the chosen codec; empty if it
            needs none.
        even_sides: Whether width and height must be even.
    """

    name: str
    suffix: str
    image_suffix: str = ""
    media_type: str
    writer: str
    checker: str
    decoder: str
    facts_reader: str
    is_moving: Callable[[bytes], bool]
    rate_reader: str = ""
    option: str = ""
    option_label: str = ""
    encoder: str = ""
    even_sides: bool = False

    def path(self, clip: Path) -> Path:
        """Return the file, or folder of images, of a clip in this format."""
        return clip.with_name(clip.name + self.suffix)


_ENCODE, _DECODE, _METADATA = (
    f"pvtool_core.media.{module}" for module in ("encode", "decode", "metadata")
)
FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format(
            name="mp4",
            suffix=".mp4",
            media_type="video/mp4",
            writer=f"{_ENCODE}:write_mp4",
            checker=f"{_ENCODE}:check_mp4",
            decoder=f"{_DECODE}:decode_video",
            facts_reader=f"{_METADATA}:read_tags",
            is_moving=_always,
            option="codec",
            encoder="{codec}",
            even_sides=True,
        ),
        Format(
            name="gif",
            suffix=".gif",
            media_type="image/gif",
            writer=f"{_ENCODE}:write_gif",
            checker=f"{_ENCODE}:check_animation",
            decoder=f"{_DECODE}:decode_animation",
            facts_reader=f"{_METADATA}:read_packet",
            is_moving=_always,
            option="loop",
            option_label="loop ",
            encoder="gif",
        ),
        Format(
            name="webp",
            suffix=".webp",
            media_type="image/webp",
            writer=f"{_ENCODE}:write_webp",
            checker=f"{_ENCODE}:check_animation",
            decoder=f"{_DECODE}:decode_animation",
            facts_reader=f"{_METADATA}:read_packet",
            is_moving=_is_animated_webp,
            rate_reader="pvtool_core.media.stream:animation_rate",
            option="loop",
            option_label="loop ",
        ),
        Format(
            name="png",
            suffix="",
            image_suffix=".png",
            media_type="image/png",
            writer=f"{_ENCODE}:write_images",
            checker=f"{_ENCODE}:check_images",
            decoder=f"{_DECODE}:decode_images",
            facts_reader=f"{_METADATA}:read_packet_of_images",
            is_moving=_never,
        ),
    )
}
"""All formats by name; the first in which a clip exists is played and evaluated."""


def format_of(path: Path) -> Format | None:
    """Return the format of a clip by its suffix, or of a folder; None for other files.

    An image out of a folder of images has the format of the folder.
    """
    if path.is_dir():
        return next(each for each in FORMATS.values() if not each.suffix)
    suffix = path.suffix.lower()
    named = (each for each in FORMATS.values() if suffix in (each.suffix, each.image_suffix))
    return next(named, None) if suffix else None


def is_moving(path: Path) -> bool:
    """Return whether a file is an animation or a video; files of other formats count as still.

    Raises Irregular, and OSError as `open`.
    """
    form = format_of(path)
    if form is None or not form.suffix:
        return False
    with os.fdopen(open_regular(path, follow=True), "rb") as file:
        return form.is_moving(file.read(_HEADER_BYTES))
