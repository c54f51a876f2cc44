"""Models that metrics share; each processes a clip once."""

from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from pvtool_core.devices import resolve_device
from pvtool_core.evaluation.clip import Clip
from pvtool_core.faces.analyzer import Face, FaceAnalyzer, align, largest
from pvtool_core.media.decode import Pixels
from pvtool_core.media.photos import read_picture
from pvtool_core.open_clip_model import ImageText
from pvtool_core.settings.jobs import EvaluateJob, Subject
from pvtool_core.settings.schema import SemanticRewardConfig
from pvtool_core.store.prompts import without_keyword

T = TypeVar("T")


class Judges:
    """Face detector, recognisers and image-text model, with their results for recent clips.

    `held_out` is the recogniser that training does not use, `rewarded` that of the identity reward.
    """

    def __init__(self, job: EvaluateJob) -> None:
        rewards = job.identity_reward
        self.held_out, self.rewarded = job.evaluation.recognizer, rewards.recognizer
        size, threshold = rewards.detection_size, rewards.detection_threshold
        recognizers = (self.held_out, self.rewarded)
        package, threads = Path(rewards.package), job.model.threads
        self.analyzer = FaceAnalyzer(
            package, rewards.detector, recognizers, size, threshold, threads
        )
        self.reader = PictureReader(job.semantic_reward, resolve_device(job.model.device))
        self._found: dict[Hashable, Any] = {}

    def faces(self, clip: Clip) -> list[Face | None]:
        """Return the largest face of each frame."""

        def detect() -> list[Face | None]:
            return [largest(self.analyzer.detect(frame)) for frame in clip.frames]

        return self._once((clip, "faces"), detect)

    def likeness(self, clip: Clip, subject: Subject, recognizer: str) -> NDArray[np.float32]:
        """Return the cosine of each frame's face with the identity's mean embedding.

        The value is 0 for a frame without a face.
        """

        def compare() -> NDArray[np.float32]:
            faces = self.faces(clip)
            pairs = zip(clip.frames, faces, strict=True)
            crops = [align(frame, face.landmarks) for frame, face in pairs if face]
            likeness = np.zeros(len(faces), np.float32)
            if crops:
                found = np.asarray([face is not None for face in faces])
                reference = self._reference(subject, recognizer)
                likeness[found] = self.analyzer.embed(crops, recognizer) @ reference
            return likeness

        return self._once((clip, subject, recognizer), compare)

    def _reference(self, subject: Subject, recognizer: str) -> NDArray[np.float32]:
        """Return an identity's mean embedding, of unit length.

        It is computed from the crops: stored embeddings may be of another recogniser.
        """

        def embed() -> NDArray[np.float32]:
            faces = sorted((Path(subject.identity.folder) / "faces").glob("*.png"))
            crops = [np.asarray(read_picture(path)) for path in faces]
            middle = self.analyzer.embed(crops, recognizer).mean(0)
            return middle / np.linalg.norm(middle)

        return self._once((subject, recognizer), embed)

    def pictures(self, clip: Clip) -> Tensor:
        """Return the unit embedding of each frame, (frames, dimensions)."""
        return self._once((clip, "pictures"), lambda: self.reader.pictures(clip.frames))

    def text(self, clip: Clip) -> Tensor:
        """Return the unit embedding of a clip's prompt without its keyword, (dimensions,)."""
        return self.reader.text(without_keyword(clip.record["prompt"]))

    def _once(self, key: Hashable, compute: Callable[[], T]) -> T:
        if key not in self._found:
            self._found[key] = compute()
        return self._found[key]


class PictureReader:
    """An open_clip model: unit embeddings of pictures and texts with its preprocessing."""

    def __init__(self, config: SemanticRewardConfig, device: torch.device) -> None:
        """Load the model. Raises InputRefused if it is unknown, or if the weights do not fit."""
        self._reader = ImageText(config, device)
        self._prepare: Any = image_transform_v2(
            PreprocessCfg(**self._reader.preparation), is_train=False
        )

    @torch.no_grad()
    def pictures(self, frames: Pixels) -> Tensor:
        """Return the embeddings of pictures, (pictures, dimensions)."""
        prepared = torch.stack([self._prepare(Image.fromarray(frame)) for frame in frames])
        return self._reader.of_pictures(prepared).cpu()

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
