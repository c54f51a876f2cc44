"""The denoising loop, without a gradient and with one.

Only the adapter's steps ever carry a gradient, and they are the last ones: the latents that enter them do not depend
on the adapter, so stopping there truncates nothing. Three ways lead the gradient of a loss on the final latents back
to the adapter. The first two are the paper's gradient; the third is cheaper and biased.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pvtool_core.adapter import IdentityAdapter
from pvtool_core.backbones import Backbone, Embeds, Latents
from pvtool_core.errors import NotFinite, RunFailed

Scalar = Float[Tensor, ""]


@torch.no_grad()
def denoise(
    backbone: Backbone,
    latents: Latents,
    embeds: Embeds,
    steps: range,
    adapter: IdentityAdapter | None = None,
) -> Latents:
    """Latents after `steps`, in all of which `adapter` acts; without one, those of the base model.

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
    """The adapter's steps, gone through.

    `backward` takes the gradient with respect to `latents`, the final ones, and adds to the adapter's gradients.
    `base_kl` is how far the predictions strayed from the base model's: the mean square over all values of those steps
    in which they are compared, each place with its share.
    """

    latents: Latents
    base_kl: Scalar
    backward: Callable[[Tensor], None]


@dataclass(frozen=True)
class BaseKl:
    """Staying near the base model: joins the loss on the way, with `weight`, and the base counts as a constant.

    Each of `steps` costs one more forward pass whenever it is gone through; one drawn at random has the mean of all.
    `shares`, of any shape that goes with the latents, says how much each place counts.
    """

    weight: float
    steps: Sequence[int]
    shares: Tensor | float = 1.0


@dataclass(frozen=True)
class AdaptedSteps:
    """A model, a prompt, and the steps in which the adapter acts: what the three ways have in common."""

    backbone: Backbone
    adapter: IdentityAdapter
    embeds: Embeds
    steps: range
    base_kl: BaseKl | None = None

    def predict(self, latents: Latents, step: int) -> tuple[Latents, Scalar]:
        """The adapted model's output, and this step's part of `base_kl`."""
        output = self.backbone.predict(latents, step, self.embeds)
        if self.base_kl is None or step not in self.base_kl.steps:
            return output, latents.new_zeros(())
        with self.adapter.acting(False), torch.no_grad():
            base = self.backbone.predict(latents, step, self.embeds)
        strayed = self.base_kl.shares * (output - base).float().square()
        return output, strayed.mean() / len(self.base_kl.steps)

    def take(self, latents: Latents, step: int) -> tuple[Latents, Scalar]:
        """The next latents, and this step's part of `base_kl`."""
        output, strayed = self.predict(latents, step)
        return self.backbone.advance(latents, step, output), strayed

    def push_back(
        self, result: Tensor, gradient: Tensor, strayed: Scalar, share: float = 1.0
    ) -> None:
        """Back-propagate `share` of the loss whose gradient with respect to `result` is given, and all of `strayed`."""
        loss = share * (result * gradient).sum()
        if self.base_kl:
            loss = loss + self.base_kl.weight * strayed
        loss.backward()


def rollout_in_memory(route: AdaptedSteps, latents: Latents) -> Rollout:
    """`full`: keep the graph of all steps, as plain back-propagation through time does."""
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
    """`replay`: go through the steps without a graph, then backwards, one step's graph at a time; the same gradient."""
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
    """`drtune`: no gradient through the model's input (DRTune, Wu et al. 2024), so that the steps fall apart.

    The sampler is linear, x' = a x + b output: the gradient of step k's output is b_k times the product of all later a.
    Of the steps, only `drawn` are taken, weighted so that their expectation is that of all; `base_kl` counts in those
    of its own steps that are among them. Raises RunFailed if the sampler clips its predictions.
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
    """The latents that enter each step, the final ones, and `base_kl`."""
    entering: dict[int, Latents] = {}
    strayed = latents.new_zeros(())
    with route.adapter.acting():
        for step in route.steps:
            entering[step] = latents.detach()
            latents, part = route.take(latents, step)
            strayed = strayed + part
    return entering, latents, strayed


def output_weights(backbone: Backbone, steps: range) -> dict[int, float]:
    """How much each step's output counts in the final latents, all inputs of the model held fixed."""
    weights: dict[int, float] = {}
    onward = 1.0
    for step in reversed(steps):
        a, b = step_coefficients(backbone, step)
        weights[step] = b * onward
        onward *= a
    return weights


def step_coefficients(backbone: Backbone, step: int) -> tuple[float, float]:
    """a and b of x' = a x + b output, asked of the sampler itself. Raises RunFailed if it is not linear."""
    zero, one = (
        torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64),
        torch.ones(1, 1, 1, 1, 1, dtype=torch.float64),
    )
    a, b = float(backbone.advance(one, step, zero)), float(backbone.advance(zero, step, one))
    far = float(backbone.advance(1e3 * one, step, -1e3 * one))
    if abs(far - 1e3 * (a - b)) > 1e-6 * abs(far) + 1e-9:
        raise RunFailed(
            "This model's sampler clips its predictions, which the drtune gradient cannot account for.",
            "Use --set training.gradient=replay.",
        )
    return a, b


def _gradient_of(latents: Tensor) -> Tensor:
    assert latents.grad is not None, "back-propagation reaches the latents that entered the step"
    return latents.grad
