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
