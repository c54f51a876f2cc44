"""Likeness of rendered clips by the tiny preset: in sidecars, events and warnings."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvtool_core.faces.analyzer import FaceAnalyzer, align
from pvtool_core.models.locate import resolve_settings
from pvtool_core.paths import presets_dir
from pvtool_core.settings.jobs import IdentityRef, RenderItem, RenderJob, TrainJob
from pvtool_core.settings.presets import Presets
from tests.support.adapters import save_random_adapters
from tests.support.render_jobs import Engine, item, render_job

PROMPT = "a <V> woman nodding on a beach"
SETTINGS = {
    "model": {"device": "cpu", "threads": 1},
    "sampler": {"num_inference_steps": 4},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """Return a job on the tiny preset, of an identity with one sample photo."""
    settings = resolve_settings(Presets().get("tiny").settings(SETTINGS))
    folder = tmp_path_factory.mktemp("ada")
    faces = settings.identity_reward
    analyzer = FaceAnalyzer(Path(faces.package), faces.detector, (), 128, 0.5, threads=1)
    photo = Image.open(presets_dir() / "tiny/samples/ada-woman.png").convert("RGB")
    (face,) = analyzer.detect(np.asarray(photo))
    (folder / "faces").mkdir()
    Image.fromarray(align(np.asarray(photo), face.landmarks)).save(folder / "faces/000.png")
    identity = IdentityRef(name="ann", folder=str(folder))
    return TrainJob(**settings.sections(), run="test", identity=identity, prompts=(PROMPT,))


@pytest.fixture(scope="module")
def adapter(tiny: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (setup,) = render_job(tiny, item(Path("/none/clip"))).setups
    return save_random_adapters(tmp_path_factory.mktemp("adapter"), setup, ["ann"], 0.02)["ann"]


def clip_of(tiny: TrainJob, clip: Path, seed: int = 3, adapter: Path | str = "") -> RenderItem:
    return item(clip, seed, adapter, PROMPT, tiny.identity.folder)


def with_judge(job: RenderJob, **changes: Any) -> RenderJob:
    """Return the job with other face models for likeness."""
    (setup,) = job.setups
    likeness = dataclasses.replace(setup.likeness, **changes)
    return dataclasses.replace(job, setups=(dataclasses.replace(setup, likeness=likeness),))


def sidecar(clip: Path) -> dict[str, Any]:
    return json.loads(clip.with_suffix(".json").read_text())


def warnings(run: Engine) -> list[str]:
    return [event["message"] for event in run.events if event["type"] == "warning"]


def reported(run: Engine) -> list[Any]:
    return [event.get("likeness") for event in run.events if event["type"] == "clip"]


def test_clips_with_and_without_adapter_have_a_likeness_to_their_identity(
    run: Engine, tiny: TrainJob, adapter: Path, tmp_path: Path
) -> None:
    clips = [tmp_path / "out/ann", tmp_path / "out/base"]
    items = [clip_of(tiny, clips[0], adapter=adapter), clip_of(tiny, clips[1])]
    assert run(render_job(tiny, *items)).status == 0
    for clip in clips:
        likeness = sidecar(clip)["likeness"]
        assert likeness in reported(run)
        assert list(likeness) == ["mean", "found", "faces_found", "worst", "recognizer", "frames"]
        assert -1 < likeness["worst"]["value"] <= likeness["mean"] < 1
        assert likeness["worst"]["time"] == likeness["worst"]["frame"] / tiny.model.fps
        assert (likeness["faces_found"], likeness["frames"]) == (1, tiny.model.num_frames)
        assert likeness["recognizer"] == "rec_metric.onnx"
    assert warnings(run) == []
    assert run(render_job(tiny, *items)).status == 0
    assert run.clips() == ["skipped"] * 2
    assert None not in reported(run)  # that of the sidecar


def test_clip_without_a_face_has_a_likeness_of_zero(
    run: Engine, tiny: TrainJob, tmp_path: Path
) -> None:
    job = with_judge(render_job(tiny, clip_of(tiny, tmp_path / "clip")), detection_threshold=1.0)
    assert run(job).status == 0
    likeness = sidecar(tmp_path / "clip")["likeness"]
    assert (likeness["mean"], likeness["found"], likeness["faces_found"]) == (0, None, 0)


def test_likeness_can_be_switched_off_and_is_kept_with_further_formats(
    run: Engine, tiny: TrainJob, tmp_path: Path
) -> None:
    clip = tmp_path / "clip"
    job = render_job(tiny, clip_of(tiny, clip))
    assert run(dataclasses.replace(job, likeness=False)).status == 0
    assert "likeness" not in sidecar(clip)
    assert reported(run) == [None]
    clip.with_suffix(".json").unlink()
    assert run(job).status == 0
    before = sidecar(clip)["likeness"]
    gif = dataclasses.replace(job.encoding, formats=("mp4", "gif"))
    assert run(dataclasses.replace(job, encoding=gif, likeness=False)).status == 0
    assert sidecar(clip)["likeness"] == before


def test_missing_face_models_are_reported_once_with_the_command_that_installs_them(
    run: Engine, tiny: TrainJob, tmp_path: Path
) -> None:
    items = [clip_of(tiny, tmp_path / f"clip-{seed}", seed) for seed in (3, 4)]
    job = with_judge(render_job(tiny, *items), package="models:antelopev2")
    assert run(job).status == 0
    assert run.clips() == ["done", "done"]
    assert reported(run) == [None, None]
    (warning,) = warnings(run)
    assert warning.startswith("Likeness is not measured.")
    assert "pv models fetch antelopev2" in warning


def test_clip_of_a_removed_identity_is_rendered_without_likeness(
    run: Engine, tiny: TrainJob, tmp_path: Path
) -> None:
    gone = dataclasses.replace(clip_of(tiny, tmp_path / "a"), folder=str(tmp_path / "gone"))
    other = dataclasses.replace(clip_of(tiny, tmp_path / "b", 4))
    assert run(render_job(tiny, gone, other)).status == 0
    assert "likeness" not in sidecar(tmp_path / "a")
    assert "likeness" in sidecar(tmp_path / "b")
    assert len(warnings(run)) == 1


def tried(job: RenderJob, least: float, most: int) -> RenderJob:
    tries = dataclasses.replace(job.tries, min_likeness=least, max_tries=most)
    return dataclasses.replace(job, tries=tries)


def test_further_seeds_are_rendered_until_the_likeness_or_the_number_of_tries_is_reached(
    run: Engine, tiny: TrainJob, adapter: Path, tmp_path: Path
) -> None:
    clip, base = tmp_path / "ann/seed-000003", tmp_path / "base/seed-000003"
    planned = clip_of(tiny, clip, adapter=adapter)
    job = render_job(tiny, planned, clip_of(tiny, base))
    assert run(tried(job, 1.0, 3)).status == 0
    assert run.clips() == ["done", "done"]  # one event for each planned clip
    seeds = [3, 1_000_003, 2_000_003]
    likeness = sidecar(clip)["likeness"]
    assert [one["seed"] for one in likeness["tries"]] == seeds
    files = [clip.with_name(one["clip"]) for one in likeness["tries"]]
    means = [sidecar(file)["likeness"]["mean"] for file in files]
    assert [one["mean"] for one in likeness["tries"]] == means
    assert likeness["best"] == files[means.index(max(means))].name
    assert likeness in reported(run)
    assert [path.name for path in base.parent.glob("*.json")] == ["seed-000003.json"]

    made = {path: path.stat().st_mtime_ns for path in clip.parent.iterdir()}
    assert run(tried(job, 1.0, 3)).status == 0
    assert run.clips() == ["skipped"] * 2
    assert made == {path: path.stat().st_mtime_ns for path in clip.parent.iterdir()}

    # killed after the second try: the first two are kept, and a clip without likeness is measured
    for path in clip.parent.glob("seed-2000003*"):
        path.unlink()
    untried = {key: value for key, value in sidecar(clip).items() if key != "likeness"}
    clip.with_suffix(".json").write_text(json.dumps(untried))
    assert run(tried(job, 1.0, 3)).status == 0
    assert sorted(run.clips()) == ["done", "skipped"]
    again = sidecar(clip)["likeness"]["tries"]
    assert again[1:] == likeness["tries"][1:]
    assert again[0]["mean"] == pytest.approx(means[0], abs=0.05)  # of the compressed file
    (kept,) = clip.parent.glob("seed-1000003.mp4")
    assert made[kept] == kept.stat().st_mtime_ns

    least = max(mean for mean in (*means[1:], again[0]["mean"]))
    enough = next(n for n, one in enumerate(again, 1) if one["mean"] >= least)
    other = tmp_path / "other/seed-000003"
    job = render_job(tiny, clip_of(tiny, other, adapter=adapter))
    assert run(tried(job, max(least - 0.02, 0.0), 9)).status == 0
    assert len(list(other.parent.glob("*.mp4"))) == enough
