"""The interface of training objectives."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from pvtool_core.adapter import Adapter
from pvtool_core.backbones import Backbone, Frames, Latents
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.store.events import Report
from pvtool_core.trajectories import TrajectoryCache

FIRST_SEED = 1_000_000
"""First seed of training, far from the seeds of users: rendered clips are not trained on."""
_HALF_PRECISION_SCALE = 1024.0
"""Prevents underflow of small gradients in float16; a power of two is exact."""
Losses = Mapping[str, float | bool]
"""Numbers by name: the loss, its parts, and other measurements.

A bool is not shown as a curve.
"""


@dataclass
class AdaptedModel:
    """A base model with the adapter being trained, which is active in `steps`.

    `cache` has the latents at the first of these steps.
    """

    backbone: Backbone
    adapter: Adapter
    steps: range
    cache: TrajectoryCache

    @property
    def loss_scale(self) -> float:
        """Factor of the loss in the backward pass, which `unscale_gradients` reverses."""
        return _HALF_PRECISION_SCALE if self.backbone.dtype == torch.float16 else 1.0

    def unscale_gradients(self) -> None:
        """Divide the gradients of the adapter by `loss_scale`."""
        for weight in self.adapter.parameters():
            weight.grad = None if weight.grad is None else weight.grad / self.loss_scale

    @torch.no_grad()
    def whole_clip(self, latents: Latents) -> Frames:
        """Decode every frame of a clip."""
        return self.backbone.decode(latents, range(self.backbone.num_frames))


@runtime_checkable
class Objective(Protocol):
    """A training objective.

    The trainer owns optimizer, checkpoints and samples, and knows no loss by name.
    """

    @property
    def samples(self) -> Sequence[tuple[str, int]]:
        """Prompts and seeds of the clips that show the progress of a run, set by `prepare`."""
        ...

    @property
    def drawn(self) -> Mapping[str, Any]:
        """Return the inputs of the newest step: at least its `prompt` and `seed`."""
        ...

    def prepare(self) -> Iterator[None]:
        """Do all work before the first step, and report it as stages.

        Yields before each part of the work: the trainer may pause or stop there. Raises RunFailed
        if nothing is left to train on.
        """
        ...

    def backpropagate(self, step: int) -> Losses:
        """Add the gradient of iteration `step` to the adapter's weights, and return the losses.

        All randomness comes from `generator_of`, so that a resumed run takes the same steps. Losses
        and gradient may be NaN or infinite: the trainer handles that.
        """
        ...


@runtime_checkable
class MakeObjective(Protocol):
    """Constructor of an objective, which loads the models of this objective only."""

    def __call__(self, job: TrainJob, model: AdaptedModel, report: Report) -> Objective: ...


def bank_pairs(job: TrainJob) -> list[tuple[str, int]]:
    """Return the first `cached_pairs` pairs: all prompts with their first noise, then the second, …

    They do not depend on the job's seed or its identity, so runs share their trajectories.
    """
    count = len(job.prompts)
    pairs = [
        (job.prompts[i % count], FIRST_SEED + i)
        for i in range(count * job.training.seeds_per_prompt)
    ]
    return pairs[: job.training.cached_pairs or None]


def generator_of(seed: int, step: int) -> torch.Generator:
    """Return the random generator of one iteration, independent of other iterations."""
    digest = hashlib.sha256(f"{seed} {step}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7]))


def draw(count: int, generator: torch.Generator) -> int:
    """Return a random number from 0 to `count` - 1."""
    return int(torch.randint(count, (), generator=generator))
