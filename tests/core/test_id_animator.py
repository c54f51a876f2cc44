"""ID-Animator: its checkpoint in diffusers' IP-Adapter, against the published formulas."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from pvtool_core.errors import InputRefused
from pvtool_core.methods import EncoderMethod, load_method
from pvtool_core.models.fingerprints import method_fingerprint
from pvtool_core.settings.jobs import Setup, TrainJob
from pvtool_core.settings.schema import MethodConfig
from pvtool_core.store.events import ignore
from pvtool_core.store.reference_files import ReferenceFiles, reference_files
from tests.support.small_methods import (
    QUERIES,
    PublishedResampler,
    random_checkpoint,
    save_id_animator,
)

PROMPT = "a <V> woman waving"


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> MethodConfig:
    return save_id_animator(tmp_path_factory.mktemp("methods") / "id-animator")


@pytest.fixture
def reference(models: Path) -> ReferenceFiles:
    return reference_files(models / "identity")


def loaded(job: TrainJob, method: MethodConfig, **changes: Any) -> EncoderMethod:
    sampler = dataclasses.replace(job.sampler, num_inference_steps=3, **changes)
    setup = Setup(model=job.model, sampler=sampler, method=method)
    return load_method(setup, [PROMPT], ignore)


class PublishedAttention(nn.Module):
    """Cross-attention of ID-Animator, written from its formula; the text ends with face tokens."""

    def __init__(self, weights: dict[str, Tensor], scale: float) -> None:
        super().__init__()
        self._weights, self._scale = weights, scale

    def _lora(self, x: Tensor, part: str) -> Tensor:
        down, up = (self._weights[f"to_{part}_lora.{kind}.weight"] for kind in ("down", "up"))
        return x @ down.T @ up.T

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
    ) -> Tensor:
        text, face = encoder_hidden_states[:, :-QUERIES], encoder_hidden_states[:, -QUERIES:]
        query = attn.to_q(hidden_states) + self._lora(hidden_states, "q")
        key = attn.to_k(text) + self._lora(text, "k")
        value = attn.to_v(text) + self._lora(text, "v")
        words = attended(attn.heads, query, key, value)
        faces = attended(
            attn.heads,
            query,
            face @ self._weights["to_k_face.weight"].T,
            face @ self._weights["to_v_face.weight"].T,
        )
        both = words + self._scale * faces
        return attn.to_out[0](both) + self._lora(both, "out")


def attended(heads: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(q k / √d) v for each head."""
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key, value))
    scores = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
    return (scores @ v).transpose(1, 2).flatten(2)


def published(job: TrainJob, method: MethodConfig, crops: list[Path], guidance: float) -> Tensor:
    """Return the latents of a clip as the published code computes them, on diffusers' pipeline."""
    state = random_checkpoint(torch.Generator().manual_seed(5))
    parts = {
        name.partition(".")[2]: tensor
        for name, tensor in state.items()
        if name.startswith("image_proj_model.")
    }
    resampler = PublishedResampler(parts)
    encoder: Any = CLIPVisionModelWithProjection.from_pretrained(method.image_encoder)
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)

    def tokens(pixels: Tensor) -> Tensor:
        return resampler(encoder(pixels, output_hidden_states=True).hidden_states[-2])

    images = [Image.open(crop).resize((224, 224)) for crop in crops]
    pixels = [processor(images=image, return_tensors="pt").pixel_values for image in images]
    face = torch.stack([tokens(each) for each in pixels]).mean(0)
    black = tokens(torch.zeros_like(pixels[0]))
    pipeline: Any = AnimateDiffPipeline.from_pretrained(job.model.base_model)
    pipeline.set_progress_bar_config(disable=True)
    names = [name for name in pipeline.unet.attn_processors if "attn2" in name]
    spatial = [name for name in names if "motion_modules" not in name]
    processors = dict(pipeline.unet.attn_processors)
    for number, name in enumerate(spatial):
        key = f"adapter_modules.{2 * number + 1}."
        own = {part.removeprefix(key): each for part, each in state.items() if part.startswith(key)}
        processors[name] = PublishedAttention(own, method.scale)
    pipeline.unet.set_attn_processor(processors)
    positive, negative = pipeline.encode_prompt(PROMPT, torch.device("cpu"), 1, True, "ugly")
    return pipeline(
        prompt_embeds=torch.cat([positive, face], 1),
        negative_prompt_embeds=torch.cat([negative, black], 1),
        num_frames=job.model.num_frames,
        height=job.model.height,
        width=job.model.width,
        num_inference_steps=3,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
    ).frames


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_converted_checkpoint_renders_what_the_published_formulas_give(
    job: TrainJob, method: MethodConfig, models: Path, tmp_path: Path, guidance: float
) -> None:
    crops = [models / "identity/faces/000.png", tmp_path / "001.png"]
    pixels = np.random.default_rng(1).integers(0, 255, (112, 112, 3), np.uint8)
    Image.fromarray(pixels).save(crops[1])
    ours = loaded(job, method, guidance_scale=guidance, negative_prompt="ugly")
    found = ours.render(PROMPT, 7, ReferenceFiles((), tuple(crops)))
    expected = published(job, method, crops, guidance)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_photos_change_the_clip_and_equal_requests_give_equal_clips(
    job: TrainJob, method: MethodConfig, reference: ReferenceFiles, tmp_path: Path
) -> None:
    Image.new("RGB", (112, 112), "red").save(tmp_path / "000.png")
    other = ReferenceFiles((), (tmp_path / "000.png",))
    ours = loaded(job, method)
    first, second, again = (ours.render(PROMPT, 7, each) for each in (reference, other, reference))
    assert torch.equal(first, again)
    assert not torch.allclose(first, second, atol=1e-3)
    frames = ours.decode(first)
    assert frames.shape == (job.model.num_frames, 3, job.model.height, job.model.width)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ({"image_proj_model.latents": None}, "does not fit the base model"),
        ({"adapter_modules.7.to_q_lora.up.weight": None}, "has no to_q_lora.up.weight"),
        ({"adapter_modules.7.to_k_face.weight": torch.zeros(3, 3)}, "does not fit the base model"),
        ({"adapter_modules.7.to_q_lora.up.weight": torch.zeros(3, 2)}, "does not fit the layer"),
    ],
    ids=["resampler", "LoRA", "face branch", "width"],
)
def test_other_checkpoint_is_refused(
    job: TrainJob,
    method: MethodConfig,
    tmp_path: Path,
    broken: dict[str, Tensor | None],
    problem: str,
) -> None:
    state = {**random_checkpoint(torch.Generator().manual_seed(5)), **broken}
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    torch.save(kept, tmp_path / "animator.ckpt")
    wrong = dataclasses.replace(method, weights=str(tmp_path / "animator.ckpt"))
    with pytest.raises(InputRefused, match=problem):
        loaded(job, wrong)


def test_weights_that_changed_since_the_job_was_created_are_refused(
    job: TrainJob, method: MethodConfig
) -> None:
    recorded = dataclasses.replace(method, fingerprint=method_fingerprint(method))
    loaded(job, recorded)
    with pytest.raises(InputRefused, match="not those that this job was created for"):
        loaded(job, dataclasses.replace(recorded, fingerprint="0123"))


def test_checkpoint_for_fewer_layers_and_one_with_code_are_refused(
    job: TrainJob, method: MethodConfig, tmp_path: Path
) -> None:
    state = random_checkpoint(torch.Generator().manual_seed(5))
    wrong = dataclasses.replace(method, weights=str(tmp_path / "animator.ckpt"))
    fewer = {name: each for name, each in state.items() if "adapter_modules.7." not in name}
    torch.save(fewer, tmp_path / "animator.ckpt")
    with pytest.raises(InputRefused, match="3 cross-attention layers, but the UNet has 4"):
        loaded(job, wrong)
    torch.save({"state_dict": state, "trainer": print}, tmp_path / "animator.ckpt")
    with pytest.raises(InputRefused, match="contains code"):
        loaded(job, wrong)
