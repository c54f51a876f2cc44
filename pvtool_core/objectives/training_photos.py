"""Photos of an identity for reconstruction: whole photos, cropped around the face to a size."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pvtool_core.errors import UsageError
from pvtool_core.media.photos import read_picture
from pvtool_core.store.identities import identity_in


class Photo(NamedTuple):
    """A photo in [0, 1], and the landmarks of its face in pixels."""

    pixels: Float[Tensor, "1 3 height width"]
    landmarks: Float[Tensor, "5 2"]


def read_training_photos(folder: Path, width: int, height: int, held_out: int = 0) -> list[Photo]:
    """Read the photos of an identity's folder in this size.

    The newest `held_out` ones are left out. Raises Missing or BrokenIdentity for another folder,
    UsageError if no photo is left.
    """
    faces = identity_in(folder).record.faces
    if not (used := faces[: len(faces) - held_out]):
        raise UsageError(
            f"{folder.name} has {len(faces)} photos, and none is left for training.",
            f"Set identity_reward.held_out_photos, which is {held_out}, to a smaller number.",
        )
    photos: list[Photo] = []
    for face in used:
        picture = read_picture(folder / face.reference)
        box = crop_around(face.bbox, picture.size, width / height)
        resized = picture.resize((width, height), Image.Resampling.LANCZOS, box)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255
        landmarks = torch.tensor(face.landmarks).view(5, 2) - torch.tensor(box[:2])
        photos.append(Photo(pixels, landmarks * (width / (box[2] - box[0]))))
    return photos


def crop_around(
    face: Sequence[float], size: tuple[int, int], aspect: float
) -> tuple[float, float, float, float]:
    """Return the largest box of an aspect ratio in a picture, centred on a face as far as possible.

    Boxes are left, top, right, bottom in pixels; `size` is the width and height of the picture.
    """
    across, down = map(float, size)
    width, height = min(across, down * aspect), min(down, across / aspect)
    left = min(max((face[0] + face[2] - width) / 2, 0.0), across - width)
    top = min(max((face[1] + face[3] - height) / 2, 0.0), down - height)
    return left, top, left + width, top + height
