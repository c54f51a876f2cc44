"""Scores of samples: values, no effect on training, the best checkpoint, and an early end."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch

from pvtool_core import __main__ as engine
from pvtool_core.errors import SettingsError
from pvtool_core.evaluation import sample_judges
from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.evaluator import Evaluator
from pvtool_core.evaluation.sample_judges import SampleJudges
from pvtool_core.faces.analyzer import FaceAnalyzer
from pvtool_core.media.decode import Pixels
from pvtool_core.settings.jobs import ClipFile, EvaluateJob, TrainJob, write_job
from pvtool_core.settings.schema import TrainingConfig
from pvtool_core.settings.toml import from_table, to_table
from pvtool_core.store.event_log import read_records
from pvtool_core.store.events import Event, Report, WarningEvent
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import BestCheckpoint, RunFolder, checkpoint_step
from tests.support.small_models import with_settings

Metrics = dict[str, float]
METRICS = ("likeness", "gap", "faces_found", "motion", "clip_t")


@pytest.fixture(autouse=True)
def home(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PV_HOME", str(models / "home"))


@pytest.fixture
def sampled(job: TrainJob) -> TrainJob:
    """Return a job with a sample after each of five iterations, and one checkpoint at the end."""
    return with_settings(
        job, "training", iterations=5, sample_every=1, checkpoint_every=100, keep_checkpoints=1
    )


@dataclasses.dataclass
class Train:
    """Runs training engines in this process; `folder` is created by the first."""

    folder: RunFolder

    def __call__(self, job: TrainJob) -> int:
        if not self.folder.path.exists():
            write_job(self.folder.create().config, job)
        return engine.main([str(self.folder.path)])

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in read_records(self.folder.events)[0] if each["type"] == kind]

    def steps(self) -> list[int]:
        return [event["step"] for event in self.events("step")]

    def checkpoints(self) -> list[int]:
        return list(map(checkpoint_step, self.folder.checkpoint_folders()))

    def warnings(self) -> list[str]:
        return [event["message"] for event in self.events("warning")]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    return Train(RunFolder(tmp_path / "ann-1"))


@pytest.fixture
def judged(train: Train, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets the likeness of the samples of steps 0, 1, 2 …"""

    def set_likeness(*likeness: float) -> None:
        class Scripted:
            def __init__(self, job: TrainJob, report: Report) -> None: ...

            def park(self) -> None: ...

            def score(self, frames: Pixels, prompt: str, seed: int) -> Metrics:
                return {"likeness": likeness[train.events("sample")[-1]["step"]]}

        monkeypatch.setattr(sample_judges, "SampleJudges", Scripted)

    return set_likeness


def whole_files(folder: Path) -> dict[str, bytes]:
    """Return the safetensors files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")
    }


# Values


def test_scores_are_the_means_of_what_evaluation_gives_for_the_same_frames(
    train: Train, job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Pixels, str, int]] = []
    score = SampleJudges.score

    def watched(judges: SampleJudges, frames: Pixels, prompt: str, seed: int) -> Metrics:
        seen.append((frames, prompt, seed))
        return score(judges, frames, prompt, seed)

    monkeypatch.setattr(SampleJudges, "score", watched)
    assert train(with_settings(job, "training", sample_every=4, sample_prompts=2)) == 0
    evaluation = EvaluateJob(**job.sections(), identities=(job.identity,), clips=(), out="")
    evaluator = Evaluator(dataclasses.replace(evaluation, metrics=METRICS))
    (subject,) = job.subjects
    values: list[Metrics] = []
    for frames, prompt, seed in seen:
        about = ClipFile(file="", identity="ann", prompt=prompt, seed=seed, method="")
        scores = evaluator.score(Clip(about, frames, 8.0), subject).scores
        values.append({name: value for name, value in scores.items() if value is not None})
    base, samples = values[0:3:2], [values[1:4:2], values[4:6]]  # the base clips come first
    assert np.array_equal(seen[0][0], seen[1][0])
    assert not np.array_equal(seen[0][0], seen[4][0])
    first, last = train.events("scores")
    for event, own in zip((first, last), samples, strict=True):
        assert event["clips"] == 2
        assert event["scores"].keys() == event["base"].keys() == set(METRICS)
        for name in METRICS:
            assert event["scores"][name] == pytest.approx(fmean(each[name] for each in own))
            assert event["base"][name] == pytest.approx(fmean(each[name] for each in base))
        assert [each["scores"] for each in event["samples"]] == own
        assert [each["base"] for each in event["samples"]] == base
    assert (first["step"], last["step"]) == (0, 4)
    assert train.warnings() == []
    assert first["scores"] == first["base"] == last["base"]
    assert last["scores"] != last["base"]


def test_training_is_the_same_without_scores(tmp_path: Path, sampled: TrainJob) -> None:
    found: list[tuple[Any, ...]] = []
    for scored in (True, False):
        (tmp_path / f"{scored}").mkdir()
        train = Train(RunFolder(tmp_path / f"{scored}/ann-1"))  # clips record the run's name
        torch.manual_seed(3)
        assert train(with_settings(sampled, "training", score_samples=scored)) == 0
        assert bool(train.events("scores")) is scored
        losses = [[event[name] for name in ("loss", "grad_norm")] for event in train.events("step")]
        clips = [path.read_bytes() for path in sorted(train.folder.samples.rglob("*.mp4"))]
        files = whole_files(train.folder.checkpoints / "step-000005")
        found.append((losses, clips, files, torch.get_rng_state().tolist()))
    assert found[0] == found[1]


# Missing and broken models


def scores_and_warnings(job: TrainJob) -> tuple[Metrics, list[str]]:
    """Score two clips of noise as a run of the job does; return the second's values."""
    events: list[Event] = []
    judges = SampleJudges(job, events.append)
    frames = np.random.default_rng(0).integers(0, 255, (2, 4, 64, 64, 3), np.uint8)
    scores = [judges.score(each, "a <V> woman waving", 3) for each in frames]
    return scores[1], [event.message for event in events if isinstance(event, WarningEvent)]


def test_missing_weights_of_a_judge_give_one_warning(job: TrainJob) -> None:
    missing = with_settings(job, "evaluation", text_model="models:clip-vit-l-14")
    scores, (warning,) = scores_and_warnings(missing)
    assert warning.startswith("Samples are scored without clip_t: ")
    assert "pv models fetch clip-vit-l-14" in warning
    assert scores.keys() == set(METRICS) - {"clip_t"}


def test_a_judge_that_the_settings_omit_is_not_missed(job: TrainJob) -> None:
    scores, warnings = scores_and_warnings(with_settings(job, "evaluation", text_model=""))
    assert warnings == []
    assert scores.keys() == set(METRICS) - {"clip_t"}


def test_broken_model_of_a_judge_is_reported_once(
    job: TrainJob, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "judge", tmp_path / "judge")
    (tmp_path / "judge/open_clip_config.json").write_text("{}")
    broken = with_settings(job, "evaluation", text_model=str(tmp_path / "judge"))
    scores, (warning,) = scores_and_warnings(broken)
    assert warning.startswith("Samples are scored without clip_t: ")
    assert "is not an open_clip model folder" in warning
    assert scores.keys() == set(METRICS) - {"clip_t"}


def test_a_judge_with_the_weights_of_a_reward_is_not_used(job: TrainJob, models: Path) -> None:
    same = with_settings(job, "evaluation", text_model=str(models / "clip"))
    scores, (warning,) = scores_and_warnings(same)
    assert warning.startswith("Samples are not scored: evaluation.text_model has the weights of")
    assert scores == {}


def test_early_end_needs_the_likeness(
    train: Train, sampled: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no such operator")

    monkeypatch.setattr(FaceAnalyzer, "embed", fail)
    assert train(with_settings(sampled, "training", patience=2)) == 1
    assert train.warnings()[0].startswith(
        "Samples are scored without likeness: ValueError: no such"
    )
    ended = train.folder.read_exit()
    assert ended is not None
    assert "The likeness of the samples cannot be measured" in ended.message
    assert train.steps() == []


# The best checkpoint


def test_best_checkpoint_is_kept(
    train: Train, sampled: TrainJob, judged: Callable[..., None]
) -> None:
    judged(0.9, 0.2, 0.5, 0.3, 0.5, 0.4)
    assert train(sampled) == 0
    assert [event["step"] for event in train.events("checkpoint")] == [1, 2, 5]
    assert train.checkpoints() == [2, 5]
    assert train.folder.read_best() == BestCheckpoint(step=2, likeness=0.5)


@pytest.mark.parametrize(
    ("method", "when"), [("write_checkpoint", 2), ("write_best", 3), ("remove_checkpoints", 2)]
)
def test_engine_that_dies_while_it_keeps_the_best_resumes_to_the_same_files(
    train: Train,
    sampled: TrainJob,
    judged: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    when: int,
) -> None:
    judged(0.1, 0.2, 0.5, 0.3, 0.4, 0.1)
    known = getattr(RunFolder, method)
    calls = 0

    def dies(folder: RunFolder, *words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == when:
            raise KeyboardInterrupt
        return known(folder, *words)

    monkeypatch.setattr(RunFolder, method, dies)
    assert train(sampled) != 0
    assert (best := train.folder.read_best()) is None or best.step in train.checkpoints()
    assert train(sampled) == 0
    assert [event["step"] for event in train.events("scores")] == [0, 1, 2, 3, 4, 5]
    assert train.checkpoints() == [2, 5]
    assert train.folder.read_best() == BestCheckpoint(step=2, likeness=0.5)


# An early end


def test_training_ends_after_samples_without_a_higher_likeness(
    train: Train, sampled: TrainJob, judged: Callable[..., None]
) -> None:
    judged(0.1, 0.2, 0.5, 0.3, 0.4, 0.6)
    assert train(with_settings(sampled, "training", patience=2)) == 0
    assert train.steps() == [1, 2, 3, 4]
    reason = "No higher held-out likeness in 2 samples: the best is 0.500 at step 2."
    ended = train.folder.read_exit()
    assert ended is not None
    assert (ended.state, ended.reason) == (State.FINISHED, reason)
    assert train.events("run")[-1]["reason"] == reason
    assert train.checkpoints() == [2, 4]


def test_resumed_run_continues_to_count_and_a_complete_one_does_not_train_on(
    train: Train,
    sampled: TrainJob,
    judged: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged(0.1, 0.5, 0.2, 0.3, 0.4, 0.6)
    patient = with_settings(sampled, "training", patience=3, checkpoint_every=1)
    known = RunFolder.remove_checkpoints

    def dies(folder: RunFolder, keep: int) -> None:
        known(folder, keep)
        if checkpoint_step(folder.checkpoint_folders()[-1]) in dying:
            dying.clear()
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "remove_checkpoints", dies)
    dying = {3}
    assert train(patient) != 0
    dying.add(4)
    assert train(patient) != 0
    assert train.steps() == [1, 2, 3, 4]
    assert train(patient) == 0
    assert train.steps() == [1, 2, 3, 4]
    ended = train.folder.read_exit()
    assert ended is not None
    assert ended.reason.startswith("No higher held-out likeness in 3 samples")


def test_samples_on_request_do_not_count(
    train: Train, sampled: TrainJob, judged: Callable[..., None]
) -> None:
    judged(0.1, 0.5, 0.2, 0.3, 0.4, 0.6)
    assert train(with_settings(sampled, "training", patience=1, sample_every=3)) == 0
    assert train.steps() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"score_samples": False}, "needs training.score_samples = true"),
        ({"sample_every": 0}, "set training.sample_every above 0"),
    ],
)
def test_early_end_without_scored_samples_is_refused(
    job: TrainJob, changes: dict[str, Any], problem: str
) -> None:
    training = dataclasses.replace(TrainingConfig(patience=2), **changes)
    with pytest.raises(SettingsError, match=problem):
        from_table(TrainJob, to_table(dataclasses.replace(job, training=training)), "config.toml")
