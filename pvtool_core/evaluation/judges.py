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
from pvtool_core.faces.analyzer import Face, FaceAnalyzer
from pvtool_core.faces.likeness import Reference, face_cosines, read_reference, subject_face
from pvtool_core.media.decode import Pixels
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
        """Return the face of each frame that is compared with the identity, the largest."""

        def detect() -> list[Face | None]:
            return [subject_face(self.analyzer.detect(frame)) for frame in clip.frames]

        return self._once((clip, "faces"), detect)

    def likeness(self, clip: Clip, subject: Subject, recognizer: str) -> NDArray[np.float32]:
        """Return the cosine of each frame's face with the identity's mean embedding.

        The value is 0 for a frame without a face.
        """

        def compare() -> NDArray[np.float32]:
            faces, mean = self.faces(clip), self.reference(subject, recognizer).mean
            found = face_cosines(self.analyzer, recognizer, clip.frames, faces, mean)
            return np.asarray([cosine or 0.0 for cosine in found], np.float32)

        return self._once((clip, subject, recognizer), compare)

    def reference(self, subject: Subject, recognizer: str) -> Reference:
        """Return the embeddings of an identity's photos."""
        folder = Path(subject.identity.folder)
        return self._once(
            (subject, recognizer), lambda: read_reference(self.analyzer, folder, recognizer)
        )

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
