"""Clips to score, read from their files."""

from dataclasses import dataclass
from pathlib import Path

from pvtool_core.media.decode import Pixels, footage_of, frames_of
from pvtool_core.settings.jobs import ClipFile


@dataclass(frozen=True, eq=False)
class Clip:
    """A decoded clip: `frames` are (frames, height, width, 3), uint8 RGB.

    `fps` are frames per second; `notes` are warnings about its decoding.
    """

    about: ClipFile
    frames: Pixels
    fps: float
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file name, for messages."""
        return Path(self.about.file).name


def read_clip(about: ClipFile) -> Clip:
    """Read the frames of a clip.

    Raises ClipBroken or BadPicture if it cannot be decoded, OSError if it cannot be read.
    """
    path = Path(about.file)
    if about.fps:
        return Clip(about, frames_of(path), about.fps)
    footage = footage_of(path)
    return Clip(about, footage.frames, footage.fps, footage.notes)
