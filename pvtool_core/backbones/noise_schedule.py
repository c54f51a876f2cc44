"""Training examples by the noise schedule of Stable Diffusion, the forward process of DDPM."""

from typing import Any

import torch

from pvtool_core.backbones.interface import Diffused, Latents


def diffused_by_schedule(
    scheduler: Any, latents: Latents, noise: Latents, level: float
) -> Diffused:
    """Return `Backbone.diffuse` for a scheduler of Stable Diffusion.

    It equals the scheduler's `add_noise` and `get_velocity`, which would move its table of alphas
    to another device. Progressive distillation eq. 8 and appendix D define the velocity.
    """
    timestep = torch.tensor(
        [int(level * scheduler.config.num_train_timesteps)], device=latents.device
    )
    alphas = scheduler.alphas_cumprod.to(latents.device, latents.dtype)
    alpha = alphas[timestep].view(-1, 1, 1, 1, 1)
    signal, spread = alpha**0.5, (1 - alpha) ** 0.5
    targets = {
        "epsilon": noise,
        "v_prediction": signal * noise - spread * latents,
        "sample": latents,
    }
    return Diffused(
        latents=signal * latents + spread * noise,
        timestep=timestep,
        target=targets[scheduler.config.prediction_type],
    )
