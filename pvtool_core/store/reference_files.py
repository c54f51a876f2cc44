"""Photos of an identity that encoder methods are given, and a hash of them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pvtool_core.errors import InputRefused
from pvtool_core.hashes import sha256_of


@dataclass(frozen=True)
class ReferenceFiles:
    """The photos and the aligned face crops of an identity, in the same order."""

    photos: tuple[Path, ...]
    crops: tuple[Path, ...]

    @property
    def sha256(self) -> str:
        """A hash of the content of all files."""
        digests = " ".join(sha256_of(file) for file in (*self.photos, *self.crops))
        return hashlib.sha256(digests.encode()).hexdigest()


def reference_files(identity: Path, held_out: int = 0) -> ReferenceFiles:
    """Return the files in an identity's folder, without the newest `held_out` photos.

    At least one photo remains. Raises InputRefused without crops.
    """
    photos = sorted((identity / "references").glob("*.png"))
    crops = sorted((identity / "faces").glob("*.png"))
    if not crops:
        raise InputRefused(
            f"No face crops found in {identity / 'faces'}.",
            "Restore the identity, or add it again.",
        )
    used = max(len(crops) - held_out, 1)
    return ReferenceFiles(tuple(photos[:used]), tuple(crops[:used]))
