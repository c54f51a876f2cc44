"""Identify, render and evaluate jobs, run like an engine: from a run folder to results."""

import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from PIL import Image
from safetensors.torch import load_file

from pvtool_core.errors import FaceRefused, InputRefused
from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.evaluator import Evaluator
from pvtool_core.evaluation.judges import PictureReader
from pvtool_core.evaluation.metrics import METRICS as TABLE
from pvtool_core.evaluation.metrics.dense_motion import dense_motion
from pvtool_core.evaluation.metrics.kernel_distance import kernel_distance
from pvtool_core.evaluation.metrics.motion import landmark_motion
from pvtool_core.evaluation.report import Scores, comparable, gap_alarm, left_out, summary
from pvtool_core.faces.analyzer import Face
from pvtool_core.faces.enroll import Portrait, check_likeness, choose
from pvtool_core.settings.jobs import EnrollJob, EvaluateJob, IdentityRef, TrainJob
from tests.support.render_jobs import PROMPT, Engine, item, render_job


def noise(side: int = 128, seed: int = 0) -> Image.Image:
    """Return a picture of noise, in which the small detector finds a face, as in any picture."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8))


@pytest.fixture
def identify_job(job: TrainJob, tmp_path: Path) -> Callable[..., EnrollJob]:
    def make(*pictures: Path, threshold: float = 0.5, face: int = 0) -> EnrollJob:
        staging = tmp_path / "staging"
        staging.mkdir(exist_ok=True)
        settings = job.sections()
        settings["identity_reward"] = dataclasses.replace(
            job.identity_reward, detection_threshold=threshold
        )
        ref = IdentityRef(name="ann", noun="woman", folder=str(staging))
        return EnrollJob(**settings, identity=ref, pictures=tuple(map(str, pictures)), face=face)

    return make


def test_photo_gets_a_crop_and_an_embedding_of_each_recogniser(
    run: Engine, identify_job: Callable[..., EnrollJob], tmp_path: Path
) -> None:
    noise().save(tmp_path / "ann.png")
    assert run(identify_job(tmp_path / "ann.png")).status == 0
    staging = tmp_path / "staging"
    (found,) = json.loads((staging / "faces.json").read_text())
    assert found["picture"] == "ann.png"
    assert (np.asarray(Image.open(staging / found["reference"])) == np.asarray(noise())).all()
    assert Image.open(staging / found["face"]).size == (112, 112)
    embeddings = load_file(staging / "embeddings.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in embeddings.items()} == {
        "rec.onnx": (1, 16),
        "other.onnx": (1, 16),
    }
    assert all(torch.allclose(tensor.norm(dim=-1), torch.ones(1)) for tensor in embeddings.values())


def test_stored_photo_is_upright_and_without_place_and_time(
    run: Engine, identify_job: Callable[..., EnrollJob], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90°
    exif[0x010F] = "the camera's maker"
    exif.get_ifd(0x8825)[2] = (48.0, 12.0, 30.0)
    wide = noise().crop((0, 0, 128, 96))
    wide.save(tmp_path / "ann.jpg", exif=exif, quality=95)
    assert run(identify_job(tmp_path / "ann.jpg")).status == 0
    kept = Image.open(tmp_path / "staging/references/000.png")
    assert kept.size == (96, 128)
    turned = np.asarray(Image.open(tmp_path / "ann.jpg").convert("RGB").rotate(-90, expand=True))
    assert (np.asarray(kept) == turned).all()
    assert not kept.getexif()
    assert not kept.info
    assert not any(
        b"maker" in path.read_bytes()
        for path in (tmp_path / "staging").rglob("*.*")
        if path.is_file()
    )


def cut_off(path: Path) -> None:
    content = io.BytesIO()
    noise().save(content, "JPEG")
    path.write_bytes(content.getvalue()[:3000])


BAD_PICTURES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "text": (lambda path: path.write_text("I am no picture"), "BadPicture", "unknown image format"),
    "empty": (lambda path: path.write_bytes(b""), "BadPicture", "unknown image format"),
    "cut-off": (cut_off, "BadPicture", "corrupt or truncated"),
    "enormous": (
        lambda path: Image.new("1", (13_000, 13_000)).save(path, "PNG"),
        "BadPicture",
        "13000 × 13000",
    ),
    "bomb": (
        lambda path: Image.new("1", (30_000, 30_000)).save(path, "PNG"),
        "BadPicture",
        "too large",
    ),
    "a line": (
        lambda path: Image.new("RGB", (2000, 12)).save(path, "PNG"),
        "FaceRefused",
        "No face found",
    ),
    "small": (lambda path: noise(30).save(path, "PNG"), "FaceRefused", "too small"),
    "blurred": (
        lambda path: noise(3).resize((256, 256), Image.Resampling.BICUBIC).save(path, "PNG"),
        "FaceRefused",
        "blurred",
    ),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_unusable_picture_is_refused_and_leaves_no_files(
    run: Engine, identify_job: Callable[..., EnrollJob], tmp_path: Path, name: str
) -> None:
    make, kind, words = BAD_PICTURES[name]
    noise().save(tmp_path / "good.png")
    make(tmp_path / f"{name}.jpg")
    ended = run(identify_job(tmp_path / "good.png", tmp_path / f"{name}.jpg"))
    assert (ended.status, ended.kind) == (3, kind)
    assert f"{name}.jpg" in ended.message
    assert words in ended.message
    assert not list((tmp_path / "staging").iterdir())


def test_a_picture_without_a_face_is_refused(
    run: Engine, identify_job: Callable[..., EnrollJob], tmp_path: Path
) -> None:
    noise().save(tmp_path / "hill.png")
    ended = run(identify_job(tmp_path / "hill.png", threshold=0.95))
    assert (ended.status, ended.message) == (3, "No face found in hill.png.")


def faces_at(*lefts: float) -> list[Face]:
    return [
        Face(np.array([x, 0, x + 50, 50], np.float32), 0.9, np.zeros((5, 2), np.float32))
        for x in lefts
    ]


def test_one_of_several_faces_must_be_selected() -> None:
    with pytest.raises(FaceRefused, match=r"Several faces found in group\.png \(2 were found\)"):
        choose(Path("group.png"), faces_at(0, 60), 0)
    assert choose(Path("group.png"), faces_at(0, 60), 2).bbox[0] == 60
    with pytest.raises(InputRefused, match=r"No face 3 in group\.png: 2 found"):
        choose(Path("group.png"), faces_at(0, 60), 3)
    with pytest.raises(InputRefused, match=r"No face 2 in group\.png: 1 found"):
        choose(Path("group.png"), faces_at(0), 2)


def test_photo_of_another_person_is_refused() -> None:
    face, empty = faces_at(0)[0], np.zeros((2, 2, 3), np.uint8)
    portraits = [
        Portrait(Path(f"{name}.png"), empty, face, empty) for name in ("a", "b", "odd", "c")
    ]
    same, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    check_likeness([portraits[0], portraits[1]], np.stack([same, same]))
    with pytest.raises(FaceRefused, match=r"odd\.png does not match the other photos"):
        check_likeness(portraits, np.stack([same, same, other, same]))


PROMPTS = (PROMPT,)


@pytest.fixture
def scored(
    run: Engine,
    job: TrainJob,
    identify_job: Callable[..., EnrollJob],
    adapters: dict[str, Path],
    tmp_path: Path,
) -> Callable[..., dict[str, Any]]:
    """Render with and without the adapter, score the clips and return the report."""

    def score(adapter: str, threshold: float = 0.5) -> dict[str, Any]:
        noise().save(tmp_path / "ann.png")
        assert run(identify_job(tmp_path / "ann.png")).status == 0
        (prompt,) = PROMPTS
        before, after = (
            item(tmp_path / "before"),
            item(tmp_path / "after", adapter=adapters[adapter]),
        )
        clips = [dataclasses.replace(clip, prompt=prompt) for clip in (before, after)]
        assert run(render_job(job, *clips)).status == 0
        settings = job.sections()
        settings["identity_reward"] = dataclasses.replace(
            job.identity_reward, detection_threshold=threshold
        )
        ended = run(
            EvaluateJob(
                **settings,
                identities=(
                    IdentityRef(name="ann", noun="woman", folder=str(tmp_path / "staging")),
                ),
                sidecars=(str(tmp_path / "before.json"), str(tmp_path / "after.json")),
                report=str(tmp_path / "report.json"),
                sheet=str(tmp_path / "sheet.png"),
            )
        )
        assert ended.status == 0, ended
        return json.loads((tmp_path / "report.json").read_text())

    return score


METRICS = {
    "identity_similarity", "identity_similarity_min", "reward_similarity",
    "gap", "face_share", "motion",
    "dense_motion", "prompt_score", "consistency",
}  # fmt: skip


def test_clips_are_scored_with_and_without_adapter(
    scored: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    report = scored("strong")
    before, after = report["identities"]["ann"]["before"], report["identities"]["ann"]["after"]
    assert before.keys() == METRICS
    assert after.keys() >= METRICS | {"prompt_change"}
    assert before["face_share"] == 1
    assert -1 <= after["identity_similarity_min"] <= after["identity_similarity"] <= 1
    assert before["prompt_score"] != after["prompt_score"]
    assert report["mean"]["after"] == after
    assert [clip["stage"] for clip in report["clips"]] == ["before", "after"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 5 * 128
        assert sheet.height > 2 * 128


def test_equal_clips_have_equal_scores(scored: Callable[..., dict[str, Any]]) -> None:
    stages = scored("zero")["identities"]["ann"]
    assert {key: stages["after"][key] for key in METRICS} == stages["before"]
    assert stages["after"]["prompt_change"] == 0
    assert stages["after"]["dense_motion_ratio"] == 1


def test_score_that_is_not_finite_fails_without_report(
    scored: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(reader: PictureReader, frames: Any) -> torch.Tensor:
        return torch.full((len(frames), 8), math.nan)

    monkeypatch.setattr(PictureReader, "pictures", broken)
    with pytest.raises(
        AssertionError, match=r"scores of a clip \(prompt_score, consistency\) are not finite"
    ):
        scored("zero")
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_embedding_that_is_not_finite_fails(
    run: Engine,
    identify_job: Callable[..., EnrollJob],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
) -> None:
    noise().save(tmp_path / "ann.png")

    def broken(recognizer: ArcFaceONNX, crop: Any) -> Any:
        return np.full((1, 16), value, np.float32)

    monkeypatch.setattr(ArcFaceONNX, "get_feat", broken)
    ended = run(identify_job(tmp_path / "ann.png"))
    assert ended.status == 1
    assert "embeddings by rec.onnx are not finite" in ended.message
    assert not (tmp_path / "staging/embeddings.safetensors").exists()


def test_warning_for_prompts_that_are_not_scored_completely(
    run: Engine, scored: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.core.test_short_jobs.PROMPTS", ("<V> woman " + "waving " * 80,))
    scored("zero")
    (warning,) = [event["message"] for event in run.events if event["type"] == "warning"]
    assert "prompt_score ignores the end of 1 prompts" in warning


def test_frames_without_face_have_no_similarity(scored: Callable[..., dict[str, Any]]) -> None:
    before = scored("strong", threshold=0.95)["identities"]["ann"]["before"]
    assert (before["face_share"], before["identity_similarity"], before["reward_similarity"]) == (
        0,
        0,
        0,
    )
    assert "motion" not in before


def test_motion_of_the_face_is_relative_to_the_clip_size() -> None:
    still = np.array([[10, 10], [20, 10], [15, 15], [11, 20], [19, 20]], np.float32)
    moving = [still + frame * np.array([3, 4], np.float32) for frame in range(5)]
    assert landmark_motion([still] * 4, 64) == 0
    assert landmark_motion([*moving], 100) == pytest.approx(5)
    assert landmark_motion([2 * points for points in moving], 200) == pytest.approx(5)
    assert landmark_motion([*moving[:3], None, *moving[:3]], 100) is None


def test_motion_ignores_jitter() -> None:
    still = np.array([[10, 10], [20, 10], [15, 15], [11, 20], [19, 20]], np.float32)
    assert landmark_motion([still, still + 1] * 4, 64) == 0


def test_motion_ignores_flicker() -> None:
    rng = np.random.default_rng(0)
    scene = np.asarray(noise().convert("RGB").resize((80, 64), Image.Resampling.BICUBIC))
    standing = np.stack([scene[:, :64]] * 8)
    moving = np.stack([scene[:, frame : frame + 64] for frame in range(8)])
    flickering = np.clip(standing + rng.normal(0, 10, standing.shape), 0, 255).astype(np.uint8)
    moved, flickered = dense_motion(moving), dense_motion(flickering)
    assert moved == pytest.approx(100 / 64, rel=0.2)
    assert flickered is not None
    assert flickered < 0.1 * 100 / 64
    assert dense_motion(standing) == pytest.approx(0, abs=0.01)
    assert dense_motion(moving[:3]) is None


def test_reward_hacking_is_reported() -> None:
    assert gap_alarm({"before": {"gap": 0.0}, "after": {"gap": 0.1}}) is None
    alarm = gap_alarm({"before": {"gap": -0.1}, "after": {"gap": 0.3}})
    assert alarm is not None
    assert "rose 0.40 more" in alarm
    assert gap_alarm({"after": {"gap": 0.9}}) is None


def test_means_use_prompts_and_seeds_of_both_stages_only() -> None:
    frames = np.zeros((1, 4, 4, 3), np.uint8)

    def clip(identity: str, adapter: str, seed: int) -> Clip:
        return Clip(
            {"identity": identity, "adapter": adapter, "prompt": "<V> waits", "seed": seed}, frames
        )

    ann = [clip("ann", "", 0), clip("ann", "a.safetensors", 0), clip("ann", "a.safetensors", 1)]
    ben = [clip("ben", "b.safetensors", 5)]
    assert comparable([*ann, *ben]) == {"ann": {("<V> waits", 0)}, "ben": {("<V> waits", 5)}}
    assert left_out([*ann, *ben]) == 1
    numbers = dict.fromkeys((entry.make.name for entry in TABLE), 0.0)
    scored: list[tuple[Clip, Scores]] = [
        (each, {**numbers, "prompt_score": value})
        for each, value in zip(ann, (80, 82, 20), strict=True)
    ]
    found = summary(scored)["identities"]["ann"]
    assert (found["before"]["prompt_score"], found["after"]["prompt_score"]) == (80, 82)


def clips_of(adapter: str, count: int) -> list[Clip]:
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    about = {"identity": "ann", "adapter": adapter, "prompt": "<V> waits"}
    return [Clip({**about, "seed": seed}, frames) for seed in range(count)]


def test_set_metrics_compare_clips_with_and_without_adapter() -> None:
    scored: list[tuple[Clip, Scores]] = [
        (clip, {"motion": 1.0}) for clip in (*clips_of("", 3), *clips_of("a.safetensors", 4))
    ]
    report = summary(scored, lambda clips, reference: {"sizes": 10.0 * len(clips) + len(reference)})
    assert report["identities"]["ann"]["before"] == {"motion": 1.0}
    assert report["identities"]["ann"]["after"] == {
        "motion": 1.0,
        "motion_ratio": 1.0,
        "sizes": 33.0,
    }
    assert report["mean"]["after"]["sizes"] == 33.0


@pytest.fixture
def evaluator(job: TrainJob) -> Evaluator:
    settings = job.sections()
    return Evaluator(EvaluateJob(**settings, identities=(), sidecars=(), report=""))


def test_kernel_distance_needs_fifty_clips_of_each_set(evaluator: Evaluator) -> None:
    before, after = clips_of("", 50), clips_of("a.safetensors", 50)
    assert evaluator.set_scores(after, before[:49]) == {}
    found = evaluator.set_scores(after, before)
    assert found == {"kernel_distance": pytest.approx(0, abs=1e-6)}


def directions(count: int, towards: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    points[:, 0] += towards
    return torch.nn.functional.normalize(points, dim=-1)


def test_kernel_distance_is_the_unbiased_kid_estimate() -> None:
    one, other = directions(7, 0.0, 1), directions(5, 1.0, 2)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        scaled = 6**0.5 * a, 6**0.5 * b
        return float((scaled[0] @ scaled[1] / 6 + 1) ** 3)

    def within(points: torch.Tensor) -> float:
        pairs = [(a, b) for a in range(len(points)) for b in range(len(points)) if a != b]
        return sum(kernel(points[a], points[b]) for a, b in pairs) / len(pairs)

    between = sum(kernel(a, b) for a in one for b in other) / 35
    assert kernel_distance(one, other) == pytest.approx(within(one) + within(other) - 2 * between)


def test_kernel_distance_grows_with_the_difference_and_is_zero_for_equal_sets() -> None:
    same = [kernel_distance(directions(50, 0, i), directions(50, 0, i + 100)) for i in range(50)]
    assert abs(sum(same)) / 50 < 0.01
    near, far = (kernel_distance(directions(50, 0, 1), directions(50, x, 2)) for x in (0.5, 2.0))
    assert 0.01 < near < far
