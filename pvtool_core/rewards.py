"""The two rewards: identity (eq. 2) and prompt following (eq. 3-4).

Both score decoded frames, (frames, 3, height, width) in [0, 1], and are differentiable.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as colours

from pvtool_core.faces.analyzer import align_differentiable
from pvtool_core.models.fingerprints import fingerprint
from pvtool_core.open_clip_model import ImageText
from pvtool_core.settings.schema import SemanticRewardConfig
from pvtool_core.store.prompts import without_keyword

Scalar = Float[Tensor, ""]
Crops = Float[Tensor, "faces 3 112 112"]
Scores = Float[Tensor, " frames"]

JITTER = 0.2
"""Range around 1 of brightness, contrast and saturation in augmented crops."""
SHIFT = 0.05
"""Standard deviation of landmark jitter, in distances between the eyes."""


def identity_reward(
    face: Float[Tensor, " width"], references: Float[Tensor, "photos width"]
) -> Scalar:
    """Return PersonalVideo eq. 2: cosine similarity with the mean reference embedding.

    All embeddings have length 1. The paper says that the similarity is minimised; its negative is
    meant.
    """
    return functional.cosine_similarity(face, references.mean(0), dim=0)


def semantic_reward(target: Scores, source: Scores, temperature: float) -> Scalar:
    """Return PersonalVideo eq. 3-4: KL(V_target ‖ V_source), a loss.

    V is the softmax over frames of the scaled scores. The loss is zero for equal scores, for one
    frame, and for a difference that all frames have in common.
    """
    log_target, log_source = (
        functional.log_softmax(temperature * each, dim=0) for each in (target, source)
    )
    return functional.kl_div(log_source, log_target, reduction="sum", log_target=True)


def level_penalty(target: Scores, source: Scores) -> Scalar:
    """Return the decrease of the mean score; zero if it rose.

    `semantic_reward` does not depend on it. Not in the paper.
    """
    return functional.relu(source.mean() - target.mean())


def colour_jitter(crops: Crops, generator: torch.Generator) -> Crops:
    """Return crops in [0, 1] with random brightness, contrast and saturation, the same for all.

    Differentiable.
    """
    brightness, contrast, saturation = (
        1 + JITTER * (2 * torch.rand(3, generator=generator) - 1)
    ).tolist()
    crops = colours.adjust_brightness(crops, brightness)
    crops = colours.adjust_contrast(crops, contrast)
    return colours.adjust_saturation(crops, saturation)


def landmark_jitter(
    landmarks: Float[Tensor, "5 2"], count: int, generator: torch.Generator
) -> Float[Tensor, "n 5 2"]:
    """Return `count` copies with independent noise on each point, like a detector's.

    The crops are shifted, rotated and scaled.
    """
    between_eyes = (landmarks[1] - landmarks[0]).norm()
    return landmarks + SHIFT * between_eyes * torch.randn(count, 5, 2, generator=generator)


class IdentityScorer:
    """Compares generated faces with reference crops by a frozen recogniser.

    The recogniser takes crops in [0, 1]. Each face gives `views` crops, all slightly moved if there
    are several: their common gradient changes facial features rather than noise. The colours of
    crops and references change randomly. Without `augment` there is one crop, and nothing changes.
    """

    def __init__(
        self, recognizer: nn.Module, references: Crops, views: int = 1, augment: bool = True
    ) -> None:
        self._recognizer, self._references, self._augment = recognizer, references, augment
        self._views = views if augment else 1

    def score(
        self,
        frame: Float[Tensor, "3 height width"],
        landmarks: Float[Tensor, "5 2"],
        generator: torch.Generator,
    ) -> Scalar:
        """Return the mean similarity of the views, in [−1, 1].

        References and views are augmented independently.
        """
        with torch.no_grad():
            references = self._embed(self._varied(self._references, generator))
        moved = (
            landmarks[None]
            if self._views == 1
            else landmark_jitter(landmarks, self._views, generator)
        )
        crops = align_differentiable(frame.expand(self._views, -1, -1, -1), moved)
        faces = self._embed(torch.cat([self._varied(crop[None], generator) for crop in crops]))
        return torch.stack([identity_reward(face, references) for face in faces]).mean()

    def _varied(self, crops: Crops, generator: torch.Generator) -> Crops:
        return colour_jitter(crops, generator) if self._augment else crops

    def _embed(self, crops: Crops) -> Float[Tensor, "faces width"]:
        return functional.normalize(self._recognizer(crops), dim=-1)


class SemanticScorer:
    """HPSv2: agreement of a picture with a prompt, by an open_clip model."""

    def __init__(self, config: SemanticRewardConfig, device: torch.device) -> None:
        """Load the model. Raises InputRefused if it does not exist or its weights do not fit."""
        self._reader = ImageText(config, device)
        folder = Path(config.model)
        known_by = (
            fingerprint(folder)
            if folder.is_dir()
            else f"{config.model} {fingerprint(Path(config.checkpoint))}"
        )
        self.fingerprint = f"{known_by} {self._reader.dtype}"

    def score(self, frames: Float[Tensor, "frames 3 height width"], prompt: str) -> Scores:
        """Return the cosine similarity of each frame with the prompt, in float32.

        The keyword is removed from the prompt.
        """
        reader = self._reader
        pictures = letterbox(frames.to(reader.device, torch.float32), reader.side)
        pictures = colours.normalize(
            pictures, reader.preparation["mean"], reader.preparation["std"]
        )
        return reader.of_pictures(pictures) @ reader.of_text(without_keyword(prompt))

    def cut_prompts(self, prompts: Iterable[str]) -> list[str]:
        """Return the prompts longer than the model's context, whose end is not scored."""
        return [prompt for prompt in prompts if self._reader.cuts(without_keyword(prompt))]


def letterbox(
    frames: Float[Tensor, "frames 3 height width"], side: int
) -> Float[Tensor, "frames 3 {side} {side}"]:
    """Return HPSv2's preprocessing: the long side becomes `side`, and the margins black.

    Resizing is bicubic with antialiasing. As in HPSv2, edges overshoot 0 and 1 slightly.
    """
    height, width = frames.shape[-2:]
    scale = side / max(height, width)
    new = (round(height * scale), round(width * scale))
    if scale != 1:
        frames = functional.interpolate(frames, size=new, mode="bicubic", antialias=True)
    left, top = (side - new[1]) // 2, (side - new[0]) // 2
    return functional.pad(frames, (left, side - new[1] - left, top, side - new[0] - top))


def nearest_face(
    candidates: Sequence[Float[Tensor, "5 2"]], expected: Float[Tensor, "5 2"]
) -> Float[Tensor, "5 2"] | None:
    """Return the detection nearest to the base model's face by landmarks, or None."""
    return min(candidates, key=lambda points: float((points - expected).norm()), default=None)
