"""Textual inversion: equal to diffusers in training and rendering, and resumable like all runs."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from pvtool_core.adapter import AdapterMetadata
from pvtool_core.backbones import load_backbone
from pvtool_core.backbones.interface import to_pixels
from pvtool_core.errors import BadPrompt, InputRefused, SettingsError, UsageError
from pvtool_core.keyword_vectors import KeywordVectors, load_vectors
from pvtool_core.media.decode import frames_of
from pvtool_core.models.prompt_limits import check_prompts_fit
from pvtool_core.objectives.objective import generator_of
from pvtool_core.objectives.textual_inversion import TextualInversion
from pvtool_core.settings.jobs import EncodingConfig, TrainJob
from pvtool_core.settings.toml import from_table, to_table
from pvtool_core.store.event_log import EventWriter, read_records
from pvtool_core.store.events import ignore
from pvtool_core.store.liveness import Heartbeat, State
from pvtool_core.store.runs import ADAPTER_FILE, RunFolder
from pvtool_core.trainer import Trainer, train
from tests.support.families import pipeline_call
from tests.support.keyword_vectors import inversion_job, save_photographed, save_vectors
from tests.support.render_jobs import PROMPT, Engine, item, render_job
from tests.support.small_models import with_settings

TOKENS = ["<v>", "<v>_1", "<v>_2", "<v>_3"]


@pytest.fixture
def inversion(job: TrainJob, tmp_path: Path) -> TrainJob:
    """Return a job on the small model, of a person with two photos."""
    identity = save_photographed(tmp_path / "ann")
    return dataclasses.replace(inversion_job(job, batch_size=2), identity=identity)


@pytest.fixture(autouse=True)
def home(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PV_HOME", str(models / "home"))


def new_trainer(job: TrainJob) -> tuple[Trainer, TextualInversion, KeywordVectors]:
    trainer = Trainer(job, None, ignore)
    objective, adapter = trainer.objective, trainer.adapter
    assert isinstance(objective, TextualInversion)
    assert isinstance(adapter, KeywordVectors)
    return trainer, objective, adapter


# Training


class DiffusersTraining:
    """The loss of examples/textual_inversion.py of diffusers, with the vectors of ours."""

    def __init__(self, still: Path, vectors: Tensor, scheduler: Any) -> None:
        self.tokenizer: Any = CLIPTokenizer.from_pretrained(still / "tokenizer")
        self.text_encoder: Any = CLIPTextModel.from_pretrained(still / "text_encoder")
        self.unet: Any = UNet2DConditionModel.from_pretrained(still / "unet")
        self.scheduler = scheduler
        assert self.tokenizer.add_tokens(TOKENS) == len(vectors)
        self.text_encoder.resize_token_embeddings(len(self.tokenizer))
        self.rows = self.text_encoder.get_input_embeddings().weight
        self.rows.data[-len(vectors) :] = vectors.detach()

    def loss(self, latents: Tensor, noise: Tensor, level: float, prompt: str) -> Tensor:
        timesteps = torch.tensor([int(level * self.scheduler.config.num_train_timesteps)])
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        words = prompt.replace("<V>", " ".join(TOKENS))
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(
            words, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        hidden = self.text_encoder(ids)[0]
        return torch.nn.functional.mse_loss(self.unet(noisy, timesteps, hidden).sample, noise)


def test_loss_and_gradient_equal_those_of_diffusers_on_the_same_noise(
    inversion: TrainJob, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, objective, adapter = new_trainer(with_settings(inversion, "textual_inversion", unmasked=1.0))
    adapter.vectors.data += torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    diffuse, given = objective.backbone.diffuse, list[tuple[Tensor, Tensor, float]]()

    def watched(latents: Tensor, noise: Tensor, level: float) -> Any:
        given.append((latents[:, :, 0], noise[:, :, 0], level))
        return diffuse(latents, noise, level)

    monkeypatch.setattr(objective.backbone, "diffuse", watched)
    said = objective.backpropagate(1)
    backbone: Any = objective.backbone
    theirs = DiffusersTraining(models / "still", adapter.vectors, backbone.scheduler)
    losses = [theirs.loss(*each, objective.prompt) for each in given]
    loss = torch.stack(losses).mean()
    loss.backward()
    assert len(given) == 2
    assert said["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert adapter.vectors.grad is not None
    assert torch.allclose(adapter.vectors.grad, theirs.rows.grad[-4:], rtol=1e-4, atol=1e-8)


def test_loss_counts_the_head_only(inversion: TrainJob) -> None:
    quiet = {"unmasked": 0.0, "augment": False}
    _, objective, _ = new_trainer(with_settings(inversion, "textual_inversion", **quiet))
    with objective.backbone.as_image_model(), objective.model.adapter.acting(), torch.no_grad():
        example = objective.draw_example(generator_of(0, 1))
        embeds = objective.backbone.prompt_embeds(objective.prompt)
        loss = objective.loss(example, embeds)
        inside = example.mask > 0
        assert 0.1 < example.mask.mean() < 0.9
        noised = example.diffused
        for where, same in ((~inside, True), (inside, False)):
            target = noised.target + where
            other = dataclasses.replace(
                example, diffused=dataclasses.replace(noised, target=target)
            )
            assert torch.equal(objective.loss(other, embeds), loss) == same


def test_vectors_begin_as_the_noun_and_reduce_the_loss_of_the_same_sample(
    inversion: TrainJob,
) -> None:
    trainer, objective, adapter = new_trainer(inversion)
    encoder: Any = objective.backbone
    table = encoder.pipeline.text_encoder.get_input_embeddings().weight
    letters = encoder.pipeline.tokenizer("woman", add_special_tokens=False).input_ids
    assert torch.allclose(adapter.vectors, table[letters].mean(0).expand(4, -1))
    losses: list[float] = []
    for _ in range(3):
        losses.append(objective.backpropagate(1)["loss"])
        assert adapter.vectors.grad is not None
        assert (adapter.vectors.grad.abs().sum(1) > 0).all()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
    assert losses[0] > losses[1] > losses[2]
    assert trainer.backbone.num_frames == inversion.model.num_frames


def run(job: TrainJob, path: Path) -> RunFolder:
    folder = RunFolder(path)
    if not path.exists():
        folder.create()
    with EventWriter(folder.events) as events, Heartbeat(folder.status) as heartbeat:
        assert train(job, folder, events, heartbeat).state == State.FINISHED
    return folder


def test_resumed_run_equals_an_uninterrupted_one(inversion: TrainJob, tmp_path: Path) -> None:
    sampled = with_settings(inversion, "training", sample_every=2)
    whole = run(sampled, tmp_path / "whole")
    half = run(with_settings(sampled, "training", iterations=2), tmp_path / "half")
    run(sampled, half.path)
    ours, theirs = (each.latest_checkpoint() for each in (half, whole))
    assert ours and theirs
    assert (ours / ADAPTER_FILE).read_bytes() == (theirs / ADAPTER_FILE).read_bytes()
    vectors = load_file(ours / ADAPTER_FILE)["<v>"]
    assert vectors.shape == (4, 16)
    before = load_file(whole.checkpoints / "step-000002" / ADAPTER_FILE)["<v>"]
    assert not torch.equal(vectors, before)
    events, _ = read_records(whole.events)
    samples = [whole.path / event["path"] for event in events if event["type"] == "sample"]
    first, *_, last = (frames_of(file).astype(int) for file in samples)
    assert np.abs(last - first).mean() > 0.1


# The file


def test_file_has_one_tensor_and_says_how_to_use_it(inversion: TrainJob, tmp_path: Path) -> None:
    path = save_vectors(tmp_path / "ann.safetensors", inversion)
    with safe_open(path, "pt") as file:
        metadata, keys = file.metadata(), list(file.keys())
    assert keys == ["<v>"]
    assert metadata["format"] == "pv keyword vectors 1"
    assert AdapterMetadata.of(metadata).start == 0
    assert "embedding:FILE in place of <V>" in metadata["how_to_use"]
    assert not [key for key in metadata if "comfyui" in key]


def test_other_widths_adapters_and_strengths_are_refused(
    inversion: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    path = save_vectors(tmp_path / "ann.safetensors", inversion)
    backbone = load_backbone(inversion.model, inversion.sampler, (), keep_text_encoder=True)
    encoder, layout = backbone.prompt_encoder, backbone.lora_layout
    assert encoder
    with pytest.raises(UsageError, match=r"no strength, but 0\.5 was given"):
        load_vectors(path, encoder, layout).set_strength(0.5)
    narrow: Any = backbone
    narrow.pipeline.text_encoder.set_input_embeddings(torch.nn.Embedding(84, 12))
    with pytest.raises(InputRefused, match="vectors are 4 × 16, not 4 × 12"):
        load_vectors(path, type(encoder)(narrow.pipeline), layout)
    with pytest.raises(InputRefused, match="not an adapter file"):
        load_vectors(adapters["zero"], encoder, layout)


# Rendering


def test_clip_equals_that_of_diffusers_with_the_exported_file(
    run: Engine, inversion: TrainJob, tmp_path: Path
) -> None:
    file = save_vectors(tmp_path / "ann.safetensors", inversion)
    png = EncodingConfig(formats=("png",))
    wanted = render_job(inversion, item(tmp_path / "out/clip", seed=7, adapter=file), encoding=png)
    assert run(wanted).status == 0
    ours = frames_of(tmp_path / "out/clip")
    pipeline: Any = AnimateDiffPipeline.from_pretrained(inversion.model.base_model)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion(file)
    theirs = pipeline_call(pipeline, inversion, PROMPT.replace("<V>", "<v>"), output_type="pt")
    assert (ours == to_pixels(theirs[0])).all()
    plain = pipeline_call(pipeline, inversion, PROMPT.replace("<V>", "v"), output_type="pt")
    assert (ours != to_pixels(plain[0])).any()


def test_clips_of_a_lora_and_of_vectors_do_not_affect_each_other(
    run: Engine, inversion: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    files = {
        "vectors": save_vectors(tmp_path / "b.safetensors", inversion),
        "lora": adapters["strong"],
        "fewer": save_vectors(tmp_path / "a.safetensors", inversion, count=2),
        "base": "",
    }
    items = [item(tmp_path / f"all/{name}", adapter=file) for name, file in files.items()]
    walking = item(tmp_path / "all/walking", adapter=files["lora"], prompt="a <V> woman walking")
    assert run(render_job(inversion, walking, *items)).status == 0
    together = {name: frames_of(tmp_path / f"all/{name}.mp4") for name in files}
    assert len({frames.tobytes() for frames in together.values()}) == 4
    for name in ("vectors", "lora"):
        alone = item(tmp_path / f"{name}/alone", adapter=files[name])
        assert run(render_job(inversion, alone)).status == 0
        assert (frames_of(tmp_path / f"{name}/alone.mp4") == together[name]).all()


# Settings and limits


def test_other_families_refuse_the_objective(job: TrainJob) -> None:
    table = to_table(inversion_job(job))
    table["model"]["family"] = "wan"
    with pytest.raises(SettingsError, match="textual-inversion, which is not for wan, only for"):
        from_table(TrainJob, table)


def test_the_token_limit_counts_the_vectors(inversion: TrainJob) -> None:
    extended: Any = load_backbone(inversion.model, inversion.sampler, (), keep_text_encoder=True)
    tokenizer = extended.pipeline.tokenizer
    tokenizer.add_tokens(TOKENS)

    def fits(prompt: str) -> bool:
        """Return whether no part is cut off, by the tokens that diffusers counts."""
        return len(tokenizer(prompt.replace("<V>", " ".join(TOKENS))).input_ids) <= 40

    for prompt in ("a <V> x", "<V>'s <V>, (<V>)"):
        lengths = range(20, 40)
        for text in (f"{prompt} {'b' * length}" for length in lengths):
            cuts = check_prompts_fit(inversion.model, [text], vectors=4)
            assert (not cuts) == fits(text), text
    text = "b" * 33 + " <V>"
    assert check_prompts_fit(inversion.model, [text]) == []
    with pytest.raises(BadPrompt, match="keyword <V> is cut off"):
        check_prompts_fit(inversion.model, ["b" * 35 + " <V>"], vectors=4)
