"""Flow matching: Euler steps on the straight way from noise to clip, as the large transformers are sampled.

diffusers' scheduler counts its own steps; here a step is a function of its number, so that any can be taken again.
"""

from typing import Any

import torch

from pvtool_core.backbones.interface import Latents


def euler_step(scheduler: Any, latents: Latents, step: int, output: Latents) -> Latents:
    """The step that `FlowMatchEulerDiscreteScheduler.step` takes, to the bit: x' = x + (σ' − σ) output.

    The sum is taken in float32 or better and has the output's type, as there. Its random variant is not meant.
    """
    change = (scheduler.sigmas[step + 1] - scheduler.sigmas[step]).to(latents.device)
    exact = latents.to(torch.promote_types(latents.dtype, torch.float32))
    return (exact + change * output).to(output.dtype)
