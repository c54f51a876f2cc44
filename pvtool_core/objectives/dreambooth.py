"""DreamBooth: reconstruction of the photos by the image model, the conventional baseline.

Ruiz et al. 2023 with a LoRA, as diffusers' training scripts compute it: a photo is encoded, noised
to a random level, and the denoiser predicts the noise or the velocity for "a photo of <V> man".
Optional prior preservation does the same with images that the model generated for the class.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional

from pvtool_core.backbones import Latents
from pvtool_core.objectives.objective import (
    FIRST_SEED,
    AdaptedModel,
    Losses,
    bank_pairs,
    draw,
    generator_of,
)
from pvtool_core.objectives.training_photos import read_training_photos
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.objectives import CLASS_PROMPT, INSTANCE_PROMPT
from pvtool_core.store.events import Report, StageEvent
from pvtool_core.store.prompts import fill


class DreamBooth:
    """Mean squared error of the denoiser on the photos, and optionally on images of the class."""

    def __init__(self, job: TrainJob, model: AdaptedModel, report: Report) -> None:
        (subject,) = job.subjects
        self.config, self.model, self._report = job.training, model, report
        self.prior = job.dreambooth
        self.instance_prompt, self.class_prompt = (
            fill(prompt, subject.identity.noun) for prompt in (INSTANCE_PROMPT, CLASS_PROMPT)
        )
        self.photos = read_training_photos(
            Path(subject.identity.folder),
            job.model.width,
            job.model.height,
            job.identity_reward.held_out_photos,
        )
        self.samples = bank_pairs(job)
        self.drawn = {"prompt": self.instance_prompt, "seed": job.training.seed}
        self.class_images: list[Latents] = []

    def prepare(self) -> Iterator[None]:
        """Generate the images of the class, if they are used, or read them from the cache."""
        self.class_images = []
        count = self.prior.prior_images if self.prior.prior_weight else 0
        cache = self.model.cache.of_image_model()
        for number in range(count):
            yield
            self.class_images.append(cache.final(self.class_prompt, FIRST_SEED + number))
            self._report(StageEvent(stage="caching", done=number + 1, total=count))

    def backpropagate(self, step: int) -> Losses:
        """Add the gradient for a random photo, and for a random image of the class if used."""
        generator = generator_of(self.config.seed, step)
        photo = self.photos[draw(len(self.photos), generator)]
        with self.model.backbone.as_image_model():
            latents = self.model.backbone.encode(photo.pixels, generator)
            instance = self.reconstruct(latents, self.instance_prompt, 1.0, generator)
            losses = {"loss": instance}
            if weight := self.prior.prior_weight:
                image = self.class_images[draw(len(self.class_images), generator)]
                prior = self.reconstruct(image, self.class_prompt, weight, generator)
                losses = {"loss": instance + weight * prior, "instance": instance, "prior": prior}
        self.model.unscale_gradients()
        return losses

    def reconstruct(
        self, latents: Latents, prompt: str, weight: float, generator: torch.Generator
    ) -> float:
        """Add the gradient of a weighted reconstruction loss, and return the loss.

        The level is uniform, as in the training scripts, which weight all levels equally.
        """
        backbone = self.model.backbone
        level = float(torch.rand((), generator=generator))
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        example = backbone.diffuse(latents, noise, level)
        with self.model.adapter.acting():
            predicted = backbone.predict_diffused(example, backbone.prompt_embeds(prompt))
            loss = functional.mse_loss(predicted.float(), example.target.float())
            (self.model.loss_scale * weight * loss).backward()
        return loss.item()
