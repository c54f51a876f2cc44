"""Models that metrics share, each loaded once; a clip is processed once by each."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from pvtool_core.devices import resolve_device
from pvtool_core.errors import InputRefused, WeightsMissing
from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.i3d import VideoFeatures
from pvtool_core.evaluation.optical_flow import Motion, OpticalFlow
from pvtool_core.faces.analyzer import Face, FaceAnalyzer, align
from pvtool_core.faces.likeness import Reference, read_reference, subject_face
from pvtool_core.hashes import cached_sha256
from pvtool_core.media.decode import Pixels
from pvtool_core.media.photos import read_picture
from pvtool_core.models.fingerprints import fingerprint
from pvtool_core.models.locate import locate_judges, resolve
from pvtool_core.open_clip_model import ImageText, weights_file
from pvtool_core.settings.jobs import EvaluateJob, Subject
from pvtool_core.settings.schema import SemanticRewardConfig
from pvtool_core.store.prompts import without_keyword

_REQUIRED = ("detector", "recognizer", "identity_reward", "semantic_reward")
_TEXT_MODELS = ("text_model", "second_text_model")
_BATCH = 32
"""Frames that an image-text model embeds at a time."""

T = TypeVar("T")
Crops = Sequence[Pixels]


@dataclass(frozen=True)
class Skipped:
    """The reason for which a metric is skipped, as a sentence, and the command that enables it."""

    reason: str
    command: str


class Judges:
    """The models of `evaluation` settings, and those of the rewards for comparison.

    `held_out` and `second` are recognisers that training does not use, `rewarded` is that of the
    identity reward.
    """

    def __init__(self, job: EvaluateJob) -> None:
        """Prepare the models; each is loaded when a metric uses it.

        Raises InputRefused if a judge has the weights of a reward.
        """
        self._job, self._rewards = job, job.identity_reward
        self.settings = locate_judges(job.evaluation)
        self.held_out = self.settings.recognizer
        self.second = self.settings.second_recognizer
        self.rewarded = self._rewards.recognizer
        self._device = resolve_device(job.model.device)
        self._of_clip: dict[Hashable, Any] = {}
        self._of_identity: dict[Hashable, Any] = {}
        self._refuse_rewards()

    def _refuse_rewards(self) -> None:
        """Raise InputRefused if a judge has the weights of a reward, by their hash."""
        rewards = {
            sha256: key
            for key in ("identity_reward", "semantic_reward")
            for sha256 in self.weights(key).values()
        }
        for key in ("recognizer", "second_recognizer", "text_model", "second_text_model"):
            if self.missing(key):
                continue
            for sha256 in self.weights(key).values():
                if sha256 in rewards:
                    raise InputRefused(
                        f"evaluation.{key} has the weights of {rewards[sha256]}, which training "
                        "optimises: it cannot judge the result.",
                        f"Set evaluation.{key} to another model, or to an empty text.",
                    )

    def missing(self, model: str) -> Skipped | None:
        """Return why a model is not available, by its name in `evaluation`, or None if it is."""
        if model in _REQUIRED:
            return None
        name = getattr(self.settings, model)
        if not name:
            return Skipped(f"evaluation.{model} is not set.", "")
        try:
            resolve(name)
            self._files(model)
        except (WeightsMissing, InputRefused) as error:
            return Skipped(error.message, error.hint)
        return None

    def weights(self, model: str) -> dict[str, str]:
        """Return the SHA-256 of a model's weights by file name; `detector` is one too."""
        return {file.name: cached_sha256(file) for file in self._files(model)}

    def content(self, model: str) -> dict[str, str]:
        """Return `weights`, and a fingerprint of the configuration and tokenizer beside them."""
        folder = self._files(model)[0].parent
        beside = {folder.name: fingerprint(folder)} if model in _TEXT_MODELS else {}
        return {**self.weights(model), **beside}

    def _files(self, model: str) -> list[Path]:
        package = Path(self._rewards.package)
        match model:
            case "detector":
                return [package / self._rewards.detector]
            case "recognizer":
                return [package / self.held_out]
            case "identity_reward":
                return [package / self.rewarded]
            case "semantic_reward":
                return [weights_file(self._job.semantic_reward)]
            case _ if model in _TEXT_MODELS:
                return [weights_file(self._folder(model))]
            case _:
                return [Path(getattr(self.settings, model))]

    def _folder(self, model: str) -> SemanticRewardConfig:
        return SemanticRewardConfig(model=getattr(self.settings, model))

    @cached_property
    def analyzer(self) -> FaceAnalyzer:
        """The face detector, and every available recogniser."""
        rewards = self._rewards
        second = [] if self.missing("second_recognizer") else [self.second]
        return FaceAnalyzer(
            Path(rewards.package),
            rewards.detector,
            [self.held_out, self.rewarded, *second],
            rewards.detection_size,
            rewards.detection_threshold,
            self._job.model.threads,
        )

    def reader(self, model: str) -> "PictureReader":
        """Return an image-text model of the `evaluation` settings, or `semantic_reward`."""

        def load() -> PictureReader:
            own = model == "semantic_reward"
            config = self._job.semantic_reward if own else self._folder(model)
            return PictureReader(config, self._device)

        return self._once(self._of_identity, ("reader", model), load)

    @cached_property
    def optical_flow(self) -> OpticalFlow:
        return OpticalFlow(Path(self.settings.optical_flow), self._device)

    @cached_property
    def video_features(self) -> VideoFeatures:
        return VideoFeatures(Path(self.settings.video_model), self._device)

    def faces(self, clip: Clip) -> list[list[Face]]:
        """Return all faces of each frame, from left to right."""
        return self._once(
            self._of_clip, "faces", lambda: [self.analyzer.detect(frame) for frame in clip.frames]
        )

    def main_faces(self, clip: Clip) -> list[Face | None]:
        """Return the face of each frame that is compared with the identity: the largest."""
        return [subject_face(faces) for faces in self.faces(clip)]

    def face_crops(self, clip: Clip) -> list[Pixels]:
        """Return the aligned `main_faces` of the frames that have one, (112, 112, 3)."""

        def cut() -> list[Pixels]:
            pairs = zip(clip.frames, self.main_faces(clip), strict=True)
            return [align(frame, face.landmarks) for frame, face in pairs if face]

        return self._once(self._of_clip, "crops", cut)

    def embeddings(self, clip: Clip, recognizer: str) -> NDArray[np.float32]:
        """Return the unit embedding of each of `face_crops`, (faces, dimensions)."""
        return self._once(
            self._of_clip,
            ("embeddings", recognizer),
            lambda: self._embed(self.face_crops(clip), recognizer),
        )

    def likeness(self, clip: Clip, subject: Subject, recognizer: str) -> NDArray[np.float32]:
        """Return the cosine of each frame's face with the identity's mean embedding.

        The value is NaN for a frame without a face.
        """
        found = np.asarray([face is not None for face in self.main_faces(clip)])
        likeness = np.full(len(found), np.nan, np.float32)
        if found.any():
            likeness[found] = self.embeddings(clip, recognizer) @ self.reference(
                subject, recognizer
            )
        return likeness

    def other_faces(self, clip: Clip, subject: Subject, recognizer: str) -> list[float]:
        """Return for each frame with several faces the highest likeness of the others."""
        highest: list[float] = []
        for frame, faces in zip(clip.frames, self.faces(clip), strict=True):
            main = subject_face(faces)
            if others := [align(frame, face.landmarks) for face in faces if face is not main]:
                likeness = self._embed(others, recognizer) @ self.reference(subject, recognizer)
                highest.append(float(likeness.max()))
        return highest

    def reference(self, subject: Subject, recognizer: str) -> NDArray[np.float32]:
        """Return the mean embedding of the photos used in training, of unit length.

        It is computed from the crops: stored embeddings may be of another recogniser.
        """
        return self.photos(subject, recognizer).mean

    def photos(self, subject: Subject, recognizer: str) -> Reference:
        """Return unit embeddings of the photos used in training, and of those held out."""
        folder, held_out = Path(subject.identity.folder), self._rewards.held_out_photos
        return self._once(
            self._of_identity,
            ("photos", subject, recognizer),
            lambda: read_reference(self.analyzer, folder, recognizer, held_out),
        )

    def photo_pictures(self, subject: Subject, kind: str, model: str) -> Tensor:
        """Return unit embeddings of the photos by an image-text model.

        `kind` is `faces`, the aligned crops, or `references`, the whole photos.
        """
        return self._once(
            self._of_identity,
            ("pictures", subject, kind, model),
            lambda: self.reader(model).pictures(self._pictures_of(subject, kind)),
        )

    def _pictures_of(self, subject: Subject, kind: str) -> list[Pixels]:
        files = sorted((Path(subject.identity.folder) / kind).glob("*.png"))
        return [np.asarray(read_picture(path)) for path in files]

    def _embed(self, crops: Crops, recognizer: str) -> NDArray[np.float32]:
        return self.analyzer.embed(crops, recognizer)

    def pictures(self, clip: Clip, model: str) -> Tensor:
        """Return the unit embedding of each frame by an image-text model, (frames, dimensions)."""
        return self._once(
            self._of_clip, ("pictures", model), lambda: self.reader(model).pictures(clip.frames)
        )

    def text(self, clip: Clip, model: str) -> Tensor:
        """Return the unit embedding of a clip's prompt without its keyword, (dimensions,)."""
        return self.reader(model).text(without_keyword(clip.about.prompt))

    def motion(self, clip: Clip) -> Motion:
        """Return the largest motion between neighbouring frames in pixels, by optical flow."""
        return self._once(
            self._of_clip,
            "motion",
            lambda: self.optical_flow.largest_motion(clip.frames, clip.fps),
        )

    def park(self) -> None:
        """Free the accelerator's memory until an image-text model is used again."""
        for known in self._of_identity.values():
            if isinstance(known, PictureReader):
                known.park()

    def forget_clip(self) -> None:
        """Drop the results of a clip, before the next one."""
        self._of_clip.clear()

    @staticmethod
    def _once(known: dict[Hashable, Any], key: Hashable, compute: Callable[[], T]) -> T:
        if key not in known:
            known[key] = compute()
        return known[key]


class PictureReader:
    """An open_clip model: unit embeddings of pictures and texts with its preprocessing."""

    def __init__(self, config: SemanticRewardConfig, device: torch.device) -> None:
        """Load the model. Raises InputRefused if it is unknown, or if the weights do not fit."""
        self._reader = ImageText(config, device)
        self._prepare: Any = image_transform_v2(
            PreprocessCfg(**self._reader.preparation), is_train=False
        )

    @torch.no_grad()
    def pictures(self, frames: Iterable[Pixels]) -> Tensor:
        """Return the embeddings of pictures, (pictures, dimensions)."""
        prepared = [self._prepare(Image.fromarray(frame)) for frame in frames]
        parts = torch.stack(prepared).split(_BATCH)
        return torch.cat([self._reader.of_pictures(part).cpu() for part in parts])

    def park(self) -> None:
        """Move the model to CPU memory until it is used again."""
        self._reader.park()

    def text(self, prompt: str) -> Tensor:
        """Return the embedding of a text, (dimensions,)."""
        return self._reader.of_text(prompt).cpu()

    def cut_prompts(self, prompts: Iterable[str]) -> list[str]:
        """Return the prompts, each once, that are longer than the model's context."""
        return [
            prompt
            for prompt in dict.fromkeys(prompts)
            if self._reader.cuts(without_keyword(prompt))
        ]
