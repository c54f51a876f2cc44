"""Flow matching: Euler steps on the straight way from noise to clip, as the large transformers are sampled.

diffusers' scheduler counts its own steps; here a step is a function of its number, so that any can be taken again.
"""

from collections.abc import Sequence
from typing import Any

import torch

from pvtool_core.backbones.interface import Latents, described_sampler


def euler_step(scheduler: Any, latents: Latents, step: int, output: Latents) -> Latents:
    """The step that `FlowMatchEulerDiscreteScheduler.step` takes, to the bit: x' = x + (σ' − σ) output.

    The sum is taken in float32 or better and has the output's type, as there. Its random variant is not meant.
    """
    change = (scheduler.sigmas[step + 1] - scheduler.sigmas[step]).to(latents.device)
    exact = latents.to(torch.promote_types(latents.dtype, torch.float32))
    return (exact + change * output).to(output.dtype)


def flow_sampler_facts(scheduler: Any, sigmas: Sequence[float], rule: str) -> dict[str, Any]:
    """Return what fulfils `Backbone.sampler_facts` for Euler's method.

    `sigmas` is what the scheduler's `set_timesteps` was given: one level for each of the n steps, before the shift.
    `rule` is how they are made for another number of steps. `noise_levels` are the n + 1 levels after the shift.
    """
    return {
        **described_sampler(scheduler),
        "sigmas": [float(sigma) for sigma in sigmas],
        "sigmas_rule": f"{rule}, for n steps, before the shift; given to set_timesteps(sigmas=...)",
        "noise_levels": [float(sigma) for sigma in scheduler.sigmas],
    }
