"""Tests of docs/add-a-format.md: an output format is one file and one row of the table."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvtool.cli.render_options import parse_formats
from pvtool.dashboard.follow.batch_history import playable_path
from pvtool.dashboard.images.decode import Box, decode
from pvtool_core.api.evaluate import folder_clips
from pvtool_core.batches.clips import encoding_of_how, sidecar_path
from pvtool_core.errors import SettingsError
from pvtool_core.evaluation.clip import read_clip
from pvtool_core.media.decode import frames_of
from pvtool_core.media.encode import write_clip
from pvtool_core.media.metadata import read_facts
from pvtool_core.settings.formats import FORMATS, is_moving
from pvtool_core.settings.jobs import EncodingConfig, TrainJob
from pvtool_core.settings.toml import from_table
from pvtool_core.store.events import ClipEvent
from tests.support import extended_engine
from tests.support.render_jobs import Engine, item, render_job

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/add-a-format.md"


@pytest.fixture
def apng(monkeypatch: pytest.MonkeyPatch) -> EncodingConfig:
    """Add the format of the guide, and return an encoding with it alone."""
    monkeypatch.setitem(FORMATS, "apng", FORMATS["gif"])  # removed afterwards
    extended_engine.add_format()
    return from_table(EncodingConfig, {"formats": parse_formats("apng")})


async def test_new_format_is_written_skipped_read_and_shown(
    apng: EncodingConfig, run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    clip = tmp_path / "ann/waits-0123/seed-000000"
    clip.parent.mkdir(parents=True)
    wanted = render_job(job, item(clip), encoding=apng)
    assert (run(wanted).status, run.clips()) == (0, ["done"])
    assert (run(wanted).status, run.clips()) == (0, ["skipped"])
    file = clip.with_suffix(".apng")
    assert frames_of(file).shape == (job.model.num_frames, job.model.height, job.model.width, 3)
    assert read_facts(file)["generated_by_ai"] is True
    (found, *_), _ = folder_clips(tmp_path)
    assert (read_clip(found).frames == frames_of(file)).all()
    record = json.loads(sidecar_path(clip).read_bytes())
    assert encoding_of_how(each["how"] for each in record["files"].values()) == {
        "formats": ["apng"]
    }

    event = ClipEvent(path=str(clip), files=("seed-000000.json", file.name), status="done")
    assert playable_path(event) == file
    assert is_moving(file)
    shown = await decode(file, Box(32, 32))
    assert len(shown.frames) == job.model.num_frames


def test_error_for_unknown_format_lists_known_ones(apng: EncodingConfig) -> None:
    with pytest.raises(SettingsError, match="not one of mp4, gif, webp, png, apng"):
        from_table(EncodingConfig, {"formats": ["avi"]})


def test_animated_webp_is_moving_and_a_photo_is_not(tmp_path: Path) -> None:
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    frames[2:] = 255
    encoding = EncodingConfig(formats=("mp4", "gif", "webp", "png"))
    moving = write_clip(tmp_path / "clip", frames, 8, {"ai_generated": True}, encoding)
    assert [is_moving(path) for path in moving] == [True, True, True, False]
    for name in ("photo.webp", "photo.png", "photo.jpg"):
        Image.fromarray(frames[0]).save(tmp_path / name)
        assert not is_moving(tmp_path / name)


def test_guide_shows_the_tested_format() -> None:
    page = PAGE.read_text()
    assert (ROOT / "tests/support/apng.py").read_text() in page
    source = Path(extended_engine.__file__).read_text()
    row = source[source.index("Format(\n") : source.index("\n\n\nif __name__")]
    row = row.replace("tests.support", "pvtool_core.media").replace("\n    ", "\n")
    assert row in page
