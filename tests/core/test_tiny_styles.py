"""The second style of the tiny world: its drawings, its LoRA, and a base model trained on it."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from pvtool_core.backbones.animatediff import AnimateDiff
from pvtool_core.faces.analyzer import FaceAnalyzer
from pvtool_core.models.locate import locate_model
from pvtool_core.paths import presets_dir
from pvtool_core.sampling import denoise
from pvtool_core.settings.presets import Presets
from pvtool_core.settings.schema import LoraConfig, ModelConfig, SamplerConfig
from pvtool_core.tinyworld.restyling import Restyling
from pvtool_core.tinyworld.style_scores import outlines
from pvtool_core.tinyworld.styles import INK, PLAIN, POSTER, Style
from pvtool_core.tinyworld.world import draw_people, draw_scenes, still

TINY = presets_dir() / "tiny"
LORA = TINY / "styles/poster.safetensors"
UNET = "unet/diffusion_pytorch_model.safetensors"
PROMPT = "a <V> man in a red sweater nodding on a beach, smiling"


def drawn(style: Style, size: int = 64) -> tuple[Tensor, Tensor]:
    people = draw_people(6, torch.Generator().manual_seed(9_700_000))
    scenes = draw_scenes(6, torch.Generator().manual_seed(1))
    return still(people, scenes, 2, size=size, style=style)


def inked(pictures: Tensor) -> float:
    """Return the fraction of pixels with the colour of outlines."""
    return float(((pictures - INK.view(3, 1, 1)).abs().amax(1) < 0.1).float().mean())


def test_a_poster_shows_the_same_people_and_the_detector_finds_their_faces() -> None:
    (plain, where), (poster, landmarks) = drawn(PLAIN), drawn(POSTER)
    assert torch.equal(poster, drawn(POSTER)[0])
    assert torch.equal(landmarks, where)
    assert inked(poster) > inked(plain) + 0.02
    analyzer = FaceAnalyzer(TINY / "faces", "det_tiny.onnx", (), 128, 0.5, threads=1)
    for picture, points in zip(poster, landmarks, strict=True):
        (face,) = analyzer.detect((picture.permute(1, 2, 0) * 255).round().byte().numpy())
        assert np.abs(face.landmarks - points.numpy()).max() < 4


def test_the_shipped_style_lora_fits_the_tiny_model_and_draws_outlines() -> None:
    settings = Presets().get("tiny").settings()
    base = dataclasses.replace(locate_model(settings.model), num_frames=2)
    styled = dataclasses.replace(base, loras=(LoraConfig(file=str(LORA)),))
    frames = [generated(model, settings.sampler) for model in (base, styled)]
    assert outlines(frames[1][None]).mean() > 1.2 * outlines(frames[0][None]).mean()
    assert LORA.stat().st_size < 2**20


def generated(model: ModelConfig, sampler: SamplerConfig) -> Tensor:
    backbone = AnimateDiff(model, sampler, [PROMPT])
    noise = backbone.initial_latents(3)
    latents = denoise(backbone, noise, backbone.prompt_embeds(PROMPT), range(backbone.num_steps))
    return backbone.decode(latents, range(model.num_frames)).detach()


def test_a_second_base_model_has_the_architecture_and_motion_modules_of_the_first(
    tmp_path: Path,
) -> None:
    poster = {"latents": torch.randn(2, 1, 8, 16, 16), "weights": torch.ones(2, 1, 1, 16, 16)}
    torch.save({**poster, "prompts": [PROMPT, ""]}, tmp_path / "poster-000.pt")
    Restyling(TINY / "animatediff", tmp_path, 1).save_styled(tmp_path / "styled", 2)
    first, second = (
        load_file(folder / UNET) for folder in (TINY / "animatediff", tmp_path / "styled")
    )
    assert {name: value.shape for name, value in first.items()} == {
        name: value.shape for name, value in second.items()
    }
    assert {name for name in first if "motion" in name} == {
        name for name in first if torch.equal(first[name], second[name])
    }
    shared = "vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "styled" / shared).read_bytes() == (
        TINY / "animatediff" / shared
    ).read_bytes()
