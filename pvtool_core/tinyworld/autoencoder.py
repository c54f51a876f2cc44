"""Stage "vae": train an AutoencoderKL, 64 × 64 pictures to 16 × 16 latents of 8 channels.

Errors within faces have a larger weight.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Generator, Tensor
from torch.nn import functional

from pvtool_core.tinyworld.training import Losses, fit
from pvtool_core.tinyworld.world import draw_people, draw_scenes, still

BATCH = 8
FACE_WEIGHT = 3.0
AT_ONCE = 16
"""Pictures per pass. The activations then fit the CPU cache: 2.8 times as fast as 128 pictures."""


def train_autoencoder(work: Path, steps: int) -> AutoencoderKL:
    """Train or resume the autoencoder and return it with its scaling factor measured."""
    vae: AutoencoderKL = new_autoencoder().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    fit(
        "vae",
        work,
        vae,
        lambda generator: _losses(vae, generator),
        steps=steps,
        learning_rate=1.5e-3,
        ema=0.998,
    )
    vae.register_to_config(scaling_factor=measured_scaling_factor(vae))
    return vae


def new_autoencoder() -> AutoencoderKL:
    levels: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (16, 32, 32),
    }
    return AutoencoderKL(
        **levels,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


@torch.no_grad()
def encode(vae: Any, pictures: Tensor) -> Tensor:
    """Return latents `(n, 8, 16, 16)` of standard deviation about 1.

    `pictures` are `(n, 3, 64, 64)` in [0, 1].
    """
    parts = (pictures * 2 - 1).split(AT_ONCE)
    return (
        torch.cat([vae.encode(part).latent_dist.mean for part in parts]) * vae.config.scaling_factor
    )


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Return pictures `(n, 3, 64, 64)` in [0, 1] from latents of `encode`."""
    parts = (latents / vae.config.scaling_factor).split(AT_ONCE)
    return (torch.cat([vae.decode(part).sample for part in parts]) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def measured_scaling_factor(vae: Any) -> float:
    """Return 1 / the standard deviation of the latents, as in latent diffusion."""
    pictures, _ = _stills(128, Generator().manual_seed(1))
    return round(float(1 / vae.encode(pictures * 2 - 1).latent_dist.mean.std()), 4)


def _stills(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    frame = torch.randint(8, (count,), generator=generator)
    return still(draw_people(count, generator), draw_scenes(count, generator), frame)


def _losses(vae: Any, generator: Generator) -> Losses:
    """Return L1, MSE and gradient differences, weighted over the face, and a small KL term.

    The KL term keeps the latents bounded.
    """
    with torch.no_grad():
        pictures, landmarks = _stills(BATCH, generator)
    target, weight = pictures * 2 - 1, 1 + FACE_WEIGHT * face_mask(landmarks)
    posterior = vae.encode(target).latent_dist
    latents = posterior.mean + posterior.std * torch.randn(
        posterior.mean.shape, generator=generator
    )
    error = vae.decode(latents).sample - target
    edges = (error.diff(dim=-1) * weight[..., 1:]).abs().mean() + (
        error.diff(dim=-2) * weight[..., 1:, :]
    ).abs().mean()
    return {
        "l1": (error.abs() * weight).mean(),
        "mse": 0.3 * (error.square() * weight).mean(),
        "edges": 0.5 * edges,
        "kl": 2e-4 * posterior.kl().mean() / posterior.mean[0].numel(),
    }


def face_mask(landmarks: Tensor, size: int = 64) -> Tensor:
    """Return `(n, 1, size, size)`: 1 in a circle around the landmarks, falling to 0 outside.

    `landmarks` are `(n, 5, 2)` in pixels.
    """
    middle, axis = landmarks.mean(1), torch.arange(size) + 0.5
    distance = torch.hypot(
        axis.view(1, 1, -1) - middle[:, 0].view(-1, 1, 1),
        axis.view(1, -1, 1) - middle[:, 1].view(-1, 1, 1),
    )
    return ((20 * size / 64 - distance) / 4 + 0.5).clamp(0, 1).unsqueeze(1)


def psnr(pictures: Tensor, others: Tensor) -> float:
    """Return the peak signal-to-noise ratio in decibels of pictures in [0, 1]."""
    return float(-10 * torch.log10(functional.mse_loss(pictures, others)))
