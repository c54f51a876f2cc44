"""The denoising loop, with and without a gradient.

Only the active steps of the adapter carry a gradient, and they are the last ones: their input
latents do not depend on the adapter, so stopping there truncates nothing. Three methods propagate
the gradient of a loss on the final latents to the adapter. The first two give the gradient of the
paper; the third is cheaper and biased.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pvtool_core.adapter import Adapter, switch_step
from pvtool_core.backbones import Backbone, Embeds, Latents
from pvtool_core.errors import InputRefused, NotFinite, RunFailed
from pvtool_core.settings.jobs import ActiveSteps

Scalar = Float[Tensor, ""]
_LEVEL_TOLERANCE = 1e-6
"""Noise levels are float32; the user's number is rounded to fewer digits."""


def first_active_step(backbone: Backbone, active: ActiveSteps) -> int:
    """Return the first step in which an adapter is active.

    It is the fraction `start` of the steps or, with `start_sigma`, the first one whose noise level
    is not higher. Raises InputRefused if the levels of all steps are.
    """
    if not active.start_sigma:
        return switch_step(active.start, backbone.num_steps)
    levels = [backbone.noise_level(step) for step in range(backbone.num_steps)]
    for step, level in enumerate(levels):
        if level <= active.start_sigma + _LEVEL_TOLERANCE:
            return step
    raise InputRefused(
        f"No denoising step has a noise level of at most {active.start_sigma:g}; the last one has "
        f"{levels[-1]:.3g}.",
        "Use a higher start_sigma, or more steps.",
    )


@torch.no_grad()
def denoise(
    backbone: Backbone,
    latents: Latents,
    embeds: Embeds,
    steps: range,
    adapter: Adapter | None = None,
) -> Latents:
    """Return the latents after `steps`, with `adapter` active in all of them, or the base model's.

    Raises NotFinite if they contain NaN or infinity.
    """
    with adapter.acting() if adapter else nullcontext():
        for step in steps:
            latents = backbone.advance(latents, step, backbone.predict(latents, step, embeds))
    if not latents.isfinite().all():
        raise NotFinite("denoised latents")
    return latents


@dataclass(frozen=True)
class Rollout:
    """The active steps after a forward pass.

    `backward` takes the gradient with respect to `latents`, the final ones, and adds to the
    gradients of the adapter. `base_kl` is the distance of the predictions from the base model: the
    mean square over all values of the compared steps, weighted by position.
    """

    latents: Latents
    base_kl: Scalar
    backward: Callable[[Tensor], None]


@dataclass(frozen=True)
class BaseKl:
    """Penalty on the distance to the base model, added to the loss with `weight`.

    The base model is a constant. Each of `steps` costs one more forward pass; a single random one
    has the mean of all. `shares`, of any shape that broadcasts to the latents, weights each
    position.
    """

    weight: float
    steps: Sequence[int]
    shares: Tensor | float = 1.0


@dataclass(frozen=True)
class AdaptedSteps:
    """A model, a prompt and the active steps of the adapter: shared by the three methods."""

    backbone: Backbone
    adapter: Adapter
    embeds: Embeds
    steps: range
    base_kl: BaseKl | None = None

    def predict(self, latents: Latents, step: int) -> tuple[Latents, Scalar]:
        """Return the output of the adapted model, and the part of `base_kl` of this step."""
        output = self.backbone.predict(latents, step, self.embeds)
        if self.base_kl is None or step not in self.base_kl.steps:
            return output, latents.new_zeros(())
        with self.adapter.acting(False), torch.no_grad():
            base = self.backbone.predict(latents, step, self.embeds)
        strayed = self.base_kl.shares * (output - base).float().square()
        return output, strayed.mean() / len(self.base_kl.steps)

    def take(self, latents: Latents, step: int) -> tuple[Latents, Scalar]:
        """Return the next latents, and the part of `base_kl` of this step."""
        output, strayed = self.predict(latents, step)
        return self.backbone.advance(latents, step, output), strayed

    def push_back(
        self, result: Tensor, gradient: Tensor, strayed: Scalar, share: float = 1.0
    ) -> None:
        """Back-propagate `share` of the loss with the given gradient of `result`.

        All of `strayed` is back-propagated too.
        """
        loss = share * (result * gradient).sum()
        if self.base_kl:
            loss = loss + self.base_kl.weight * strayed
        loss.backward()


def rollout_in_memory(route: AdaptedSteps, latents: Latents) -> Rollout:
    """Roll out with `full`: keep the graph of all steps for back-propagation through time."""
    strayed = latents.new_zeros(())
    with route.adapter.acting():
        for step in route.steps:
            latents, part = route.take(latents, step)
            strayed = strayed + part

    def backward(gradient: Tensor) -> None:
        with route.adapter.acting():
            route.push_back(latents, gradient, strayed)

    return Rollout(latents.detach(), strayed.detach(), backward)


def rollout_replayed(route: AdaptedSteps, latents: Latents) -> Rollout:
    """Roll out with `replay`: run without a graph, then backwards one step at a time.

    Only one step's graph is in memory. The gradient is the same.
    """
    entering, final, strayed = _roll_out(route, latents)

    def backward(gradient: Tensor) -> None:
        with route.adapter.acting():
            for step in reversed(route.steps):
                start = entering[step].requires_grad_()
                after, part = route.take(start, step)
                route.push_back(after, gradient, part)
                gradient = _gradient_of(start)

    return Rollout(final, strayed, backward)


def rollout_stopped(
    route: AdaptedSteps, latents: Latents, drawn: Sequence[int] | None = None
) -> Rollout:
    """Roll out with `drtune`: no gradient through the model's input (Wu et al. 2024).

    Steps are then independent. The sampler is linear, x' = a x + b output: the gradient of the
    output of step k is b_k times the product of all later a. Only the steps in `drawn` are used,
    weighted so that their expectation is that of all; `base_kl` counts in those of its own steps
    that are among them. Raises RunFailed if the sampler clips its predictions.
    """
    entering, final, strayed = _roll_out(route, latents)
    weights = output_weights(route.backbone, route.steps)
    chosen = route.steps if drawn is None else drawn

    def backward(gradient: Tensor) -> None:
        with route.adapter.acting():
            for step in chosen:
                output, part = route.predict(entering[step], step)
                route.push_back(
                    output, weights[step] * gradient, part, share=len(route.steps) / len(chosen)
                )

    return Rollout(final, strayed, backward)


@torch.no_grad()
def _roll_out(route: AdaptedSteps, latents: Latents) -> tuple[dict[int, Latents], Latents, Scalar]:
    """Return the input latents of each step, the final latents and `base_kl`."""
    entering: dict[int, Latents] = {}
    strayed = latents.new_zeros(())
    with route.adapter.acting():
        for step in route.steps:
            entering[step] = latents.detach()
            latents, part = route.take(latents, step)
            strayed = strayed + part
    return entering, latents, strayed


def output_weights(backbone: Backbone, steps: range) -> dict[int, float]:
    """Return the weight of each step's output in the final latents, with fixed model inputs."""
    weights: dict[int, float] = {}
    onward = 1.0
    for step in reversed(steps):
        a, b = step_coefficients(backbone, step)
        weights[step] = b * onward
        onward *= a
    return weights


def step_coefficients(backbone: Backbone, step: int) -> tuple[float, float]:
    """Return a and b of x' = a x + b output, measured on the sampler.

    Raises RunFailed if it is not linear.
    """
    zero, one = (
        torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64),
        torch.ones(1, 1, 1, 1, 1, dtype=torch.float64),
    )
    a, b = float(backbone.advance(one, step, zero)), float(backbone.advance(zero, step, one))
    far = float(backbone.advance(1e3 * one, step, -1e3 * one))
    if abs(far - 1e3 * (a - b)) > 1e-6 * abs(far) + 1e-9:
        raise RunFailed(
            "This sampler clips its predictions, which the drtune gradient does not support.",
            "Use --set training.gradient=replay.",
        )
    return a, b


def _gradient_of(latents: Tensor) -> Tensor:
    assert latents.grad is not None, "back-propagation reaches the latents that entered the step"
    return latents.grad
