"""Write TensorBoard event files, by the `tensorboard` package: without torch and TensorFlow."""

import struct
from importlib import import_module
from pathlib import Path
from typing import Any

from pvtool_core.errors import NotReady, PvError
from pvtool_core.log_export.points import Clip, Point
from pvtool_core.media.ffmpeg import CONTAINERS, ask

_SUFFIX = ".pv"
_FLUSH_SECONDS = 5
_TO_GIF = "split[a][b];[a]palettegen[palette];[b][palette]paletteuse"


class TensorBoardLog:
    """The log of a run in a folder, which replaces an earlier export to it."""

    def __init__(self, folder: Path) -> None:
        """Create the folder. Raises NotReady without the package, and OSError."""
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            # their types are generated at run time
            events: Any = import_module("tensorboard.compat.proto.event_pb2")
            summaries: Any = import_module("tensorboard.compat.proto.summary_pb2")
        except ImportError as error:
            raise NotReady(["tensorboard"], "Run `pip install pvtool[tensorboard]`.") from error
        self._event, self._summary = events.Event, summaries.Summary
        self._metadata = summaries.SummaryMetadata
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
            earlier.unlink()
        self._writer: Any = EventFileWriter(
            str(folder), flush_secs=_FLUSH_SECONDS, filename_suffix=_SUFFIX
        )

    def add_point(self, point: Point) -> None:
        """Write a scalar."""
        self._write(point, self._summary.Value(tag=point.name, simple_value=point.value))

    def add_clip(self, clip: Clip) -> None:
        """Write a clip as an animated image; one that cannot be decoded is left out."""
        try:
            gif = _as_gif(clip.path)
        except PvError:
            return
        width, height = struct.unpack_from("<HH", gif, 6)
        image = self._summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=gif
        )
        about = self._metadata(summary_description=f"AI-generated. {clip.prompt}")
        self._write(clip, self._summary.Value(tag=clip.name, image=image, metadata=about))

    def _write(self, item: Point | Clip, value: Any) -> None:
        summary = self._summary(value=[value])
        self._writer.add_event(self._event(wall_time=item.time, step=item.step, summary=summary))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def _as_gif(clip: Path) -> bytes:
    """Return a clip as a GIF. Raises ClipBroken, or FfmpegMissing."""
    words = (*CONTAINERS, "-i", str(clip), "-filter_complex", _TO_GIF, "-loop", "0")
    return ask(clip, *words, "-f", "gif", "-").output
