"""Enrolment: read and check reference photos, and write face crops and embeddings.

The stored photo is upright and without EXIF data (place, time, camera). The aligned face and its
embedding by each recogniser are stored beside it. If one photo is refused, all are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from pvtool_core.errors import BadPicture, FaceRefused, InputRefused, printable
from pvtool_core.faces.analyzer import Face, FaceAnalyzer, Picture, align
from pvtool_core.media.generated_marks import MARKS, generated_mark
from pvtool_core.media.photos import PHOTO_FORMATS, Warn, read_picture
from pvtool_core.paths import path_of
from pvtool_core.settings.jobs import EnrollJob
from pvtool_core.store.events import Report, StageEvent, WarningEvent
from pvtool_core.store.identities import EMBEDDINGS_FILE, FACES_FILE, LARGEST_SIDE

SMALLEST_EYE_DISTANCE = 10.0
MOST_BLUR = 0.65
LEAST_LIKENESS = 0.2


@dataclass(frozen=True)
class Portrait:
    """An accepted photo: the stored picture, its face, and the aligned crop (112, 112, 3).

    `generated` is the mark of a generator in the file, which the user has allowed.
    """

    path: Path
    picture: Picture
    face: Face
    crop: Picture
    generated: str = ""


def enroll(job: EnrollJob, report: Report) -> None:
    """Fill the staging folder `job.identity.folder`.

    Raises BadPicture or FaceRefused, which fails the job.
    """
    rewards = job.identity_reward
    recognizers = (rewards.recognizer, job.evaluation.recognizer)
    report(StageEvent(stage="loading"))
    size, threshold = rewards.detection_size, rewards.detection_threshold
    analyzer = FaceAnalyzer(
        Path(rewards.package),
        rewards.detector,
        recognizers,
        size,
        threshold,
        threads=job.model.threads,
    )

    def warn(message: str) -> None:
        report(WarningEvent(message=message))

    portraits: list[Portrait] = []
    for number, path in enumerate(map(path_of, job.pictures)):
        report(StageEvent(stage="detecting", done=number, total=len(job.pictures)))
        mark = check_not_generated(path, job.allow_generated)
        accepted = portrait(analyzer, path, job.face, warn)
        portraits.append(replace(accepted, generated=mark))
    crops = [each.crop for each in portraits]
    embeddings = {name: torch.from_numpy(analyzer.embed(crops, name)) for name in recognizers}
    check_likeness(portraits, embeddings[rewards.recognizer].numpy())
    keep(Path(job.identity.folder), portraits, embeddings)


def check_not_generated(path: Path, allow: bool) -> str:
    """Return the mark of a generator in a photo, or "". Raises BadPicture unless `allow`."""
    mark = generated_mark(path)
    if mark and not allow:
        raise BadPicture(
            path,
            f"is marked as {MARKS[mark]} ({mark})",
            "Use a photo of the person. If they agree to this one, add --allow-generated.",
        )
    return mark


def read_photo(path: Path, warn: Warn | None = None) -> Picture:
    """Read an upright sRGB image (height, width, 3), no side longer than LARGEST_SIDE.

    `warn` receives a message for each loss of information. Raises BadPicture.
    """
    return np.asarray(
        read_picture(path, formats=PHOTO_FORMATS, side=LARGEST_SIDE, warn=warn or _ignore)
    )


def _ignore(_: str) -> None:
    pass


def portrait(analyzer: FaceAnalyzer, path: Path, wanted: int, warn: Warn | None = None) -> Portrait:
    """Read a photo and check its face; `wanted` is its number from the left.

    0 expects a single face. Raises BadPicture, FaceRefused, or InputRefused for fewer faces than
    `wanted`.
    """
    picture = read_photo(path, warn)
    face = choose(path, analyzer.detect(picture), wanted)
    if face.eye_distance < SMALLEST_EYE_DISTANCE:
        raise FaceRefused(path, "small", f"{face.eye_distance:.0f} pixels between the eyes")
    if blur(picture, face) > MOST_BLUR:
        raise FaceRefused(path, "blurred")
    return Portrait(path, picture, face, align(picture, face.landmarks))


def choose(path: Path, faces: Sequence[Face], wanted: int) -> Face:
    """Return the selected face. Raises FaceRefused or InputRefused."""
    if not faces:
        raise FaceRefused(path, "none")
    if not wanted and len(faces) > 1:
        raise FaceRefused(path, "several", f"{len(faces)} were found")
    if wanted > len(faces):
        problem = f"No face {wanted} in {printable(path)}: {len(faces)} found."
        raise InputRefused(problem, f"Use --face 1 to {len(faces)}, counted from the left.")
    return faces[max(wanted, 1) - 1]


def blur(picture: Picture, face: Face) -> float:
    """Return the blur of a face, from 0 (sharp) to 1 (Crété et al. 2007).

    It measures how little further blurring changes the face. The face is scaled to at most 64
    pixels, since recognisers ignore finer detail and the score then does not depend on the photo's
    size. A face blurred by a twentieth of its width scores 0.65, a sharp one 0.2 to 0.45.
    """
    from skimage.measure import blur_effect

    left, top, right, bottom = np.round(face.bbox).astype(int).clip(0).tolist()
    image = Image.fromarray(picture[top:bottom, left:right]).convert("L")
    image.thumbnail((64, 64), Image.Resampling.LANCZOS)
    return float(np.mean(blur_effect(np.asarray(image))))


def check_likeness(portraits: Sequence[Portrait], embeddings: np.ndarray) -> None:
    """Raise FaceRefused for the photo least similar to the others.

    Photos are compared by unit embeddings (photos, dimensions).
    """
    if len(portraits) < 2:
        return
    likeness = embeddings @ embeddings.T
    to_others = (likeness.sum(1) - np.diag(likeness)) / (len(portraits) - 1)
    odd = len(portraits) - 1 - int(to_others[::-1].argmin())
    if to_others[odd] < LEAST_LIKENESS:
        raise FaceRefused(portraits[odd].path, "unlike", f"likeness {to_others[odd]:.2f}")


def keep(folder: Path, portraits: Sequence[Portrait], embeddings: dict[str, torch.Tensor]) -> None:
    """Write references, faces, embeddings and faces.json, in the order of the photos."""
    for name in ("references", "faces"):
        (folder / name).mkdir(mode=0o700)
    save_file(embeddings, folder / EMBEDDINGS_FILE)
    records = [_keep_one(folder, number, each) for number, each in enumerate(portraits)]
    (folder / FACES_FILE).write_text(json.dumps(records))


def _keep_one(folder: Path, number: int, portrait: Portrait) -> dict[str, Any]:
    reference, face = f"references/{number:03d}.png", f"faces/{number:03d}.png"
    iio.imwrite(folder / reference, portrait.picture)
    iio.imwrite(folder / face, portrait.crop)
    return {
        "picture": printable(portrait.path),
        "reference": reference,
        "face": face,
        "bbox": portrait.face.bbox.tolist(),
        "score": portrait.face.score,
        "landmarks": portrait.face.landmarks.tolist(),
        **({"generated": portrait.generated} if portrait.generated else {}),
    }
