"""PersonalVideo: two rewards on clips that the adapted model generates from pure noise.

Nothing is reconstructed (section 4.1): each iteration takes a prompt and an initial noise whose
prefix is in the trajectory cache, runs the active steps with a gradient, and scores decoded frames
by eq. 2 and eq. 3-4. With `training.image_model` the clips are single frames of the image model.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pvtool_core.backbones import Latents
from pvtool_core.backbones.interface import to_pixels
from pvtool_core.errors import Missing, RunFailed, UsageError
from pvtool_core.faces.analyzer import FaceAnalyzer, largest, load_recognizer, within_crop
from pvtool_core.media.photos import read_picture
from pvtool_core.models.fingerprints import fingerprint
from pvtool_core.objectives.objective import (
    AdaptedModel,
    Losses,
    bank_pairs,
    draw,
    generator_of,
)
from pvtool_core.rewards import (
    IdentityScorer,
    SemanticScorer,
    level_penalty,
    nearest_face,
    semantic_reward,
)
from pvtool_core.sampling import (
    AdaptedSteps,
    BaseKl,
    Rollout,
    rollout_in_memory,
    rollout_replayed,
    rollout_stopped,
)
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.store.events import Report, StageEvent, WarningEvent
from pvtool_core.trajectories import FaceTrack


@dataclass(frozen=True)
class Pair:
    """A prompt and an initial noise, with measurements of the base model's clip.

    Scores are None without the semantic reward.
    """

    prompt: str
    seed: int
    scores: Float[Tensor, " frames"] | None
    faces: FaceTrack


class PersonalVideo:
    """Identity and semantic consistency rewards (eq. 2-5) on the clips of a prompt bank."""

    def __init__(self, job: TrainJob, model: AdaptedModel, report: Report) -> None:
        (subject,) = job.subjects
        self.job, self.config, self.model = job, job.training, model
        self.backbone, self.adapter = model.backbone, model.adapter
        self.pairs: list[Pair] = []
        self.drawn: dict[str, Any] = {}
        self._report = report
        self._scale = model.loss_scale
        self.cache = model.cache.of_image_model() if self.config.image_model else model.cache
        self.semantic = (
            None
            if "semantic_reward" in job.unused_rewards()
            else SemanticScorer(job.semantic_reward, self.backbone.device)
        )
        self._load_faces(Path(subject.identity.folder))
        if self.semantic and (unscored := self.semantic.cut_prompts(job.prompts)):
            first = f"{len(unscored)} prompts, the first of which is {unscored[0]!r}."
            message = f"The semantic reward's text encoder truncates {first}"
            report(WarningEvent(message=message))

    def _load_faces(self, identity: Path) -> None:
        reward, package = self.job.identity_reward, Path(self.job.identity_reward.package)
        settings = (reward.detection_size, reward.detection_threshold)
        self.analyzer = FaceAnalyzer(
            package, reward.detector, (), *settings, self.job.model.threads
        )
        self.detector = f"{fingerprint(package / reward.detector)} {settings}"
        recognizer = load_recognizer(package / reward.recognizer).to(self.backbone.device)
        references = read_crops(identity, reward.held_out_photos).to(self.backbone.device)
        self.identity = IdentityScorer(recognizer, references, reward.views, reward.augment)

    @property
    def samples(self) -> list[tuple[str, int]]:
        """The pairs of the training."""
        return [(pair.prompt, pair.seed) for pair in self.pairs]

    def prepare(self) -> Iterator[None]:
        """Fill the trajectory cache for each pair of the bank.

        Raises RunFailed if no pair shows a face.
        """
        wanted = bank_pairs(self.job)
        self.pairs = []
        for done, (prompt, seed) in enumerate(wanted, 1):
            yield
            if pair := self.prepare_pair(prompt, seed):
                self.pairs.append(pair)
            self._report(StageEvent(stage="caching", done=done, total=len(wanted)))
        self._check_pairs(len(wanted))

    def _check_pairs(self, wanted: int) -> None:
        """Report how many pairs are skipped. Raises RunFailed if none is left."""
        if not self.pairs:
            raise RunFailed(
                "The base model shows no face for any prompt of the bank.",
                "Use prompts that show the person's face.",
            )
        if missing := wanted - len(self.pairs):
            message = f"{missing} of {wanted} pairs show no face and are skipped."
            self._report(WarningEvent(message=message))

    def prepare_pair(self, prompt: str, seed: int) -> Pair | None:
        """Fill the cache for a pair and measure the base model's clip.

        Return None if it shows no face.
        """
        self.cache.switch(prompt, seed)
        measured = partial(self.cache.measured, prompt, seed)
        scores: Tensor | None = None
        if semantic := self.semantic:

            @torch.no_grad()
            def measure(latents: Latents) -> dict[str, Tensor]:
                return {"scores": semantic.score(self.model.whole_clip(latents), prompt)}

            kept = measured("scores", semantic.fingerprint, measure)
            scores = kept["scores"].to(self.backbone.device)
        faces = FaceTrack(**measured("faces", self.detector, self._measure_faces))
        return Pair(prompt, seed, scores, faces) if faces.frames else None

    def _measure_faces(self, latents: Latents) -> dict[str, Tensor]:
        found = [
            largest(self.analyzer.detect(picture))
            for picture in to_pixels(self.model.whole_clip(latents))
        ]
        landmarks = [
            torch.from_numpy(face.landmarks) if face else torch.zeros(5, 2) for face in found
        ]
        return {
            "found": torch.tensor([face is not None for face in found]),
            "landmarks": torch.stack(landmarks),
        }

    def backpropagate(self, step: int) -> Losses:
        """Choose a pair at random, and add the gradient of its loss to the adapter's."""
        generator = generator_of(self.config.seed, step)
        pair = self.pairs[draw(len(self.pairs), generator)]
        self.drawn = {"prompt": pair.prompt, "seed": pair.seed}
        return self.backpropagate_pair(pair, generator)

    def backpropagate_pair(self, pair: Pair, generator: torch.Generator) -> Losses:
        """Add the gradient of a pair's loss (eq. 5) to the adapter's; return loss and parts."""
        as_trained = self.backbone.as_image_model if self.config.image_model else nullcontext
        with as_trained():
            return self._backpropagate(pair, generator)

    def _backpropagate(self, pair: Pair, generator: torch.Generator) -> Losses:
        count = self.job.identity_reward.frames
        if self.semantic:
            count = max(count, self.job.semantic_reward.frames)
        frames = draw_frames(pair.faces, count, generator, self.backbone.decoded_with)
        embeds = self.backbone.prompt_embeds(pair.prompt)
        switch = self.cache.switch(pair.prompt, pair.seed)
        taken = self._draw_steps(generator)
        base_kl = (
            self._base_kl(pair.faces, switch, taken, generator)
            if self.config.base_kl_weight
            else None
        )
        route = AdaptedSteps(self.backbone, self.adapter, embeds, self.model.steps, base_kl)
        tail = self._roll_out(route, switch, taken)
        latents = tail.latents.requires_grad_()
        loss, measured = self._judge(pair, latents, frames, generator)
        (gradient,) = torch.autograd.grad(self._scale * loss, latents)
        tail.backward(gradient)
        self.model.unscale_gradients()
        if base_kl:
            loss = loss + self.config.base_kl_weight * tail.base_kl
            measured["base_kl"] = tail.base_kl.item()
        return {"loss": loss.item(), **measured}

    def _draw_steps(self, generator: torch.Generator) -> list[int]:
        """Return the steps with a gradient: all, except with drtune."""
        steps = self.model.steps
        count = self.config.gradient_steps or len(steps)
        if self.config.gradient != "drtune" or count >= len(steps):
            return list(steps)
        drawn = torch.randperm(len(steps), generator=generator)[:count].tolist()
        return [steps[i] for i in drawn]

    def _base_kl(
        self, faces: FaceTrack, latents: Latents, steps: list[int], generator: torch.Generator
    ) -> BaseKl:
        """Return the penalty on the distance to the base model, in a random one of `steps`.

        It has a smaller weight within the crop of the base model's face.
        """
        model, config = self.job.model, self.config
        within = (
            within_crop(faces.landmarks, model.height, model.width) & faces.found[:, None, None]
        )
        within = torch.nn.functional.interpolate(
            within[None, None].float(), latents.shape[2:], mode="area"
        )
        shares = 1 - (1 - config.base_kl_face) * within
        drawn = steps[draw(len(steps), generator)]
        return BaseKl(self._scale * config.base_kl_weight, [drawn], shares.to(latents.device))

    def _roll_out(self, route: AdaptedSteps, latents: Latents, taken: list[int]) -> Rollout:
        """Run the active steps, with the backward pass of the settings."""
        if self.config.gradient == "full":
            return rollout_in_memory(route, latents)
        if self.config.gradient == "replay":
            return rollout_replayed(route, latents)
        return rollout_stopped(route, latents, taken)

    def _judge(
        self, pair: Pair, latents: Latents, frames: list[int], generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], dict[str, float | bool]]:
        """Return the weighted sum of both rewards' losses, and its parts.

        The first of `frames` shows a face.
        """
        identity = self.job.identity_reward
        clip = self.backbone.decode(latents, frames)
        with_face = [
            (clip[i], frame)
            for i, frame in enumerate(frames[: identity.frames])
            if pair.faces.found[frame]
        ]
        faces = [
            (picture, *self._find_face(picture, pair.faces.landmarks[frame]))
            for picture, frame in with_face
        ]
        similar = [
            self.identity.score(picture, landmarks, generator) for picture, landmarks, _ in faces
        ]
        icr, seen = 1 - torch.stack(similar).mean(), all(found for _, _, found in faces)
        if self.semantic is None or pair.scores is None:
            return identity.weight * icr, {"icr": icr.item(), "face_found": seen}
        semantic = self.job.semantic_reward
        compared = slice(semantic.frames)
        target, source = (
            self.semantic.score(clip[compared], pair.prompt),
            pair.scores[frames[compared]],
        )
        scr = semantic_reward(target, source, semantic.temperature)
        level = level_penalty(target, source)
        loss = identity.weight * icr + semantic.weight * scr + semantic.level_weight * level
        gap = (target - source).mean()
        return loss, {
            "icr": icr.item(),
            "scr": scr.item(),
            "score_gap": gap.item(),
            "face_found": seen,
        }

    def _find_face(
        self, frame: Float[Tensor, "3 height width"], expected: Float[Tensor, "5 2"]
    ) -> tuple[Float[Tensor, "5 2"], bool]:
        """Return the landmarks of the face, or `expected` if none is found.

        The prefix determines the layout, so the base model's face is a good estimate. Landmarks are
        constants: no gradient moves the face to please the detector.
        """
        (picture,) = to_pixels(
            frame.detach()[None].nan_to_num()
        )  # a loss that is not finite is handled later
        candidates = [torch.from_numpy(face.landmarks) for face in self.analyzer.detect(picture)]
        nearest = nearest_face(candidates, expected)
        return (expected, False) if nearest is None else (nearest, True)


def draw_frames(
    faces: FaceTrack,
    count: int,
    generator: torch.Generator,
    decoded_with: Callable[[int], Sequence[int]],
) -> list[int]:
    """Return up to `count` frames, of which the first shows a face, for eq. 2.

    Eq. 3 uses any frames. They are among those decoded with the first (see `Backbone`), and fewer
    if these are fewer.
    """
    first = faces.frames[draw(len(faces.frames), generator)]
    window = decoded_with(first)
    drawn = [window[i] for i in torch.randperm(len(window), generator=generator).tolist()]
    return [first, *[frame for frame in drawn if frame != first][: count - 1]]


def read_crops(identity: Path, held_out: int = 0) -> Float[Tensor, "photos 3 112 112"]:
    """Read the aligned reference crops of an identity's folder, in [0, 1].

    The newest `held_out` ones are left out. Raises Missing without crops, UsageError if none is
    left.
    """
    files = sorted((identity / "faces").glob("*.png"))
    if not files:
        raise Missing(
            "identity", identity.name, "It was removed; add it again with `pv identity add`."
        )
    if not (used := files[: len(files) - held_out]):
        raise UsageError(
            f"{identity.name} has {len(files)} photos, and none is left for training.",
            f"Set identity_reward.held_out_photos, which is {held_out}, to a smaller number.",
        )
    pictures = np.stack([np.asarray(read_picture(file)) for file in used])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
