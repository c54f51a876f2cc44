"""An objective that turns clips grey."""

from collections.abc import Iterator

import torch

from pvtool_core.objectives.objective import AdaptedModel, Losses, draw, generator_of
from pvtool_core.sampling import AdaptedSteps, rollout_in_memory
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.store.events import Report, StageEvent


class Grey:
    """Mean squared distance of the first frame from grey."""

    def __init__(self, job: TrainJob, model: AdaptedModel, report: Report) -> None:
        self.job, self.model, self.report = job, model, report
        self.samples = [(prompt, 0) for prompt in job.prompts]
        self.drawn: dict[str, str | int] = {}

    def prepare(self) -> Iterator[None]:
        """Fill the trajectory cache."""
        for done, (prompt, seed) in enumerate(self.samples, 1):
            yield
            self.model.cache.switch(prompt, seed)
            self.report(StageEvent(stage="caching", done=done, total=len(self.samples)))

    def backpropagate(self, step: int) -> Losses:
        """Leave the gradient of one prompt's clip in the adapter."""
        model = self.model
        number = draw(len(self.samples), generator_of(self.job.training.seed, step))
        prompt, seed = self.samples[number]
        self.drawn = {"prompt": prompt, "seed": seed}
        embeds = model.backbone.prompt_embeds(prompt)
        route = AdaptedSteps(model.backbone, model.adapter, embeds, model.steps)
        tail = rollout_in_memory(route, model.cache.switch(prompt, seed))
        latents = tail.latents.requires_grad_()
        frame = model.backbone.decode(latents, [0])
        loss = (frame - 0.5).square().mean()
        (gradient,) = torch.autograd.grad(loss, latents)
        tail.backward(gradient)
        return {
            "loss": loss.item(),
            "brightness": frame.mean().item(),
            "darkest": frame.min().item(),
        }
