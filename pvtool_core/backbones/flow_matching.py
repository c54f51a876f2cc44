"""Flow matching: Euler steps from noise to clip, the sampler of large video transformers.

The scheduler of diffusers counts its own steps; here a step is a function of its number, so that
any can be repeated.
"""

from collections.abc import Sequence
from typing import Any

import torch

from pvtool_core.backbones.interface import Diffused, Latents, described_sampler


def euler_step(scheduler: Any, latents: Latents, step: int, output: Latents) -> Latents:
    """Return the step of `FlowMatchEulerDiscreteScheduler.step`, bit for bit.

    x' = x + (σ' − σ) output, computed in float32 or better, in the type of the output. The
    stochastic variant is not supported.
    """
    change = (scheduler.sigmas[step + 1] - scheduler.sigmas[step]).to(latents.device)
    exact = latents.to(torch.promote_types(latents.dtype, torch.float32))
    return (exact + change * output).to(output.dtype)


def diffused_by_flow(scheduler: Any, latents: Latents, noise: Latents, level: float) -> Diffused:
    """Return `Backbone.diffuse` for `FlowMatchEulerDiscreteScheduler`.

    It equals the scheduler's `set_timesteps(sigmas=[level])` and `scale_noise`, and changes no
    state of the scheduler.
    """
    shift, drawn = scheduler.shift, torch.tensor([level], device=latents.device)
    sigma = shift * drawn / (1 + (shift - 1) * drawn)
    timestep = sigma * scheduler.config.num_train_timesteps
    sigma = sigma.to(latents.dtype).view(-1, 1, 1, 1, 1)
    return Diffused(sigma * noise + (1.0 - sigma) * latents, timestep, noise - latents)


def flow_sampler_facts(scheduler: Any, sigmas: Sequence[float], rule: str) -> dict[str, Any]:
    """Return `Backbone.sampler_facts` for Euler's method.

    `sigmas` is the argument of the scheduler's `set_timesteps`: one level for each of the n steps,
    before the shift. `rule` says how they are computed for another number of steps. `noise_levels`
    are the n + 1 levels after the shift.
    """
    return {
        **described_sampler(scheduler),
        "sigmas": [float(sigma) for sigma in sigmas],
        "sigmas_rule": f"{rule}, for n steps, before the shift; given to set_timesteps(sigmas=...)",
        "noise_levels": [float(sigma) for sigma in scheduler.sigmas],
    }
