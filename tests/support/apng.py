"""A format of clips without loss: animated PNG."""

from pathlib import Path

from PIL import Image, PngImagePlugin

from pvtool_core.media.encode import ClipFile
from pvtool_core.media.metadata import xmp


def write_apng(path: Path, clip: ClipFile) -> None:
    """Write an animated PNG with the metadata as XMP."""
    first, *others = [Image.fromarray(frame) for frame in clip.frames]
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp(clip.facts).decode())
    first.save(
        path, "PNG", save_all=True, append_images=others, duration=1000 / clip.fps, pnginfo=info
    )


def is_animated(header: bytes) -> bool:
    """Return whether a file is a PNG: one with this suffix is an animation."""
    return header.startswith(b"\x89PNG")
