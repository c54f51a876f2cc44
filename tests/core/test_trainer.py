"""Training: its output files, equality with and without cache, and of resumed runs."""

import dataclasses
import json
import math
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pvtool_core.adapter import IdentityAdapter
from pvtool_core.backbones.animatediff import AnimateDiff
from pvtool_core.errors import Missing, RunFailed
from pvtool_core.media import ffmpeg
from pvtool_core.media.decode import frames_of
from pvtool_core.media.ffmpeg import FfmpegMissing
from pvtool_core.models.integrity import read_header
from pvtool_core.models.locate import locate_weights, missing_weights
from pvtool_core.objectives.objective import Losses, bank_pairs, generator_of
from pvtool_core.objectives.personalvideo import PersonalVideo, draw_frames
from pvtool_core.paths import cache_dir
from pvtool_core.sampling import BaseKl
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.schema import TrainingConfig
from pvtool_core.store.event_log import EventWriter, read_records
from pvtool_core.store.events import Event, Report, WarningEvent, ignore
from pvtool_core.store.liveness import Heartbeat, State
from pvtool_core.store.runs import Request, RunFolder, checkpoint_facts
from pvtool_core.trainer import Trainer, learning_rate, train
from pvtool_core.trajectories import FaceTrack
from tests.support.small_models import shake, with_settings
from tests.support.training import objective_of, prepared_trainer


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose trajectory cache all these tests share."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def home(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PV_HOME", str(shared))


def find_no_faces(picture: Any) -> list[Any]:
    return []


def new_trainer(
    job: TrainJob, cached: bool = True, report: Report = ignore
) -> tuple[Trainer, PersonalVideo]:
    return prepared_trainer(job, cache_dir() / "trajectories" if cached else None, report)


def gradients(trainer: Trainer) -> list[Tensor]:
    found = [weight.grad for weight in trainer.adapter.parameters()]
    return [gradient for gradient in found if gradient is not None]


def weights(trainer: Trainer) -> list[Tensor]:
    return [weight.detach().clone() for weight in trainer.adapter.parameters()]


def run(
    job: TrainJob, path: Path, during: Callable[[RunFolder], None] | None = None
) -> tuple[State, RunFolder]:
    folder = RunFolder(path)
    if not path.exists():
        folder.create()
    with EventWriter(folder.events) as events, Heartbeat(folder.status) as heartbeat:
        if during:
            threading.Thread(target=during, args=(folder,), daemon=True).start()
        return State(train(job, folder, events, heartbeat).state), folder


def events_of(folder: RunFolder, type: str) -> list[dict[str, Any]]:
    return [event for event in read_records(folder.events)[0] if event["type"] == type]


def final_weights(folder: RunFolder) -> dict[str, Tensor]:
    checkpoint = folder.latest_checkpoint()
    assert checkpoint is not None
    return load_file(checkpoint / "adapter.safetensors")


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# One iteration


@pytest.mark.parametrize("gradient", ["full", "replay", "drtune"])
def test_every_weight_gets_a_gradient_which_is_the_same_without_cache(
    gradient: str, job: TrainJob
) -> None:
    job = with_settings(job, "training", gradient=gradient, cached_pairs=2)
    job = with_settings(job, "semantic_reward", level_weight=1.0)
    found: list[tuple[Losses, list[Tensor]]] = []
    for cached in (True, True, False):
        trainer, objective = new_trainer(job, cached)
        generator = torch.Generator().manual_seed(1)
        for weight in trainer.adapter.parameters():
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
        measured = objective.backpropagate_pair(objective.pairs[1], generator_of(0, 1))
        found.append(
            (
                measured,
                [weight.grad for weight in trainer.adapter.parameters() if weight.grad is not None],
            )
        )
    assert all(gradient.abs().sum() > 0 for gradient in found[0][1])
    assert len(found[0][1]) == 2 * 12
    for measured, gradients in found[1:]:
        assert measured == found[0][0]
        assert all(torch.equal(a, b) for a, b in zip(gradients, found[0][1], strict=True))


def test_identity_compares_the_set_number_of_frames_with_a_face(
    job: TrainJob,
) -> None:
    job = with_settings(job, "identity_reward", frames=4)
    _, objective = new_trainer(with_settings(job, "semantic_reward", frames=2))
    faces = FaceTrack(torch.tensor([True, False, True, True]), objective.pairs[0].faces.landmarks)
    one_blind = dataclasses.replace(objective.pairs[0], faces=faces)
    seen: list[Tensor] = []
    score = objective.identity.score

    def watched(*given: Any) -> Tensor:
        seen.append(score(*given))
        return seen[-1]

    objective.identity.score = watched  # type: ignore[method-assign]
    measured = objective.backpropagate_pair(one_blind, generator_of(0, 1))
    assert len(seen) == 3
    assert measured["icr"] == pytest.approx(1 - torch.stack(seen).mean().item())


def test_without_semantic_reward_its_model_is_not_needed(job: TrainJob) -> None:
    """The gradient is that of the identity reward alone."""
    job = with_settings(job, "training", cached_pairs=1)
    unused = with_settings(job, "semantic_reward", weight=0.0, model="models:nowhere")
    assert locate_weights(unused).semantic_reward.model == "models:nowhere"
    assert missing_weights(unused) == []
    plain, lacking = new_trainer(job), new_trainer(unused)
    plain[1].job = with_settings(job, "semantic_reward", weight=0.0)
    losses = [objective.backpropagate(1) for _, objective in (plain, lacking)]
    assert losses[1].keys() == {"loss", "icr", "face_found"}
    assert losses[1]["loss"] == pytest.approx(losses[0]["loss"])
    for ours, theirs in zip(gradients(lacking[0]), gradients(plain[0]), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_image_model_is_rewarded_for_frames_with_cache_keys_of_their_own(
    job: TrainJob, tmp_path: Path
) -> None:
    job = with_settings(job, "training", image_model=True, cached_pairs=2, sample_every=4)
    trainer, objective = new_trainer(job)
    pair = objective.pairs[0]
    assert pair.scores is not None
    assert pair.scores.shape == pair.faces.found.shape == (1,)
    caches = (objective.cache, trainer.model.cache)
    image, clip = (cache.switch(pair.prompt, pair.seed) for cache in caches)
    assert (image.shape[2], clip.shape[2]) == (1, job.model.num_frames)
    assert len({cache.key(pair.prompt, pair.seed) for cache in caches}) == 2
    shake(trainer.adapter)
    losses = objective.backpropagate(1)
    assert losses["scr"] == pytest.approx(0.0, abs=1e-6)  # eq. 4 compares frames
    assert all(gradient.abs().sum() > 0 for gradient in gradients(trainer))
    _, folder = run(job, tmp_path / "run")
    (shown,) = (folder.samples / "step-000004").glob("*.mp4")
    assert len(frames_of(shown)) == job.model.num_frames
    metadata = read_header(folder.checkpoint_folders()[-1] / "adapter.safetensors").metadata
    assert metadata["image_model"] == "true"


def test_training_and_rendering_use_the_same_active_steps(job: TrainJob) -> None:
    trainer, _ = new_trainer(job)
    steps: set[int] = set()
    now = [0]
    timesteps: list[int] = cast(AnimateDiff, trainer.backbone).scheduler.timesteps.tolist()

    def at_step(_: Any, args: tuple[Any, ...]) -> None:
        now[0] = timesteps.index(int(args[1]))

    def note(*_: Any) -> None:
        steps.add(now[0])

    trainer.backbone.denoiser.register_forward_pre_hook(at_step)
    assert isinstance(trainer.adapter, IdentityAdapter)
    for layer in trainer.adapter.layers.values():
        layer.lora_A["identity"].register_forward_hook(note)
    trainer.iterate(1)
    assert steps == {6, 7}
    assert list(trainer.model.steps) == [6, 7]


def test_adapter_can_be_active_in_all_steps(job: TrainJob) -> None:
    trainer, _ = new_trainer(with_settings(job, "adapter", start=0.0))
    assert list(trainer.model.steps) == list(range(8))
    assert trainer.iterate(1)["grad_norm"] > 0


def test_semantics_is_zero_before_the_first_step(job: TrainJob) -> None:
    _, objective = new_trainer(job)
    measured = objective.backpropagate_pair(objective.pairs[0], generator_of(0, 1))
    assert measured["scr"] == pytest.approx(0, abs=1e-4)
    assert measured["score_gap"] == pytest.approx(0, abs=1e-5)
    assert measured["face_found"]


def test_iteration_reports_its_values(job: TrainJob) -> None:
    trainer, _ = new_trainer(job)
    said = trainer.iterate(1)
    assert {
        "loss",
        "icr",
        "scr",
        "grad_norm",
        "lr",
        "prompt",
        "seed",
        "seconds",
        "eta",
    } <= said.keys()
    assert said["loss"] == pytest.approx(said["icr"] + said["scr"], rel=1e-5)
    assert said["prompt"] in job.prompts
    assert said["grad_norm"] > 0


def test_loss_weights_have_effect(job: TrainJob) -> None:
    heavy = with_settings(job, "identity_reward", weight=3.0)
    losses = []
    for each in (job, heavy):
        _, objective = new_trainer(each)
        losses.append(objective.backpropagate_pair(objective.pairs[0], generator_of(0, 1)))
    assert losses[1]["loss"] - losses[0]["loss"] == pytest.approx(2 * losses[0]["icr"], rel=1e-4)


def shaken(objective: PersonalVideo) -> PersonalVideo:
    generator = torch.Generator().manual_seed(1)
    for weight in objective.adapter.parameters():
        weight.data += torch.randn(weight.shape, generator=generator)
    return objective


def test_base_penalty_is_smaller_at_the_originals_face_only(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = with_settings(job, "training", base_kl_weight=1000.0, base_kl_face=0.25)
    made: list[BaseKl] = []

    def watched(*given: Any) -> BaseKl:
        made.append(BaseKl(*given))
        return made[-1]

    monkeypatch.setattr("pvtool_core.objectives.personalvideo.BaseKl", watched)
    _, objective = new_trainer(job)
    size = torch.tensor([job.model.width, job.model.height])
    eyes_left = (
        torch.tensor([[0.2, 0.3], [0.35, 0.3], [0.27, 0.4], [0.22, 0.5], [0.33, 0.5]]) * size
    )
    faces = FaceTrack(
        torch.tensor([True, True, False, True]), eyes_left.expand(4, 5, 2).contiguous()
    )
    to_the_left = dataclasses.replace(objective.pairs[0], faces=faces)
    shaken(objective).backpropagate_pair(to_the_left, generator_of(0, 1))
    (base_kl,) = made
    assert base_kl.weight == 1000.0
    assert isinstance(base_kl.shares, Tensor)
    shares = base_kl.shares[0, 0]
    rows, columns = shares.shape[1:]
    assert shares[0, int(0.4 * rows), int(0.27 * columns)] == 0.25
    assert (shares[0, :, int(0.8 * columns) :] == 1).all()
    assert (shares[2] == 1).all()


def test_base_penalty_is_in_loss_and_gradient(job: TrainJob) -> None:
    found: list[tuple[Losses, list[Tensor]]] = []
    for weight in (0.0, 1000.0):
        trainer, objective = new_trainer(with_settings(job, "training", base_kl_weight=weight))
        measured = shaken(objective).backpropagate_pair(objective.pairs[0], generator_of(0, 1))
        found.append(
            (
                measured,
                [each.grad for each in trainer.adapter.parameters() if each.grad is not None],
            )
        )
    assert "base_kl" not in found[0][0]
    assert found[1][0]["base_kl"] > 0
    assert not any(
        torch.allclose(a, b, rtol=1e-3) for a, b in zip(found[0][1], found[1][1], strict=True)
    )


def test_step_reduces_the_loss_of_the_same_sample(job: TrainJob) -> None:
    trainer, objective = new_trainer(with_settings(job, "training", learning_rate=0.03))
    losses: list[float] = []
    for _ in range(3):
        losses.append(objective.backpropagate_pair(objective.pairs[0], generator_of(0, 1))["loss"])
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
    assert losses[0] > losses[1] > losses[2]


def test_float16_overflow_skips_a_step_and_fails_after_several(
    job: TrainJob,
) -> None:
    half = with_settings(
        with_settings(job, "identity_reward", weight=1e30), "model", dtype="float16"
    )
    half = with_settings(half, "training", cached_pairs=1)
    warnings: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, WarningEvent):
            warnings.append(event.message)

    trainer, _ = new_trainer(half, report=hear)
    before = weights(trainer)
    assert trainer.iterate(1)["grad_norm"] is None
    assert any("The gradient of iteration 1 overflows" in each for each in warnings)
    assert all(map(torch.equal, weights(trainer), before))
    with pytest.raises(RunFailed, match="no longer a number at iteration 11"):
        for step in range(2, 20):
            trainer.iterate(step)


def test_nan_loss_stops_the_run_and_keeps_the_adapter(job: TrainJob) -> None:
    trainer, _ = new_trainer(with_settings(job, "identity_reward", weight=float("nan")))
    before = weights(trainer)
    with pytest.raises(RunFailed, match="no longer a number at iteration 1"):
        trainer.iterate(1)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_adapter_that_is_not_finite_after_the_last_step_fails_without_checkpoint(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    iterate = Trainer.iterate

    def overflowing(trainer: Trainer, step: int) -> dict[str, Any]:
        said = iterate(trainer, step)
        next(iter(trainer.adapter.parameters())).data.view(-1)[0] = value
        return said

    monkeypatch.setattr(Trainer, "iterate", overflowing)
    with pytest.raises(RunFailed, match="not finite after iteration 1") as failure:
        run(with_settings(job, "training", iterations=1, sample_every=0), tmp_path / "run")
    assert "training.learning_rate" in failure.value.hint
    assert RunFolder(tmp_path / "run").latest_checkpoint() is None


def test_run_without_ffmpeg_fails_before_denoising(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for known in (ffmpeg.codecs, ffmpeg.executable):
        known.cache_clear()
        request.addfinalizer(known.cache_clear)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(FfmpegMissing):
        run(job, tmp_path / "run")
    assert events_of(RunFolder(tmp_path / "run"), "step") == []
    assert {event["stage"] for event in events_of(RunFolder(tmp_path / "run"), "stage")} == {
        "loading"
    }


def test_originals_landmarks_are_used_if_no_face_is_found(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, objective = new_trainer(job)
    monkeypatch.setattr(objective.analyzer, "detect", find_no_faces)
    said = trainer.iterate(1)
    assert not said["face_found"]
    assert said["grad_norm"] > 0


def test_pairs_without_a_face_are_skipped(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = objective_of(Trainer(job, None, ignore))
    monkeypatch.setattr(objective.analyzer, "detect", find_no_faces)
    assert objective.prepare_pair("a <V> woman waving", 1) is None


def test_error_for_deleted_identity(job: TrainJob, tmp_path: Path) -> None:
    with pytest.raises(Missing, match="ann"):
        Trainer(
            with_settings(job, "identity", name="ann", folder=str(tmp_path / "ann")), None, ignore
        )


# Random samples


def test_random_samples_differ_by_iteration_and_are_reproducible(job: TrainJob) -> None:
    drawn: list[list[tuple[str, int]]] = []
    for _ in range(2):
        trainer, _ = new_trainer(job)
        said = [trainer.iterate(step) for step in range(1, 6)]
        drawn.append([(each["prompt"], each["seed"]) for each in said])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1


def test_number_of_frames_for_eq_2_and_eq_3() -> None:
    faces = FaceTrack(torch.tensor([False, True, False, True]), torch.zeros(4, 5, 2))
    for step in range(20):
        frames = draw_frames(faces, 3, generator_of(0, step), lambda _: range(4))
        assert frames[0] in (1, 3)
        assert len(set(frames)) == 3
    assert {
        tuple(draw_frames(faces, 2, generator_of(0, step), lambda _: range(4)))
        for step in range(60)
    } == {(first, other) for first in (1, 3) for other in range(4) if other != first}


def test_the_frames_of_eq_3_are_decoded_in_one_window_with_the_face() -> None:
    faces = FaceTrack(torch.tensor([True] * 6), torch.zeros(6, 5, 2))
    windows = [
        draw_frames(
            faces, 4, generator_of(0, step), lambda frame: range(frame // 3 * 3, frame // 3 * 3 + 3)
        )
        for step in range(20)
    ]
    assert {tuple(sorted(frames)) for frames in windows} == {(0, 1, 2), (3, 4, 5)}


def test_pairs_have_seeds_by_prompt_and_do_not_depend_on_the_identity(
    job: TrainJob,
) -> None:
    pairs = bank_pairs(job)
    assert len(pairs) == 4
    assert len({seed for _, seed in pairs}) == 4
    assert [prompt for prompt, _ in pairs] == [*job.prompts, *job.prompts]
    assert bank_pairs(with_settings(job, "training", seed=5)) == pairs
    assert bank_pairs(with_settings(job, "training", cached_pairs=3)) == pairs[:3]


def test_learning_rate_schedule() -> None:
    config = TrainingConfig(iterations=10, learning_rate=1.0, warmup=2, decay_from=0.5)
    rates = [learning_rate(config, step) for step in range(1, 11)]
    assert rates[:6] == [0.5, 1, 1, 1, 1, 1]
    assert rates[6:] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert learning_rate(TrainingConfig(warmup=0), 800) == TrainingConfig().learning_rate


# A whole run


def test_run_writes_events_checkpoints_and_samples(job: TrainJob, tmp_path: Path) -> None:
    state, folder = run(with_settings(job, "training", sample_every=2), tmp_path / "run")
    assert state is State.FINISHED
    assert [event["step"] for event in events_of(folder, "step")] == [1, 2, 3, 4]
    assert [event["path"] for event in events_of(folder, "checkpoint")] == [
        "checkpoints/step-000002",
        "checkpoints/step-000004",
    ]
    samples = events_of(folder, "sample")
    assert [event["step"] for event in samples] == [0, 2, 4]
    assert all((folder.path / event["path"]).stat().st_size for event in samples)
    stages = [
        (event["stage"], event.get("done"), event.get("total"))
        for event in events_of(folder, "stage")
    ]
    assert stages == [
        ("loading", None, None),
        *[("caching", i, 4) for i in (1, 2, 3, 4)],
        ("training", None, None),
    ]


def test_resumed_run_equals_uninterrupted_one(job: TrainJob, tmp_path: Path) -> None:
    _, whole = run(job, tmp_path / "whole")

    def stop_after_the_first_step(folder: RunFolder) -> None:
        while not events_of(folder, "step"):
            time.sleep(0.005)
        folder.request(Request.STOP)

    state, halves = run(
        with_settings(job, "training", checkpoint_every=100),
        tmp_path / "halves",
        stop_after_the_first_step,
    )
    assert state is State.STOPPED
    assert len(events_of(halves, "step")) < 4
    state, halves = run(job, tmp_path / "halves")
    assert state is State.FINISHED
    assert same(final_weights(halves), final_weights(whole))
    told = ("step", "loss", "icr", "scr", "grad_norm", "prompt", "seed")
    ours, theirs = (
        [[event[key] for key in told] for event in events_of(each, "step")]
        for each in (halves, whole)
    )
    assert ours == theirs


def test_other_seed_gives_other_steps(job: TrainJob, tmp_path: Path) -> None:
    _, one = run(job, tmp_path / "one")
    _, other = run(with_settings(job, "training", seed=1), tmp_path / "other")
    assert not same(final_weights(one), final_weights(other))


def test_paused_run_saves_its_state_and_continues(job: TrainJob, tmp_path: Path) -> None:
    seen: list[Any] = []

    def pause_and_resume(folder: RunFolder) -> None:
        folder.request(Request.PAUSE)
        while not events_of(folder, "run"):
            time.sleep(0.005)
        seen.append(folder.state())
        time.sleep(0.5)
        seen.append(len(events_of(folder, "step")))
        folder.request(Request.RESUME)

    state, folder = run(job, tmp_path / "run", pause_and_resume)
    assert state is State.FINISHED
    assert seen[0] is State.PAUSED
    assert seen[1] < 4
    assert [event["state"] for event in events_of(folder, "run")] == ["paused", "resumed"]
    assert len(events_of(folder, "step")) == 4


def test_checkpoint_and_sample_on_request(job: TrainJob, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run").create()
    folder.request(Request.SAMPLE)
    folder.request(Request.CHECKPOINT)
    run(with_settings(job, "training", checkpoint_every=100), folder.path)
    assert [event["step"] for event in events_of(folder, "checkpoint")] == [1, 4]
    assert [event["step"] for event in events_of(folder, "sample")] == [1]


def test_only_the_newest_checkpoints_are_kept(job: TrainJob, tmp_path: Path) -> None:
    _, folder = run(
        with_settings(job, "training", checkpoint_every=1, keep_checkpoints=2), tmp_path / "run"
    )
    assert [path.name for path in folder.checkpoint_folders()] == ["step-000003", "step-000004"]


class Machine:
    """Replaces torch's number of threads.

    Real threads on a busy machine would wait for each other for minutes.
    """

    threads = 1

    def use(self, threads: int) -> None:
        self.threads = threads


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(torch, "get_num_threads", lambda: machine.threads)
    monkeypatch.setattr(torch, "set_num_threads", machine.use)
    return machine


def test_run_resumes_with_its_original_number_of_threads(
    job: TrainJob, tmp_path: Path, machine: Machine
) -> None:
    job = with_settings(job, "model", threads=0)
    machine.use(2)
    _, folder = run(with_settings(job, "training", iterations=2), tmp_path / "run")
    assert checkpoint_facts(folder.checkpoints / "step-000002")["threads"] == 2
    machine.use(1)
    run(job, tmp_path / "run")
    assert machine.threads == 2
    assert checkpoint_facts(folder.checkpoints / "step-000004")["threads"] == 2
    assert not events_of(folder, "warning")
    _, whole = run(job, tmp_path / "whole")
    ours, theirs = (
        each.path / "checkpoints/step-000004/adapter.safetensors" for each in (folder, whole)
    )
    assert ours.read_bytes() == theirs.read_bytes()


def test_configured_number_of_threads_is_kept(
    job: TrainJob, tmp_path: Path, machine: Machine
) -> None:
    job = with_settings(job, "model", threads=1)
    machine.use(2)
    _, folder = run(with_settings(job, "training", iterations=2), tmp_path / "run")
    assert machine.threads == 1
    assert checkpoint_facts(folder.checkpoints / "step-000002")["threads"] == 1


@pytest.fixture(scope="module")
def two_iterations(
    shared: Path, job: TrainJob, tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """Return a run after two iterations, to be copied."""
    short = with_settings(with_settings(job, "model", threads=0), "training", iterations=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PV_HOME", str(shared))
        return run(short, tmp_path_factory.mktemp("two") / "run")[1]


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("recorded", [None, 0, -1, 10**9, "2"])
def test_a_checkpoint_without_a_number_of_threads_is_resumed_with_a_warning(
    recorded: Any, job: TrainJob, two_iterations: RunFolder, tmp_path: Path
) -> None:
    job = with_settings(with_settings(job, "model", threads=0), "training", iterations=3)
    folder = RunFolder(shutil.copytree(two_iterations.path, tmp_path / "run"))
    manifest = folder.checkpoints / "step-000002/manifest.json"
    kept = {**json.loads(manifest.read_bytes()), "threads": recorded, "device": "cuda"}
    manifest.write_text(json.dumps(kept))
    assert run(job, folder.path)[0] is State.FINISHED
    threads, device = [event["message"] for event in events_of(folder, "warning")]
    assert "step-000002 does not record the number of threads" in threads
    assert "trained on cuda and continues on cpu" in device
