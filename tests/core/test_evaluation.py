"""Evaluate jobs, run like an engine: metrics of rendered clips, and their report."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pvtool_core.evaluation.alarms import alarms
from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.evaluator import Evaluator
from pvtool_core.evaluation.judges import PictureReader
from pvtool_core.evaluation.metric import SetMetric
from pvtool_core.evaluation.metrics import METRICS, SET_METRICS
from pvtool_core.evaluation.metrics.dense_motion import dense_motion
from pvtool_core.evaluation.metrics.kernel_distance import kernel_distance
from pvtool_core.evaluation.metrics.likeness_by_pose import yaw
from pvtool_core.evaluation.metrics.motion import landmark_motion
from pvtool_core.evaluation.report import set_values, summary
from pvtool_core.evaluation.scores import ClipScores
from pvtool_core.faces.analyzer import Face, FaceAnalyzer, align
from pvtool_core.media.decode import Pixels
from pvtool_core.settings.jobs import ClipFile, EvaluateJob, Subject, TrainJob
from pvtool_core.settings.schema import EvaluationConfig
from tests.support.people import noise, save_person
from tests.support.render_jobs import PROMPT, Engine, clip_file, item, render_job
from tests.support.small_models import with_settings

Score = Callable[..., dict[str, Any]]
HERE = {
    "likeness", "likeness_found", "likeness_min", "faces_found", "motion", "dense_motion", "clip_t",
    "clip_i", "clip_i_whole", "temporal_consistency", "likeness_reward", "gap", "hps",
}  # fmt: skip
"""The metrics with the small models, whose clips show one turned face."""
POSES = {"likeness_frontal", "likeness_turned", "likeness_profile"}


@pytest.fixture
def score(run: Engine, job: TrainJob, adapters: dict[str, Path], tmp_path: Path) -> Score:
    """Render with and without the adapter, score the clips and return the report."""

    def scored(
        adapter: str = "strong",
        prompt: str = PROMPT,
        settings: TrainJob = job,
        photos: int = 1,
        **changes: Any,
    ) -> dict[str, Any]:
        person = save_person(tmp_path / "ann", photos)
        pair = (item(tmp_path / "base"), item(tmp_path / "adapter", adapter=adapters[adapter]))
        clips = [dataclasses.replace(clip, prompt=prompt) for clip in pair]
        assert run(render_job(job, *clips)).status == 0
        wanted: dict[str, Any] = {"clips": tuple(map(clip_file, clips)), "out": str(tmp_path)}
        ended = run(
            EvaluateJob(**settings.sections(), identities=(person,), **{**wanted, **changes})
        )
        assert ended.status == 0, ended
        return json.loads((tmp_path / "report.json").read_text())

    return scored


def test_clips_are_scored_with_and_without_adapter(score: Score, tmp_path: Path) -> None:
    report = score()
    base, adapter = (report["methods"][name] for name in ("base", "adapter"))
    assert base["means"].keys() - POSES == HERE
    assert len(base["means"].keys() & POSES) >= 1
    assert adapter["differences"].keys() == adapter["means"].keys()
    assert "differences" not in base
    assert base["means"]["faces_found"] == {"mean": 1.0, "low": None, "high": None, "clips": 1}
    mean = {name: each["mean"] for name, each in adapter["means"].items()}
    assert -1 <= mean["likeness_min"] <= mean["likeness"] <= 1
    assert mean["gap"] == pytest.approx(mean["likeness_reward"] - mean["likeness"])
    assert mean["clip_t"] != base["means"]["clip_t"]["mean"]
    assert report["identities"]["ann"]["methods"]["adapter"] == pytest.approx(mean)
    assert [clip["method"] for clip in report["clips"]] == ["base", "adapter"]
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert sheet.width > 5 * 128
        assert sheet.height > 2 * 128


def test_equal_clips_have_equal_scores(score: Score) -> None:
    methods = score("zero")["methods"]
    assert methods["adapter"]["means"] == methods["base"]["means"]
    assert {each["mean"] for each in methods["adapter"]["differences"].values()} == {0}


def test_likeness_is_what_the_recogniser_says_of_the_file(
    score: Score, job: TrainJob, tmp_path: Path
) -> None:
    """Compare with a computation from the written file, without the evaluation's code."""
    report = score(photos=2)
    import imageio.v3 as iio

    rewards = job.identity_reward
    analyzer = FaceAnalyzer(
        Path(rewards.package), rewards.detector, ["other.onnx"], rewards.detection_size, 0.5
    )
    photos = analyzer.embed([noise(112, 0), noise(112, 1)], "other.onnx")
    cosines: list[float] = []
    for frame in iio.imread(tmp_path / "adapter.mp4", plugin="FFMPEG"):
        face = max(analyzer.detect(frame), key=lambda face: face.area)
        embedding = analyzer.embed([align(frame, face.landmarks)], "other.onnx")[0]
        middle = photos[0] + photos[1]
        cosines.append(float(embedding @ middle / np.linalg.norm(middle)))
    found = report["identities"]["ann"]["methods"]["adapter"]
    assert found["likeness"] == pytest.approx(np.mean(cosines), abs=0.02)
    worst = report["clips"][1]["worst_frame"]
    assert worst["index"] == int(np.argmin(cosines))
    assert worst["time"] == pytest.approx(worst["index"] / 8)
    assert report["identities"]["ann"]["photos"]["ceiling"] == pytest.approx(
        float(photos[0] @ photos[1]), abs=1e-5
    )


def test_definitions_name_the_weights_of_each_metric(score: Score, job: TrainJob) -> None:
    import hashlib

    metrics = score()["metrics"]
    judge = Path(job.evaluation.text_model) / "open_clip_model.safetensors"
    assert metrics["clip_t"]["weights"] == {
        judge.name: hashlib.sha256(judge.read_bytes()).hexdigest()
    }
    assert "cosine" in metrics["likeness"]["description"]
    assert [name for name, each in metrics.items() if each["reward"]] == [
        "likeness_reward", "gap", "hps",
    ]  # fmt: skip


def test_metrics_without_weights_are_skipped_with_the_command_that_installs_them(
    score: Score,
) -> None:
    skipped = score()["skipped"]
    assert "pv models fetch raft-large" in skipped["dynamic_flow"]["command"]
    assert "pv models fetch adaface-ir101" in skipped["likeness_second"]["command"]
    assert "pv models fetch i3d-kinetics-400" in skipped["fvd"]["command"]
    assert skipped["clip_t_second"]["reason"] == "evaluation.second_text_model is not set."
    assert "held_out_photos" in skipped["copy_paste"]["reason"]
    assert "50 clips" in skipped["kvd"]["reason"]


@pytest.mark.parametrize(
    ("setting", "reward"), [("text_model", "semantic_reward"), ("recognizer", "identity_reward")]
)
def test_judge_with_the_weights_of_a_reward_is_refused(
    run: Engine, job: TrainJob, tmp_path: Path, setting: str, reward: str
) -> None:
    """By their content: a copy under another name is the same judge."""
    if setting == "text_model":
        shutil.copytree(job.semantic_reward.model, tmp_path / "copy")
        settings = with_settings(job, "evaluation", text_model=str(tmp_path / "copy"))
    else:
        package = shutil.copytree(job.identity_reward.package, tmp_path / "faces")
        shutil.copy(package / "rec.onnx", package / "copy.onnx")
        settings = with_settings(job, "identity_reward", package=str(package))
        settings = with_settings(settings, "evaluation", recognizer="copy.onnx")
    ended = run(EvaluateJob(**settings.sections(), identities=(), clips=(), out=str(tmp_path)))
    assert ended.status == 3
    assert f"evaluation.{setting} has the weights of {reward}" in ended.message


def test_interrupted_evaluation_continues_with_the_scored_clips(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score()
    detect, read = FaceAnalyzer.detect, list[str]()

    def counted(analyzer: FaceAnalyzer, picture: Pixels) -> list[Face]:
        read.append("frame")
        return detect(analyzer, picture)

    monkeypatch.setattr(FaceAnalyzer, "detect", counted)
    assert score() == first
    assert not read
    (damaged, _) = (tmp_path / "scores").glob("*.json")
    damaged.write_text(damaged.read_text().replace('"likeness": ', '"likeness": "', 1))
    assert score() == first
    frames = len(read)
    assert frames
    save_person(tmp_path / "ann", 2)
    assert score(photos=2) != first
    assert len(read) == 3 * frames


def test_scores_of_metrics_that_are_not_selected_are_kept(
    score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score()
    worst = first["clips"][0]["worst_frame"]
    assert score(metrics=("clip_t",))["clips"][0]["worst_frame"] is None
    monkeypatch.setattr(FaceAnalyzer, "detect", None)
    assert score()["clips"][0]["worst_frame"] == worst


def test_shards_score_their_clips_and_the_report_uses_them(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in (1, 2):
        with pytest.raises(FileNotFoundError):
            score(shard=shard, shards=2)
        assert len(list((tmp_path / "scores").glob("*.json"))) == shard
    monkeypatch.setattr(FaceAnalyzer, "detect", None)
    assert len(score()["clips"]) == 2


def test_selected_metrics_only(score: Score) -> None:
    assert score(metrics=("clip_t", "motion"))["methods"]["base"]["means"].keys() == {
        "clip_t",
        "motion",
    }


def test_unknown_metric_is_refused(run: Engine, job: TrainJob, tmp_path: Path) -> None:
    ended = run(
        EvaluateJob(
            **job.sections(), identities=(), clips=(), out=str(tmp_path), metrics=("clipt",)
        )
    )
    assert (ended.status, ended.message) == (2, "Unknown metric 'clipt'.")


def test_score_that_is_not_finite_fails_without_report(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(reader: PictureReader, frames: Any) -> torch.Tensor:
        return torch.full((len(list(frames)), 8), math.nan)

    monkeypatch.setattr(PictureReader, "pictures", broken)
    with pytest.raises(AssertionError, match=r"clip_t of base\.mp4 are not finite"):
        score("zero")
    assert not (tmp_path / "report.json").exists()


def test_warning_for_prompts_that_are_not_scored_completely(run: Engine, score: Score) -> None:
    score("zero", prompt="<V> woman " + "waving " * 80)
    (warning,) = [event["message"] for event in run.events if event["type"] == "warning"]
    assert "clip_t ignores the end of 1 prompts" in warning


def test_frames_without_face_have_no_likeness(score: Score, job: TrainJob) -> None:
    report = score(settings=with_settings(job, "identity_reward", detection_threshold=0.95))
    means = report["methods"]["base"]["means"]
    zero = ("faces_found", "likeness", "likeness_min", "likeness_reward")
    assert [means[name]["mean"] for name in zero] == [0, 0, 0, 0]
    assert not {"likeness_found", "motion", "clip_i", *POSES} & means.keys()
    assert "a frame with a face" in report["skipped"]["clip_i"]["reason"]


def test_unreadable_clips_are_named_and_the_rest_scored(
    run: Engine, score: Score, tmp_path: Path
) -> None:
    person = ClipFile(file="", identity="ann", prompt=PROMPT, seed=3, method="other")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    foreign = [
        dataclasses.replace(person, file=str(tmp_path / name))
        for name in ("base.mp4", "missing.mp4", "broken.mp4")
    ]
    report = score(clips=tuple(foreign))
    assert report["methods"]["other"]["clips"] == 1
    reasons = {Path(each["file"]).name: each["reason"] for each in report["failed"]}
    assert "missing.mp4" in reasons["missing.mp4"]
    assert "broken.mp4 is corrupt or incomplete" in reasons["broken.mp4"]


@pytest.fixture
def evaluator(job: TrainJob, tmp_path: Path) -> Evaluator:
    return Evaluator(EvaluateJob(**job.sections(), identities=(), clips=(), out=str(tmp_path)))


def clip_of(frames: Pixels, fps: float = 8.0) -> Clip:
    about = ClipFile(file="clip.mp4", identity="ann", prompt=PROMPT, seed=0, method="base")
    return Clip(about, frames, fps)


def face(left: float, size: float) -> Face:
    points = np.array([[3, 3], [7, 3], [5, 5], [3, 7], [7, 7]], np.float32)
    box = np.array([left, 0, left + size, size], np.float32)
    landmarks = points * size / 10 + np.array([left, 0])
    return Face(box, 0.9, landmarks.astype(np.float32))


def test_bystanders_are_the_faces_that_are_not_the_largest(
    evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.stack([noise(128, seed) for seed in range(2)])
    found = iter([[face(0, 60), face(64, 30), face(96, 20)], [face(0, 60)]])

    def detect(analyzer: FaceAnalyzer, picture: Pixels) -> list[Face]:
        return next(found)

    monkeypatch.setattr(FaceAnalyzer, "detect", detect)
    subject = Subject(identity=save_person(tmp_path / "ann"))
    others = evaluator.judges.other_faces(clip_of(frames), subject, "other.onnx")
    crops = [align(frames[0], face(64, 30).landmarks), align(frames[0], face(96, 20).landmarks)]
    reference = evaluator.judges.reference(subject, "other.onnx")
    expected = (evaluator.judges.analyzer.embed(crops, "other.onnx") @ reference).max()
    assert others == [pytest.approx(float(expected))]


def test_copying_compares_held_out_with_training_photos(score: Score, job: TrainJob) -> None:
    report = score(photos=3, settings=with_settings(job, "identity_reward", held_out_photos=1))
    found = report["identities"]["ann"]["methods"]["base"]
    assert -1 <= found["likeness_held_out_photo"] <= 1
    assert math.isfinite(found["copy_paste"])


def head(turned: float) -> NDArray[np.float32]:
    """Return the landmarks of a head turned by an angle in degrees, seen from far away."""
    points = np.array(
        [[-30, -30, 0], [30, -30, 0], [0, 0, 30], [-20, 30, 0], [20, 30, 0]], np.float64
    )
    angle = math.radians(turned)
    across = points[:, 0] * math.cos(angle) + points[:, 2] * math.sin(angle)
    return np.stack([across, points[:, 1]], 1).astype(np.float32)


@pytest.mark.parametrize("turned", [-60, -30, 0, 10, 45, 80])
def test_yaw_is_the_angle_by_which_a_head_is_turned(turned: float) -> None:
    assert yaw(head(turned)) == pytest.approx(turned, abs=0.1)
    tilted = head(turned) @ np.array([[0.8, 0.6], [-0.6, 0.8]], np.float32)
    assert yaw(tilted) == pytest.approx(turned, abs=0.1)


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
    picture = Image.fromarray(noise()).resize((80, 64), Image.Resampling.BICUBIC)
    scene = np.asarray(picture)
    standing = np.stack([scene[:, :64]] * 8)
    moving = np.stack([scene[:, frame : frame + 64] for frame in range(8)])
    flickering = np.clip(standing + rng.normal(0, 10, standing.shape), 0, 255).astype(np.uint8)
    moved, flickered = dense_motion(moving), dense_motion(flickering)
    assert moved == pytest.approx(100 / 64, rel=0.2)
    assert flickered is not None
    assert flickered < 0.1 * 100 / 64
    assert dense_motion(standing) == pytest.approx(0, abs=0.01)
    assert dense_motion(moving[:3]) is None


def scores_of(method: str, values: Sequence[float], identity: str = "ann") -> list[ClipScores]:
    """Return clips with the values of one metric, each of another prompt."""
    return [
        ClipScores(
            ClipFile(file="", identity=identity, prompt=f"{n}", seed=0, method=method),
            8.0,
            4,
            {"likeness": value},
        )
        for n, value in enumerate(values)
    ]


def test_differences_are_over_pairs_of_equal_prompt_and_seed() -> None:
    base, adapter = scores_of("base", [0.0, 0.1]), scores_of("adapter", [0.5, 0.7, 0.9])
    found = summary(adapter, base)
    assert found["means"]["likeness"]["mean"] == pytest.approx(0.7)
    change = found["differences"]["likeness"]
    assert (change["mean"], change["pairs"]) == (pytest.approx(0.55), 2)
    assert "differences" not in summary(base, ())


def test_difference_that_may_be_chance_is_not_significant() -> None:
    base = scores_of("base", [0.5, 0.5, 0.5, 0.5])
    sure = summary(scores_of("adapter", [0.8, 0.7, 0.9, 0.8]), base)["differences"]["likeness"]
    unsure = summary(scores_of("adapter", [0.8, 0.2, 0.9, 0.4]), base)["differences"]["likeness"]
    assert (sure["significant"], unsure["significant"]) == (True, False)


def changed(metric: str, base: float, low: float, high: float) -> dict[str, Any]:
    """Return the methods of a report in which one metric changed by an interval."""
    change = {"mean": (low + high) / 2, "low": low, "high": high, "base": base}
    return {"base": {}, "adapter": {"differences": {metric: change}}}


@pytest.mark.parametrize(
    ("metric", "base", "low", "high", "words"),
    [
        ("gap", 0.0, 0.25, 0.35, "likeness rose much more by the reward's recogniser"),
        ("gap", 0.0, 0.1, 0.35, ""),
        ("faces_found", 1.0, -0.5, -0.2, "faces are found in fewer frames"),
        ("faces_found", 1.0, -0.09, -0.01, ""),
        ("clip_t", 80.0, -9.0, -5.0, "follow their prompts less (clip_t 80.000 → 73.000)"),
        ("clip_t", 80.0, -9.0, -3.0, ""),
        ("dense_motion", 2.0, -1.5, -0.8, "the clips move less"),
        ("temporal_consistency", 0.9, -0.2, -0.1, "flicker"),
        ("likeness", 0.1, -0.2, -0.1, ""),
    ],
)
def test_reward_hacking_is_reported(
    metric: str, base: float, low: float, high: float, words: str
) -> None:
    found = alarms(changed(metric, base, low, high))
    assert len(found) == bool(words)
    assert all(alarm.startswith("adapter: ") and words in alarm for alarm in found)


def test_likeness_that_only_the_reward_sees_is_reported() -> None:
    both = changed("likeness_reward", 0.1, 0.2, 0.4)
    changes = both["adapter"]["differences"]
    changes["likeness"] = {"mean": 0.1, "low": -0.1, "high": 0.3, "base": 0.1}
    assert alarms(both) == []
    changes["gap"] = {"mean": 0.1, "low": 0.02, "high": 0.2, "base": 0.0}
    (alarm,) = alarms(both)
    assert "by the reward's recogniser only" in alarm
    changes["likeness"]["low"] = 0.01
    assert alarms(both) == []


def test_sets_that_are_too_small_have_no_distance(evaluator: Evaluator) -> None:
    (metric,) = [each(evaluator.judges) for each in SET_METRICS if each.name == "kvd"]
    features = [*directions(50, 0.0, 1).float().numpy()]

    def values(count: int, metric: SetMetric = metric) -> dict[str, Any]:
        return set_values({"adapter": {"kvd": features}}, {"kvd": features[:count]}, [metric])[0]

    assert values(49) == {}
    assert values(50)["adapter"]["kvd"] == pytest.approx(
        kernel_distance(directions(50, 0.0, 1), directions(50, 0.0, 1)), abs=1e-5
    )


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


def test_kernel_distance_is_zero_on_average_for_equal_distributions() -> None:
    same = [kernel_distance(directions(50, 0, i), directions(50, 0, i + 100)) for i in range(50)]
    assert abs(sum(same)) / 50 < 0.01
    assert kernel_distance(directions(50, 0, 1), directions(50, 2, 2)) > 0.1


def test_every_metric_is_described() -> None:
    for metric in (*METRICS, *SET_METRICS):
        assert metric.label
        assert metric.description().endswith("."), metric.name
        assert set(metric.models) <= {
            *EvaluationConfig.__dataclass_fields__,
            "detector", "identity_reward", "semantic_reward",
        }  # fmt: skip


def test_scores_are_not_written_through_a_link(run: Engine, score: Score, tmp_path: Path) -> None:
    """The folder of clips may come from anywhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "scores").symlink_to(elsewhere)
    with pytest.raises(AssertionError, match="regular files and folders only"):
        score("zero")
    assert not list(elsewhere.iterdir())
