"""Textual inversion, extended as in Magic-Me (Ma et al. 2024): several vectors, masked loss.

The frozen image model reconstructs the photos of the identity from a prompt in which learned
vectors stand for the keyword (Gal et al. 2022). The loss is that of diffusers'
examples/textual_inversion within the mask of the person. Magic-Me takes the mask of a segmentation
model; here it is the aligned face, enlarged to the head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from pvtool_core.backbones.interface import Diffused, Embeds
from pvtool_core.faces.analyzer import within_crop
from pvtool_core.objectives.objective import (
    AdaptedModel,
    Losses,
    bank_pairs,
    draw,
    generator_of,
)
from pvtool_core.objectives.training_photos import Photo, read_training_photos
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.objectives import INVERSION_PROMPT
from pvtool_core.store.events import Report
from pvtool_core.store.prompts import fill

HEAD_MARGIN = 0.15
"""Width of the head's mask beyond each edge of the aligned face, as a share of its side."""
_FLIPPED, _ROTATED, _MOST_DEGREES = 0.5, 0.3, 10.0
Mask = Float[Tensor, "1 1 1 latent_height latent_width"]


@dataclass(frozen=True)
class Example:
    """A noised photo, and the weights of its loss by position: 1 within the person, 0 outside."""

    diffused: Diffused
    mask: Mask


class TextualInversion:
    """Masked reconstruction of photos by the keyword vectors of a frozen image model."""

    def __init__(self, job: TrainJob, model: AdaptedModel, report: Report) -> None:
        (subject,) = job.subjects
        self.config, self.model, self.backbone = job.textual_inversion, model, model.backbone
        self.prompt = fill(INVERSION_PROMPT, subject.identity.noun)
        self.photos = read_training_photos(
            Path(subject.identity.folder),
            job.model.width,
            job.model.height,
            job.identity_reward.held_out_photos,
        )
        self.samples, self._seed = bank_pairs(job), job.training.seed
        self.drawn = {"prompt": self.prompt, "seed": self._seed}

    def prepare(self) -> Iterator[None]:
        """Do nothing: photos are read when the objective is created."""
        return iter(())

    def backpropagate(self, step: int) -> Losses:
        """Add the gradient of the mean loss of a random batch to the vectors' gradient."""
        generator = generator_of(self._seed, step)
        with self.backbone.as_image_model():
            batch = [self.draw_example(generator) for _ in range(self.config.batch_size)]
            return {"loss": self.backpropagate_batch(batch)}

    def backpropagate_batch(self, batch: list[Example]) -> float:
        """Add the gradient of the mean loss of examples, and return that loss.

        The text encoder runs once: its gradient is that of the sum of all denoiser gradients.
        """
        with self.model.adapter.acting():
            encoded = self.backbone.prompt_embeds(self.prompt)["prompt_embeds"]
            embeds = encoded.detach().requires_grad_()
            total = 0.0
            for example in batch:
                loss = self.loss(example, {"prompt_embeds": embeds}) / len(batch)
                (self.model.loss_scale * loss).backward()
                total += loss.item()
            encoded.backward(embeds.grad)
        self.model.unscale_gradients()
        return total

    def loss(self, example: Example, embeds: Embeds) -> Float[Tensor, ""]:
        """Return the mean squared error of the prediction within the mask."""
        predicted = self.backbone.predict_diffused(example.diffused, embeds)
        squares = (predicted.float() - example.diffused.target.float()).square()
        return (squares * example.mask).mean() / example.mask.mean()

    def draw_example(self, generator: torch.Generator) -> Example:
        """Return a random photo, changed as in Magic-Me, at a random noise level."""
        photo = self.photos[draw(len(self.photos), generator)]
        picture, mask = self._augmented(photo, generator)
        if _chance(generator) < self.config.unmasked or not mask.any():
            mask = torch.ones_like(mask)
        latents = self.backbone.encode(picture, generator)
        noise = torch.randn(latents.shape, generator=generator)
        shared = torch.randn((*latents.shape[:2], 1, 1, 1), generator=generator)
        noise = (noise + self.config.noise_offset * shared).to(latents)
        weights = torch.nn.functional.interpolate(mask, latents.shape[-2:], mode="area")
        diffused = self.backbone.diffuse(latents, noise, _chance(generator))
        return Example(diffused, weights[None].to(latents.device))

    def _augmented(
        self, photo: Photo, generator: torch.Generator
    ) -> tuple[Float[Tensor, "1 3 height width"], Float[Tensor, "1 1 height width"]]:
        """Return a photo in [0, 1] and its mask, flipped and rotated at random."""
        pixels = photo.pixels
        height, width = pixels.shape[2:]
        mask = within_crop(photo.landmarks[None], height, width, HEAD_MARGIN)[None].float()
        flipped, rotated, turn = (_chance(generator) for _ in range(3))
        if self.config.augment and flipped < _FLIPPED:
            pixels, mask = pixels.flip(3), mask.flip(3)
        if self.config.augment and rotated < _ROTATED:
            degrees = (2 * turn - 1) * _MOST_DEGREES
            pixels = rotate(pixels, degrees, InterpolationMode.BILINEAR)
            mask = rotate(mask, degrees)
        return pixels, mask


def _chance(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))
