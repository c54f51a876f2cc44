"""ConsisID: its pipeline with conditions of a photo, on random models of the very classes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline
from PIL import Image
from torch import Tensor, nn

from pvtool_core.errors import InputRefused, WeightsMissing
from pvtool_core.methods import EncoderMethod, load_method
from pvtool_core.methods.consisid_faces import PublishedFaceEncoder, fill_vision
from pvtool_core.models.base_models import check_base_model
from pvtool_core.models.prompt_limits import prompt_limits
from pvtool_core.settings.jobs import Setup
from pvtool_core.settings.schema import MethodConfig, ModelConfig, SamplerConfig
from pvtool_core.store.events import ignore
from pvtool_core.store.reference_files import ReferenceFiles
from tests.support.small_methods import RandomFaces, save_consisid, use_random_faces

PROMPT = "a <V> woman waving"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = tmp_path_factory.mktemp("consisid") / "pipeline"
    save_consisid(folder)
    return ModelConfig(
        family="consisid",
        base_model=str(folder),
        width=32,
        height=32,
        num_frames=9,
        device="cpu",
    )


@pytest.fixture
def reference(tmp_path: Path) -> ReferenceFiles:
    return photo_of(tmp_path / "one", "red")


def photo_of(folder: Path, colour: str) -> ReferenceFiles:
    folder.mkdir()
    Image.new("RGB", (40, 30), colour).save(folder / "000.png")
    return ReferenceFiles((folder / "000.png",), (folder / "000.png",))


def loaded(
    model: ModelConfig, monkeypatch: pytest.MonkeyPatch, guidance: float = 4.0
) -> EncoderMethod:
    use_random_faces(monkeypatch)
    sampler = SamplerConfig(num_inference_steps=3, guidance_scale=guidance, negative_prompt="ugly")
    setup = Setup(model=model, sampler=sampler, method=MethodConfig(name="consisid"))
    return load_method(setup, [PROMPT], ignore)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_clip_equals_that_of_diffusers_pipeline(
    model: ModelConfig,
    reference: ReferenceFiles,
    monkeypatch: pytest.MonkeyPatch,
    guidance: float,
) -> None:
    ours = loaded(model, monkeypatch, guidance)
    pipeline: Any = ConsisIDPipeline.from_pretrained(model.base_model)
    pipeline.set_progress_bar_config(disable=True)
    face = RandomFaces().encode("", Image.open(reference.photos[0]))
    expected: dict[str, Tensor] = {
        kind: pipeline(
            image=face.image,
            prompt=PROMPT,
            negative_prompt="ugly",
            height=32,
            width=32,
            num_frames=9,
            num_inference_steps=3,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(7),
            id_cond=face.identity,
            id_vit_hidden=list(face.states),
            kps_cond=face.landmarks,
            output_type=kind,
        ).frames
        for kind in ("latent", "pt")
    }
    latents = ours.render(PROMPT, 7, reference)
    assert torch.equal(latents, expected["latent"])
    assert torch.equal(ours.decode(latents), expected["pt"][0])
    assert ours.decode(latents).shape == (9, 3, 32, 32)


def test_offloaded_denoiser_renders_the_same_clip(
    model: ModelConfig, reference: ReferenceFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = loaded(model, monkeypatch).render(PROMPT, 7, reference)
    offloaded = loaded(dataclasses.replace(model, offload=True), monkeypatch)
    assert torch.equal(offloaded.render(PROMPT, 7, reference), plain)


def test_photo_changes_the_clip_and_an_identity_without_photos_is_refused(
    model: ModelConfig,
    reference: ReferenceFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = loaded(model, monkeypatch)
    first, again = (ours.render(PROMPT, 7, reference) for _ in range(2))
    assert torch.equal(first, again)
    other = photo_of(tmp_path / "other", "blue")
    assert not torch.allclose(first, ours.render(PROMPT, 7, other), atol=1e-4)
    with pytest.raises(InputRefused, match="No photos found"):
        ours.render(PROMPT, 7, dataclasses.replace(reference, photos=()))


def test_folder_is_a_known_pipeline_with_a_limit_for_prompts(model: ModelConfig) -> None:
    check_base_model(Path(model.base_model))
    limits = prompt_limits(model)
    assert limits
    assert limits.first.room == 225


@pytest.mark.parametrize(
    "error", [IndexError("list index out of range"), RuntimeError("facexlib align face fail")]
)
def test_photo_without_a_face_is_refused_by_name(error: Exception) -> None:
    def none(_: Any) -> Any:
        raise error

    with pytest.raises(InputRefused, match=r"no face in me\.png"):
        PublishedFaceEncoder(none).encode("me.png", Image.new("RGB", (9, 9)))


class Vision(nn.Module):
    """A vision tower with a rotary embedding, whose buffers published files also hold."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 3)
        self.register_buffer("freqs_cos", torch.zeros(4))


def test_vision_tower_is_read_without_the_text_tower_and_the_sizes_of_another_image(
    tmp_path: Path,
) -> None:
    file = tmp_path / "eva.pt"
    head, vision = nn.Linear(2, 3), Vision()
    weights = {f"visual.head.{name}": tensor for name, tensor in head.state_dict().items()}
    more = {"visual.freqs_cos": torch.ones(9), "text.bias": torch.ones(1)}
    torch.save({"module": {**weights, **more}}, file)
    fill_vision(vision, file)
    assert torch.equal(vision.head.weight, head.weight)
    torch.save({"visual.other": torch.ones(1)}, file)
    with pytest.raises(InputRefused, match=r"does not contain the weights of EVA-CLIP"):
        fill_vision(vision, file)
    with pytest.raises(WeightsMissing):
        fill_vision(vision, tmp_path / "missing.pt")
    assert np.isfinite(vision.head.weight.detach().numpy()).all()
