"""Clips to score, read from their files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvtool_core.batches.clips import read_clip_record
from pvtool_core.errors import InputRefused
from pvtool_core.media.decode import Pixels, frames_of
from pvtool_core.settings.formats import FORMATS
from pvtool_core.untrusted import exists


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip and its sidecar; `frames` are (frames, height, width, 3), uint8."""

    record: Mapping[str, Any]
    frames: Pixels

    @property
    def stage(self) -> str:
        """`after` for a clip with an adapter, `before` for one of the base model."""
        return "after" if self.record["adapter"] else "before"

    @property
    def pair(self) -> tuple[str, int]:
        """Prompt and seed: equal for the clips with and without adapter."""
        return self.record["prompt"], self.record["seed"]


def read_clip(sidecar: Path) -> Clip:
    """Read a clip in the first format in which it exists.

    Raises InputRefused for an invalid sidecar or without a file, ClipBroken for a corrupt file.
    """
    record = read_clip_record(sidecar)
    for form in FORMATS.values():
        if exists(file := form.path(sidecar.with_suffix(""))):
            return Clip(record, frames_of(file))
    raise InputRefused(f"No clip found beside {sidecar}.", "Render the clip again.")
