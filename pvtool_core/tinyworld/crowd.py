"""Thousands of people, each in several views: drawn, reconstructed by the autoencoder, denoised.

The detector and the recognisers are trained on all three, so that a score cannot rise because of
features that only drawings have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from pvtool_core.tinyworld.autoencoder import AT_ONCE, decode, encode
from pvtool_core.tinyworld.generator import new_scheduler
from pvtool_core.tinyworld.image_text import tokenized
from pvtool_core.tinyworld.styles import PLAIN, Style
from pvtool_core.tinyworld.world import People, captions, draw_people, draw_scenes, still

IDENTITIES = 4000
BATCH = 100
STEPS, LAST = 16, 4
"""The generator denoises a noised drawing in the last 4 of 16 steps."""

Looks = Callable[[People, Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Crowd:
    """Frames `(identities, views, 3, side, side)` as bytes and their landmarks.

    Landmarks are `(identities, views, 5, 2)` in pixels.
    """

    frames: Tensor
    landmarks: Tensor


def crowd_of(work: Path, name: str, views: int, looks: Looks) -> Crowd:
    """Return `views` pictures of 4000 identities, made by `looks` or loaded from `work`."""
    path = work / f"crowd-{name}.pt"
    if not path.is_file():
        people = draw_people(IDENTITIES, Generator().manual_seed(3_000_000))
        frames: list[Tensor] = []
        landmarks: list[Tensor] = []
        for start in range(0, IDENTITIES, BATCH):
            generator = Generator().manual_seed(int.from_bytes(name.encode()[:4], "big") + start)
            seen = [looks(people[slice(start, start + BATCH)], generator) for _ in range(views)]
            frames.append(torch.stack([(pictures * 255).round().byte() for pictures, _ in seen], 1))
            landmarks.append(torch.stack([points for _, points in seen], 1))
        partial = path.with_suffix(".partial")
        torch.save({"frames": torch.cat(frames), "landmarks": torch.cat(landmarks)}, partial)
        partial.replace(path)
    return Crowd(**torch.load(path, weights_only=True, mmap=True))


def drawn(size: int, style: Style = PLAIN) -> Looks:
    """Return a function that draws people, `size` pixels wide."""

    def looks(people: People, generator: Generator) -> tuple[Tensor, Tensor]:
        scenes = draw_scenes(len(people), generator)
        frame = torch.randint(8, (len(people),), generator=generator)
        return still(people, scenes, frame, size=size, style=style)

    return looks


def reconstructed(vae: AutoencoderKL, style: Style = PLAIN) -> Looks:
    """Return a function that draws people and passes them through the autoencoder."""

    def looks(people: People, generator: Generator) -> tuple[Tensor, Tensor]:
        pictures, landmarks = drawn(64, style)(people, generator)
        return decode(vae, encode(vae, pictures)), landmarks

    return looks


def denoised(
    vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel, tokenizer: CLIPTokenizer
) -> Looks:
    """Return a function that noises drawings and denoises them in the last one to four steps."""
    scheduler: Any = new_scheduler()
    scheduler.set_timesteps(STEPS)

    @torch.no_grad()
    def looks(people: People, generator: Generator) -> tuple[Tensor, Tensor]:
        scenes = draw_scenes(len(people), generator)
        frame = torch.randint(8, (len(people),), generator=generator)
        pictures, landmarks = still(people, scenes, frame)
        states = text(tokenized(tokenizer, captions(people, scenes, generator))).last_hidden_state
        latents = encode(vae, pictures)
        first = STEPS - int(torch.randint(1, LAST + 1, (), generator=generator))
        noise = torch.randn(latents.shape, generator=generator)
        latents = scheduler.add_noise(latents, noise, scheduler.timesteps[first : first + 1])
        for t in scheduler.timesteps[first:]:
            parts = zip(latents.split(AT_ONCE), states.split(AT_ONCE), strict=True)
            velocity = torch.cat(
                [unet(part, t, encoder_hidden_states=words).sample for part, words in parts]
            )
            latents = scheduler.step(velocity, t, latents).prev_sample
        return decode(vae, latents), landmarks

    return looks
