"""A contact sheet as an engine draws it for `pv render --sheet`."""

from pathlib import Path

import numpy as np
from PIL import Image

from pvtool_core.config import EncodingConfig, SheetJob
from pvtool_core.encoding import write_clip
from tests.core.jobs import Engine


def test_a_sheet_has_a_line_for_each_clip(run: Engine, tmp_path: Path) -> None:
    clips = [tmp_path / "red", tmp_path / "blue"]
    for clip, channel in zip(clips, (0, 2), strict=True):
        frames = np.zeros((4, 32, 32, 3), np.uint8)
        frames[..., channel] = 255
        write_clip(clip, frames, 8, {}, EncodingConfig(formats=("gif",)))
    files = tuple(f"{clip}.gif" for clip in clips)
    job = SheetJob(labels=("a red one", "a blue one"), clips=files, prefix=str(tmp_path / "sheet"))
    assert run(job).status == 0
    assert [event["path"] for event in run.events if event["type"] == "sheet"] == [str(tmp_path / "sheet.png")]
    upper, lower = np.array_split(np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")), 2)
    red, blue = (255, 0, 0), (0, 0, 255)
    for half, own, other in ((upper, red, blue), (lower, blue, red)):
        assert (np.abs(half.astype(int) - own).max(axis=2) < 30).sum() > 4 * 100 * 100
        assert not (np.abs(half.astype(int) - other).max(axis=2) < 30).any()
