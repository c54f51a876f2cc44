"""Stage "style_scores": measure how posters are judged, and how much style generated clips have.

The judges were trained on plain drawings only. Their scores of posters are the ceiling for clips of
the styled generator.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Generator, Tensor
from torch.nn import functional

from pvtool_core.backbones.animatediff import AnimateDiff
from pvtool_core.faces.analyzer import load_recognizer
from pvtool_core.models.locate import locate_model
from pvtool_core.sampling import denoise
from pvtool_core.settings.presets import Presets
from pvtool_core.settings.schema import LoraConfig, ModelConfig
from pvtool_core.tinyworld.autoencoder import decode, encode, psnr
from pvtool_core.tinyworld.crowd import drawn, reconstructed
from pvtool_core.tinyworld.image_text import accuracy, new_tokenizer, right_words
from pvtool_core.tinyworld.measure import PEOPLE, SEED, detection, faces_found, verification
from pvtool_core.tinyworld.pictures import draw_stills
from pvtool_core.tinyworld.styles import PLAIN, POSTER
from pvtool_core.tinyworld.world import (
    BACKGROUNDS,
    CLOTHES,
    People,
    Scenes,
    captions,
    clip,
    draw_people,
    draw_scenes,
)

CLIPS = 24
FRAMES = (0, 2, 4, 6)
"""Frames of each clip for the detector and the image-text model."""


def measure_style(out: Path, styled: Path, lora: Path) -> dict[str, Any]:
    """Measure drawings and clips of the base model, with the LoRA and of the styled generator.

    Writes `style_scores.json`.
    """
    vae: Any = AutoencoderKL.from_pretrained(
        out / "animatediff/vae", torch_dtype=torch.float32, local_files_only=True
    )
    people, scenes = balanced()
    ends = [_reconstructed(vae, clip(people, scenes, style=style)[0]) for style in (PLAIN, POSTER)]
    base = locate_model(Presets().get("tiny").settings().model)
    models = {
        "base": base,
        "lora 0.5": _with(base, lora, 0.5),
        "lora 1": _with(base, lora, 1.0),
        "styled": dataclasses.replace(base, base_model=str(styled)),
    }
    clips = {name: generated(model, people, scenes) for name, model in models.items()}
    scores = {
        "posters": of_drawings(out, vae),
        "clips": {
            name: of_clips(out, pictures, people, scenes, ends) for name, pictures in clips.items()
        },
    }
    rounded = json.loads(json.dumps(scores), parse_float=lambda text: round(float(text), 4))
    (out / "style_scores.json").write_text(json.dumps(rounded, indent=2) + "\n")
    return rounded


def _with(base: ModelConfig, lora: Path, weight: float) -> ModelConfig:
    return dataclasses.replace(base, loras=(LoraConfig(file=str(lora), weight=weight),))


def balanced() -> tuple[People, Scenes]:
    """Return random people in scenes with each background and each clothes equally often."""
    generator, index = Generator().manual_seed(SEED), torch.arange(CLIPS)
    people, scenes = draw_people(CLIPS, generator), draw_scenes(CLIPS, generator)
    scenes.background.copy_(index % len(BACKGROUNDS))
    scenes.clothes.copy_((index + index // len(BACKGROUNDS)) % len(CLOTHES))
    return people, scenes


def _reconstructed(vae: Any, clips: Tensor) -> Tensor:
    return decode(vae, encode(vae, clips.flatten(0, 1))).unflatten(0, clips.shape[:2])


@torch.no_grad()
def generated(model: ModelConfig, people: People, scenes: Scenes) -> Tensor:
    """Return clips `(scenes, frames, 3, 64, 64)` in [0, 1] of the prompts of the scenes."""
    prompts = captions(people, scenes, Generator().manual_seed(SEED), keyword=1)
    backbone = AnimateDiff(model, Presets().get("tiny").settings().sampler, prompts)
    clips: list[Tensor] = []
    for seed, prompt in enumerate(prompts):
        noise, embeds = backbone.initial_latents(SEED + seed), backbone.prompt_embeds(prompt)
        latents = denoise(backbone, noise, embeds, range(backbone.num_steps))
        clips.append(backbone.decode(latents, range(backbone.num_frames)))
    return torch.stack(clips)


def of_drawings(out: Path, vae: Any) -> dict[str, Any]:
    """Return the scores of posters by the judges, and the error of the autoencoder."""
    _, _, pictures, _ = draw_stills(PEOPLE, Generator().manual_seed(SEED), style=POSTER)
    looks = {"drawn": drawn(64, POSTER), "recon": reconstructed(vae, POSTER)}
    tokenizer = new_tokenizer(out / "clip")
    return {
        "psnr": psnr(decode(vae, encode(vae, pictures)), pictures),
        "detector": {name: detection(out / "faces", look) for name, look in looks.items()},
        **{
            recognizer: {
                name: verification(
                    load_recognizer(out / f"faces/{recognizer}.onnx"), drawn(64), look
                )
                for name, look in looks.items()
            }
            for recognizer in ("rec_reward", "rec_metric")
        },
        **{
            name: accuracy(image_text(out / name), tokenizer, style=POSTER)
            for name in ("clip", "judge")
        },
    }


def image_text(folder: Path) -> Any:
    return open_clip.create_model(f"local-dir:{folder}").eval()


def of_clips(
    out: Path, clips: Tensor, people: People, scenes: Scenes, ends: list[Tensor]
) -> dict[str, Any]:
    """Return the style, the fraction of frames with one face, and the right words by the judge.

    `paper` and `outlines` are 0 for plain drawings and 1 for posters of the same scenes (`ends`).
    """
    chosen = clips[:, FRAMES]
    index = torch.arange(len(clips)).repeat_interleave(len(FRAMES))
    model, tokenizer = image_text(out / "judge"), new_tokenizer(out / "clip")
    return {
        "paper": paper(clips, scenes, ends),
        "outlines": _position(*(outlines(each).mean().view(1) for each in (clips, *ends))),
        "one_face": faces_found(out / "faces", chosen.flatten(0, 1)),
        "judge": right_words(model, tokenizer, chosen.flatten(0, 1), people[index], scenes[index]),
    }


def paper(clips: Tensor, scenes: Scenes, ends: list[Tensor]) -> float:
    """Return how far the colours of the upper corners have moved from plain to poster.

    The mean over backgrounds of a fraction, each by the mean colour of all its frames.
    """
    fractions: list[float] = []
    for background in range(len(BACKGROUNDS)):
        shown = scenes.background == background
        colours = [_corners(each[shown]) for each in (clips, *ends)]
        fractions.append(_position(*colours))
    return sum(fractions) / len(fractions)


def _corners(clips: Tensor) -> Tensor:
    corners = torch.cat([clips[..., :10, :10], clips[..., :10, -10:]], -1)
    return corners.mean((0, 1, 3, 4))


def outlines(clips: Tensor) -> Tensor:
    """Return how much darker each pixel is than all its surroundings: thin dark lines.

    The difference of the morphological closing of the luminance by 5 × 5 pixels, and of itself.
    """
    grey = clips.flatten(0, 1).mean(1, keepdim=True)
    closed = -functional.max_pool2d(-functional.max_pool2d(grey, 5, 1, 2), 5, 1, 2)
    return closed - grey


def _position(value: Tensor, start: Tensor, end: Tensor) -> float:
    """Return the position of `value` on the line from `start`, 0, to `end`, 1."""
    return float(((value - start) * (end - start)).sum() / (end - start).square().sum())
