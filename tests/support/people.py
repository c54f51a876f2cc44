"""Identities whose photos are noise, in which the small detector finds a face."""

from pathlib import Path

import numpy as np
from PIL import Image

from pvtool_core.media.decode import Pixels
from pvtool_core.settings.jobs import IdentityRef


def noise(side: int = 128, seed: int = 0) -> Pixels:
    """Return a picture of noise, in which the small detector finds a face, as in any picture."""
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)


def save_person(folder: Path, photos: int = 1) -> IdentityRef:
    """Write an identity whose photos and face crops are noise."""
    for kind, side in (("faces", 112), ("references", 128)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(photos):
            Image.fromarray(noise(side, number)).save(folder / kind / f"{number:03}.png")
    return IdentityRef(name="ann", noun="woman", folder=str(folder), fingerprint=f"{photos}")
