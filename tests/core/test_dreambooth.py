"""DreamBooth: reconstruction of photos, with a start, models and samples of its own."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pvtool_core.errors import UsageError
from pvtool_core.models.locate import locate_weights, missing_weights
from pvtool_core.objectives.dreambooth import DreamBooth
from pvtool_core.objectives.objective import bank_pairs, generator_of
from pvtool_core.objectives.training_photos import crop_around, read_training_photos
from pvtool_core.paths import trajectories_dir
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.presets import Presets
from pvtool_core.store.event_log import EventWriter, read_records
from pvtool_core.store.events import ignore
from pvtool_core.store.liveness import Heartbeat
from pvtool_core.store.runs import RunFolder
from pvtool_core.trainer import Trainer, train
from tests.support.families import FAMILIES, Family
from tests.support.sample_data import add_identity_of_noise
from tests.support.small_models import shake, with_settings


@pytest.fixture
def dreambooth(job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainJob:
    """Return a job without the models of the rewards, for an identity with a photo."""
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    identity = dataclasses.replace(job.identity, folder=str(add_identity_of_noise("ann").folder))
    job = dataclasses.replace(job, identity=identity)
    job = with_settings(job, "training", objective="dreambooth", gradient="replay")
    job = with_settings(job, "identity_reward", package="models:nowhere")
    job = with_settings(job, "semantic_reward", model="models:nowhere")
    return with_settings(job, "adapter", start=0.0)


def new_trainer(job: TrainJob) -> tuple[Trainer, DreamBooth]:
    trainer = Trainer(job, trajectories_dir(), ignore)
    assert isinstance(trainer.objective, DreamBooth)
    for _ in trainer.objective.prepare():
        pass
    return trainer, trainer.objective


def gradients(trainer: Trainer) -> list[Tensor]:
    found = [weight.grad for weight in trainer.adapter.parameters()]
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_loss_is_that_of_the_noised_photo_and_of_images_of_the_class(
    weight: float, dreambooth: TrainJob
) -> None:
    job = with_settings(dreambooth, "dreambooth", prior_weight=weight, prior_images=1)
    trainer, objective = new_trainer(job)
    shake(trainer.adapter)
    losses = objective.backpropagate(3)
    ours = gradients(trainer)
    trainer.optimizer.zero_grad()

    backbone, generator = trainer.backbone, generator_of(job.training.seed, 3)
    torch.randint(1, (), generator=generator)  # the photo
    with backbone.as_image_model(), trainer.adapter.acting():
        latents = [backbone.encode(objective.photos[0].pixels, generator)]
        expected: list[Tensor] = []
        for prompt in ("a photo of <V> woman", "a photo of a woman")[: 1 + bool(weight)]:
            if expected:
                torch.randint(1, (), generator=generator)  # the image
                latents.append(objective.class_images[0])
            level = float(torch.rand((), generator=generator))
            noise = torch.randn(latents[-1].shape, generator=generator)
            example = backbone.diffuse(latents[-1], noise, level)
            predicted = backbone.predict_diffused(example, backbone.prompt_embeds(prompt))
            expected.append(functional.mse_loss(predicted, noise))
        total = expected[0] + weight * sum(expected[1:])
        torch.as_tensor(total).backward()
    assert losses["loss"] == pytest.approx(float(total))
    assert losses.keys() == ({"loss", "instance", "prior"} if weight else {"loss"})
    assert all(gradient.abs().sum() > 0 for gradient in ours)
    assert all(torch.allclose(a, b) for a, b in zip(ours, gradients(trainer), strict=True))


def test_run_needs_no_models_of_rewards_and_resumes_to_the_same_weights(
    dreambooth: TrainJob, tmp_path: Path
) -> None:
    """The samples are clips of the bank, with the adapter in all steps."""
    job = with_settings(dreambooth, "dreambooth", prior_weight=1.0, prior_images=2)
    assert missing_weights(job) == []
    assert locate_weights(job).semantic_reward.model == "models:nowhere"

    def run(iterations: int, name: str) -> RunFolder:
        folder = RunFolder(tmp_path / name)
        if not folder.path.exists():
            folder.create()
        last = with_settings(job, "training", iterations=iterations, sample_every=2)
        with EventWriter(folder.events) as events, Heartbeat(folder.status) as heartbeat:
            train(last, folder, events, heartbeat)
        return folder

    whole, halves = run(4, "whole"), [run(2, "halves"), run(4, "halves")][-1]
    files = [
        folder.path / "checkpoints/step-000004/adapter.safetensors" for folder in (whole, halves)
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    samples = [each for each in read_records(whole.events)[0] if each["type"] == "sample"]
    assert [(each["prompt"], each["seed"]) for each in samples] == bank_pairs(job)[:1] * 3


def test_objective_brings_its_start_unless_the_user_sets_another(tmp_path: Path) -> None:
    chosen = {"training": {"objective": "dreambooth"}}
    tiny = Presets().get("tiny")
    assert tiny.settings().adapter.start == 0.75
    assert tiny.settings(chosen).adapter.start == 0.0
    assert tiny.settings(chosen, {"adapter": {"start": 0.5}}).adapter.start == 0.5
    own = '[preset]\nextends = "tiny"\n[training]\nobjective = "dreambooth"\n'
    (tmp_path / "own.toml").write_text(own)
    (tmp_path / "late.toml").write_text(f"{own}[adapter]\nstart = 0.5\n")
    presets = Presets(own=tmp_path)
    assert presets.get("own").settings().adapter.start == 0.0
    assert presets.get("late").settings(chosen).adapter.start == 0.5
    back = {"training": {"objective": "personalvideo"}}
    assert presets.get("own").settings(back).adapter.start == 0.75


def test_photo_is_cropped_around_the_face_to_the_shape_of_the_clip() -> None:
    assert crop_around((70.0, 10.0, 90.0, 30.0), (100, 50), 1.0) == (50, 0, 100, 50)
    assert crop_around((40.0, 10.0, 60.0, 30.0), (100, 50), 1.0) == (25, 0, 75, 50)
    assert crop_around((10.0, 90.0, 30.0, 110.0), (50, 200), 2.0) == (0, 87.5, 50, 112.5)
    assert crop_around((0.0, 0.0, 10.0, 10.0), (64, 64), 1.0) == (0, 0, 64, 64)


def test_held_out_photos_are_not_reconstructed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path))
    folder = add_identity_of_noise("ann").folder
    ((photo, _),) = read_training_photos(folder, 112, 112)
    stored = torch.frombuffer(
        bytearray(Image.open(folder / "references/000.png").tobytes()), dtype=torch.uint8
    )
    assert torch.equal((photo[0].permute(1, 2, 0) * 255).round().byte().flatten(), stored)
    with pytest.raises(UsageError, match="none is left for training"):
        read_training_photos(folder, 112, 112, held_out=1)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_weight_of_each_family_gets_a_gradient_with_all_memory_options(
    family: Family, dreambooth: TrainJob, models: Path
) -> None:
    model = family.job(models).model
    job = dataclasses.replace(dreambooth, model=model)
    saving = with_settings(with_settings(job, "model", **family.saving), "training", recompute=True)
    found: list[list[Tensor]] = []
    for each in (job, saving):
        trainer, objective = new_trainer(each)
        shake(trainer.adapter)
        objective.backpropagate(1)
        found.append(gradients(trainer))
        assert len(found[-1]) == len(trainer.adapter.parameters())
    assert all(gradient.abs().sum() > 0 for gradient in found[0])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
