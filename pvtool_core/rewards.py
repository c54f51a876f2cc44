"""The two rewards: that it is the person (eq. 2), and that the model still does what the prompt says (eq. 3-4).

Both judge decoded frames, (frames, 3, height, width) in [0, 1], and let a gradient through.
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
"""How far brightness, contrast and saturation stray from 1, up and down, where crops are augmented."""
SHIFT = 0.05
"""How far a landmark strays (standard deviation), in distances between the eyes."""


def identity_reward(
    face: Float[Tensor, " width"], references: Float[Tensor, "photos width"]
) -> Scalar:
    """PersonalVideo eq. 2: cosine similarity of the generated face with the mean of the reference embeddings.

    All embeddings are of length 1. The paper minimises the similarity by its words; it means its negative.
    """
    return functional.cosine_similarity(face, references.mean(0), dim=0)


def semantic_reward(target: Scores, source: Scores, temperature: float) -> Scalar:
    """PersonalVideo eq. 3-4: KL(V_target ‖ V_source), V the softmax over frames of the scaled scores; a loss.

    Zero for equal scores, for one frame, and for a difference that all frames have in common.
    """
    log_target, log_source = (
        functional.log_softmax(temperature * each, dim=0) for each in (target, source)
    )
    return functional.kl_div(log_source, log_target, reduction="sum", log_target=True)


def level_penalty(target: Scores, source: Scores) -> Scalar:
    """How far the mean score fell, which `semantic_reward` is blind to; zero if it rose. Ours, not the paper's."""
    return functional.relu(source.mean() - target.mean())


def colour_jitter(crops: Crops, generator: torch.Generator) -> Crops:
    """Crops in [0, 1] with brightness, contrast and saturation drawn once for all of them; differentiable."""
    brightness, contrast, saturation = (
        1 + JITTER * (2 * torch.rand(3, generator=generator) - 1)
    ).tolist()
    crops = colours.adjust_brightness(crops, brightness)
    crops = colours.adjust_contrast(crops, contrast)
    return colours.adjust_saturation(crops, saturation)


def landmark_jitter(
    landmarks: Float[Tensor, "5 2"], count: int, generator: torch.Generator
) -> Float[Tensor, "n 5 2"]:
    """`count` copies in which each point strays by itself, as a detector's do: their crops shift, turn and scale."""
    between_eyes = (landmarks[1] - landmarks[0]).norm()
    return landmarks + SHIFT * between_eyes * torch.randn(count, 5, 2, generator=generator)


class IdentityScorer:
    """Compares generated faces with a person's reference crops, by a frozen recogniser that takes crops in [0, 1].

    Of each face it takes `views` crops, all a little off if there are several: a gradient that must please all of them
    draws features, not speckle.
    """

    def __init__(self, recognizer: nn.Module, references: Crops, views: int = 1) -> None:
        self._recognizer, self._references, self._views = recognizer, references, views

    def score(
        self,
        frame: Float[Tensor, "3 height width"],
        landmarks: Float[Tensor, "5 2"],
        generator: torch.Generator,
    ) -> Scalar:
        """Mean similarity of the views, in [−1, 1]; references and views are augmented, each by its own draw."""
        with torch.no_grad():
            references = self._embed(colour_jitter(self._references, generator))
        moved = (
            landmarks[None]
            if self._views == 1
            else landmark_jitter(landmarks, self._views, generator)
        )
        crops = align_differentiable(frame.expand(self._views, -1, -1, -1), moved)
        faces = self._embed(torch.cat([colour_jitter(crop[None], generator) for crop in crops]))
        return torch.stack([identity_reward(face, references) for face in faces]).mean()

    def _embed(self, crops: Crops) -> Float[Tensor, "faces width"]:
        return functional.normalize(self._recognizer(crops), dim=-1)


class SemanticScorer:
    """HPSv2: how well a picture fits a prompt, by an open_clip model."""

    def __init__(self, config: SemanticRewardConfig, device: torch.device) -> None:
        """Raises InputRefused if there is no such model, or if the weights are not its."""
        self._reader = ImageText(config, device)
        folder = Path(config.model)
        known_by = (
            fingerprint(folder)
            if folder.is_dir()
            else f"{config.model} {fingerprint(Path(config.checkpoint))}"
        )
        self.fingerprint = f"{known_by} {self._reader.dtype}"

    def score(self, frames: Float[Tensor, "frames 3 height width"], prompt: str) -> Scores:
        """Cosine similarity of each frame with the prompt, in float32; the keyword is left out of the text."""
        reader = self._reader
        pictures = letterbox(frames.to(reader.device, torch.float32), reader.side)
        pictures = colours.normalize(
            pictures, reader.preparation["mean"], reader.preparation["std"]
        )
        return reader.of_pictures(pictures) @ reader.of_text(without_keyword(prompt))

    def cut_prompts(self, prompts: Iterable[str]) -> list[str]:
        """Return the prompts that are longer than the model's context, so that their end is not scored."""
        return [prompt for prompt in prompts if self._reader.cuts(without_keyword(prompt))]


def letterbox(
    frames: Float[Tensor, "frames 3 height width"], side: int
) -> Float[Tensor, "frames 3 {side} {side}"]:
    """HPSv2's own preparation: the long side becomes `side` (bicubic with antialias), the rest is black.

    As there, edges overshoot 0 and 1 a little: that is what the model was trained on.
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
    """The detection whose landmarks lie nearest to where the original's face was, or None without any."""
    return min(candidates, key=lambda points: float((points - expected).norm()), default=None)
