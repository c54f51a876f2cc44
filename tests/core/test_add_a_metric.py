"""Tests of docs/add-a-metric.md: a metric is one file and one row of the table."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from pvtool.cli.main import main
from pvtool_core import supervisor
from pvtool_core.media.encode import write_clip
from pvtool_core.settings.jobs import TrainJob, write_job
from pvtool_core.store.runs import RunFolder
from tests.support import extended_engine
from tests.support.sample_data import add_identity_of_noise
from tests.support.small_models import with_settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/add-a-metric.md"


@pytest.fixture
def run(job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Return a run of the small models, of an identity with one photo of noise."""
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    identity = add_identity_of_noise("ann").ref
    folder = RunFolder(tmp_path / "home/data/runs/ann-1").create()
    about = {"name": identity.name, "folder": identity.folder}
    write_job(folder.config, with_settings(job, "identity", **about))
    return folder


def draw_clips(run: RunFolder, out: Path) -> None:
    """Write a dark clip of the base model, and a light one of the adapter."""
    for folder, adapter, grey in (("base", "", 51), ("ann", "adapter.safetensors", 153)):
        clip = out / folder / "waits-0123/seed-000000"
        clip.parent.mkdir(parents=True)
        frames = np.full((4, 64, 64, 3), grey, np.uint8)
        write_clip(clip, frames, 8, {"ai_generated": True})
        record = {"identity": "ann", "prompt": "<V> waits", "seed": 0, "run": run.name}
        clip.with_suffix(".json").write_text(json.dumps({**record, "adapter": adapter}))


def test_new_metric_is_in_table_and_report_of_pv_eval(
    run: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(supervisor, "ENGINE", extended_engine.ENGINE)
    draw_clips(run, tmp_path / "out")
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(tmp_path / "out")])
    shown = capfd.readouterr()
    assert not ended.value.code, shown.err
    report = json.loads((tmp_path / "out/report.json").read_bytes())
    base, adapter = (report["methods"][name]["means"]["brightness"] for name in ("base", "adapter"))
    change = report["methods"]["adapter"]["differences"]["brightness"]["mean"]
    numbers = f"{base['mean']:.3f} +{adapter['mean']:.3f} +\\+{change:.3f} n.s."
    assert re.search(f"^Brightness +{numbers}$", shown.out, re.MULTILINE), shown.out
    assert change == pytest.approx(0.4, abs=0.01)
    assert report["metrics"]["brightness"]["description"] == "Mean of all pixels, from 0 to 1."
    assert [clip["scores"]["brightness"] for clip in report["clips"]] == [
        base["mean"],
        adapter["mean"],
    ]


def test_guide_shows_the_tested_metric() -> None:
    page = PAGE.read_text()
    assert (ROOT / "tests/support/brightness.py").read_text() in page
    assert "    Brightness,\n" in page
