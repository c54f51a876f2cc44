"""Read image files of every mode, depth, orientation and colour profile as upright 8-bit sRGB.

    16 bit        the upper 8 bits of each value; floating point and 32-bit integers have no
                  known range and are refused
    orientation   of EXIF, applied
    profile       ICC, converted to sRGB; an unusable one is reported, and ignored
    alpha         composited on a background (white, or black for ControlNet); hidden colours
                  are discarded
    animation     `read_picture` returns the first image with a warning, `read_animation` all


Sizes are checked before decoding: a small file can contain an enormous image.
"""

import re
import stat
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from PIL import Image, ImageChops, ImageCms, ImageOps

from pvtool_core.errors import BadPicture, PvError, printable

PHOTO_FORMATS = ("JPEG", "PNG", "WEBP")
FORMATS = (*PHOTO_FORMATS, "TIFF", "BMP", "GIF", "PPM")
MOST_PIXELS = 150_000_000
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .webp .tif .tiff .bmp .gif .pgm .ppm .pnm".split()  # noqa: SIM905
)

Colour = tuple[int, int, int]
Warn = Callable[[str], None]

_ANIMATED = (
    "GIF",
    "PNG",
    "TIFF",
    "WEBP",
)  # other images of an MPO are depth or gain maps of the first
_SAME = 2  # of 255: largest difference from sRGB of a profile that counts as sRGB
_GREY = ("1", "L", "LA", "La")
_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
_warnings_lock = threading.Lock()  # warnings.catch_warnings is not thread-safe


def read_picture(
    path: Path,
    *,
    formats: tuple[str, ...] = FORMATS,
    side: int = 0,
    background: Colour = WHITE,
    warn: Warn | None = None,
) -> Image.Image:
    """Return an image as upright 8-bit sRGB, with `side` fitted into such a square.

    `warn` receives a message for each loss. Raises BadPicture, also for an animated file without
    `warn`.
    """
    with _opened(path, formats) as image:
        if side and image.mode in ("L", "RGB", "CMYK"):
            image.draft(image.mode, (side, side))  # JPEG only: decode a fraction of the pixels
        if _animated(image):
            if warn is None:
                raise BadPicture(path, "is animated", "Remove animations from the folder.")
            warn(f"{printable(path)} is animated: only its first image is used.")
        picture = _plain(path, image, background, warn)
    if side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def read_animation(path: Path, background: Colour = WHITE) -> Iterator[Image.Image]:
    """Yield every image of a file as `read_picture` returns it. Raises BadPicture."""
    with _opened(path, FORMATS) as image:
        for number in range(getattr(image, "n_frames", 1) if _animated(image) else 1):
            image.seek(number)
            yield _plain(path, image, background, None)


def durations(path: Path) -> list[float]:
    """Return the seconds for which each image of a file is shown. Raises BadPicture."""
    found: list[float] = []
    with _opened(path, FORMATS) as image:
        for number in range(getattr(image, "n_frames", 1) if _animated(image) else 1):
            image.seek(number)
            image.load()
            found.append(image.info.get("duration", 0) / 1000)
    return found


def pictures_in(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order: 1, 2, … 10.

    Hidden files, folders and files that are not images (by suffix, or by content without one) are
    skipped.
    """
    files = [file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file()]
    return natural_order(
        file for file in files if file.suffix.lower() in SUFFIXES or _is_picture(file)
    )


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sort by names, with the numbers in them by value."""
    return sorted(paths, key=lambda path: (_natural(path.stem), _natural(path.suffix), path.name))


def _natural(text: str) -> list[str | int]:
    """Split a name into texts and numbers, starting with a text, as a sort key."""
    return [int(part) if number else part.casefold() for number, part in _parts(text)]


def _parts(text: str) -> list[tuple[bool, str]]:
    return [(bool(place % 2), part) for place, part in enumerate(re.split("([0-9]+)", text))]


def _is_picture(file: Path) -> bool:
    """Return whether a file is an image, by its content; frames may have no suffix."""
    try:
        with _opened(file, FORMATS):
            return True
    except BadPicture:
        return False


@contextmanager
def _opened(path: Path, formats: tuple[str, ...]) -> Generator[Image.Image]:
    """Open a file and check its size before decoding.

    Raises BadPicture, also for errors in the body.

    Decoders raise arbitrary exceptions for hostile files (struct.error, IndexError, OverflowError,
    zlib.error …).
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block, a device would never end
            raise BadPicture(path, "is a folder" if path.is_dir() else "is not a regular file")
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=formats)
        with image:
            if image.width * image.height > MOST_PIXELS:
                raise BadPicture(
                    path, f"is too large ({image.width} × {image.height})", "Scale it down."
                )
            yield image
    except (PvError, MemoryError):
        raise
    except Exception as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: Exception) -> BadPicture:
    if isinstance(error, Image.DecompressionBombError):
        return BadPicture(path, "is too large", "Scale it down.")
    if isinstance(error, Image.UnidentifiedImageError):
        return BadPicture(path, "cannot be read: unknown image format")
    if isinstance(error, PermissionError):
        return BadPicture(path, "cannot be read: permission denied", "Change its permissions.")
    if isinstance(error, OSError) and error.strerror:
        return BadPicture(path, f"cannot be read: {error.strerror}")
    return BadPicture(path, "cannot be read: it is corrupt or truncated")


def _animated(image: Image.Image) -> bool:
    return image.format in _ANIMATED and bool(getattr(image, "is_animated", False))


def _plain(path: Path, image: Image.Image, background: Colour, warn: Warn | None) -> Image.Image:
    profile: bytes | None = image.info.get("icc_profile")
    _check_mode(path, image)
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        upright = _upper_halves(upright)
    alpha = None
    if upright.has_transparency_data:
        full = upright.convert("LA" if upright.mode in _GREY else "RGBA")
        alpha = full.getchannel("A")
        upright = full.convert(full.mode.removesuffix("A"))
    colours = _srgb(path, upright, profile, warn)
    if alpha is None or alpha.getextrema() == (255, 255):
        return colours
    under = Image.new("RGB", colours.size, background)
    under.paste(colours, mask=alpha)
    return under


def _check_mode(path: Path, image: Image.Image) -> None:
    """Raise BadPicture for pixels without a known range, or colours that Pillow cannot convert."""
    if image.mode == "F" or (
        image.mode == "I" and image.format not in ("PNG", "PPM")
    ):  # these are scaled to 16 bits
        kind = "floating-point" if image.mode == "F" else "32-bit"
        hint = "Save it with 8 or 16 bits per channel."
        raise BadPicture(path, f"has {kind} pixels without a known range", hint)
    if image.mode == "LAB":
        raise BadPicture(path, "has Lab colours", "Save it as RGB.")


def _upper_halves(image: Image.Image) -> Image.Image:
    """Return the upper 8 bits of 16-bit grey; Pillow's `convert` would clip."""
    values = image.convert("I")
    grey = values.point([value >> 8 for value in range(1 << 16)], "L")
    clear = grey.info.pop("transparency", None)  # the transparent value in a PNG's tRNS
    if isinstance(clear, int):
        grey.putalpha(values.point([0 if value == clear else 255 for value in range(1 << 16)], "L"))
    return grey


def _srgb(path: Path, image: Image.Image, profile: bytes | None, warn: Warn | None) -> Image.Image:
    """Convert an image without alpha to sRGB by its profile; `image` is grey, CMYK or colour."""
    if image.mode in _GREY:
        image = image.convert("L")
    elif image.mode != "CMYK":
        image = image.convert("RGB")
    if not profile:
        return image.convert("RGB")
    try:
        mode, transform = _transform(profile)
        if image.mode == "L" and mode == "RGB":
            image = image.convert("RGB")
        if image.mode == mode:
            converted = ImageCms.applyTransform(image, transform) if transform else image
            return (converted or image).convert("RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, KeyError):
        pass
    if warn:
        warn(f"The colour profile of {printable(path)} cannot be used; sRGB is assumed.")
    return image.convert("RGB")


@lru_cache(maxsize=8)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return mode and transform of a profile to sRGB; None if it is sRGB.

    Equal pixels then stay equal. Raises PyCMSError, OSError, KeyError or ValueError for an invalid
    profile or one of other colours.
    """
    read = ImageCms.ImageCmsProfile(BytesIO(profile))
    space: str = cast("Any", read.profile).xcolor_space  # declared as a file by Pillow
    mode = _SPACES[space.strip()]
    transform = ImageCms.buildTransform(read, ImageCms.createProfile("sRGB"), mode, "RGB")
    return mode, None if mode == "RGB" and _keeps_colours(transform) else transform


def _keeps_colours(transform: ImageCms.ImageCmsTransform) -> bool:
    """Return whether sample colours of the whole cube are unchanged."""
    levels = range(0, 256, 15)
    before = Image.new("RGB", (len(levels) ** 2, len(levels)))
    before.putdata([(r, g, b) for r in levels for g in levels for b in levels])
    after = ImageCms.applyTransform(before, transform)
    difference = ImageChops.difference(before, after or before)
    return max(difference.tobytes()) <= _SAME
