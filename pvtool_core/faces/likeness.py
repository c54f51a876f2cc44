"""Likeness of a clip: the similarity of its faces to an identity's photos, frame by frame."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pvtool_core.errors import InputRefused
from pvtool_core.faces.analyzer import Face, FaceAnalyzer, Picture, Points, align, largest
from pvtool_core.media.decode import Pixels
from pvtool_core.media.photos import read_picture
from pvtool_core.store.clip_likeness import WorstFrame


@dataclass(frozen=True, eq=False)
class Reference:
    """Unit embeddings of an identity's photos by one recogniser.

    `photos` are those used in training, (photos, dimensions), in the order of their files, and
    `held_out` the newer ones; `mean` (dimensions,) is that of `photos`, scaled to unit length.
    """

    photos: Points
    held_out: Points
    mean: Points


def read_reference(
    analyzer: FaceAnalyzer, identity: Path, recognizer: str, held_out: int = 0
) -> Reference:
    """Return the embeddings of the face crops in an identity's folder.

    The newest `held_out` ones were not used in training.
    They are computed from the crops: stored embeddings may be of another recogniser. Raises
    InputRefused without crops, BadPicture for a corrupt one, NotFinite.
    """
    crops = [
        np.asarray(read_picture(path), np.uint8)
        for path in sorted((identity / "faces").glob("*.png"))
    ]
    if not crops:
        raise InputRefused(
            f"No face crops found in {identity / 'faces'}.",
            "Restore the identity, or add it again.",
        )
    photos = analyzer.embed(crops, recognizer)
    used = max(len(photos) - held_out, 1)
    middle = photos[:used].mean(0)
    return Reference(photos[:used], photos[used:], middle / np.linalg.norm(middle))


def subject_face(faces: Iterable[Face]) -> Face | None:
    """Return the face of a frame that is compared with the identity: the largest, if any."""
    return largest(faces)


def face_cosines(
    analyzer: FaceAnalyzer,
    recognizer: str,
    frames: Iterable[Picture],
    faces: Sequence[Face | None],
    mean: Points,
) -> tuple[float | None, ...]:
    """Return the cosine of each frame's face with `mean`, an identity's mean embedding.

    None for a frame without a face. Raises NotFinite.
    """
    crops = [
        align(frame, face.landmarks) for frame, face in zip(frames, faces, strict=True) if face
    ]
    found = iter((analyzer.embed(crops, recognizer) @ mean).tolist() if crops else ())
    return tuple(next(found) if face else None for face in faces)


@dataclass(frozen=True)
class Likeness:
    """Cosine of each scored frame's face with an identity's mean embedding.

    `frames` are the indices of the scored frames in the clip, `cosines` their values, None without
    a face.
    """

    frames: tuple[int, ...]
    cosines: tuple[float | None, ...]
    fps: float

    @property
    def mean(self) -> float:
        """Mean over the scored frames, with 0 for a frame without a face."""
        return sum(cosine or 0.0 for cosine in self.cosines) / len(self.cosines)

    @property
    def mean_found(self) -> float | None:
        """Mean over the scored frames with a face; None if there are none."""
        found = [cosine for cosine in self.cosines if cosine is not None]
        return sum(found) / len(found) if found else None

    @property
    def face_share(self) -> float:
        """Share of the scored frames with a face, from 0 to 1."""
        return sum(cosine is not None for cosine in self.cosines) / len(self.cosines)

    @property
    def worst(self) -> WorstFrame:
        """The first frame with the lowest value, with 0 for a frame without a face."""
        value, frame = min(
            (cosine or 0.0, frame) for frame, cosine in zip(self.frames, self.cosines, strict=True)
        )
        return WorstFrame(frame=frame, time=frame / self.fps, value=value)


def measure_likeness(
    analyzer: FaceAnalyzer,
    recognizer: str,
    pixels: Pixels,
    mean: Points,
    fps: float,
    most: int = 0,
) -> Likeness:
    """Return the likeness of a clip to the identity with the mean embedding `mean`.

    `pixels` are its frames, RGB (frames, height, width, 3). At most `most` evenly spaced frames are
    scored; 0 scores all. Raises NotFinite.
    """
    frames = spaced(len(pixels), most)
    pictures = [pixels[frame] for frame in frames]
    faces = [subject_face(analyzer.detect(picture)) for picture in pictures]
    return Likeness(frames, face_cosines(analyzer, recognizer, pictures, faces, mean), fps)


def spaced(total: int, most: int) -> tuple[int, ...]:
    """Return `most` evenly spaced indices of `total`, the first and last included; all for 0.

    A single one is that in the middle.
    """
    if not 0 < most < total:
        return tuple(range(total))
    if most == 1:
        return (total // 2,)
    return tuple(round(number * (total - 1) / (most - 1)) for number in range(most))
