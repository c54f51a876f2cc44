"""Scores of single clips, kept in a file for each, so that an evaluation can be resumed.

OUT/scores/KEY.json     KEY covers the clip's content, its identity, prompt and frame rate

Each value has a digest of how it was computed: values of other weights or definitions are ignored.
Several processes may score clips of the same folder.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from pvtool_core.batches.clips import clip_sha256
from pvtool_core.files import replace_file
from pvtool_core.hashes import sha256_of_folder
from pvtool_core.settings.jobs import ClipFile, IdentityRef
from pvtool_core.store.runs import own_folder
from pvtool_core.untrusted import RECORD_BYTES, read_regular

FOLDER = "scores"


@dataclass(frozen=True)
class WorstFrame:
    """The frame with the lowest likeness: its number from 0, time in seconds, and likeness."""

    index: int
    time: float
    likeness: float


@dataclass
class ClipScores:
    """Values of a clip by metric, features by metric of sets, its worst frame, and notes."""

    clip: ClipFile
    fps: float
    frames: int
    scores: dict[str, float | None] = field(default_factory=dict[str, float | None])
    features: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    worst_frame: WorstFrame | None = None
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return the clip's entry in the report."""
        return {
            **asdict(self.clip),
            "fps": self.fps,
            "frames": self.frames,
            "scores": self.scores,
            "worst_frame": asdict(self.worst_frame) if self.worst_frame else None,
            "notes": list(self.notes),
        }


class ScoreFiles:
    """The scores of clips in an output folder."""

    def __init__(self, out: Path, digests: Mapping[str, str]) -> None:
        """Use the folder of `out`; `digests` say by metric how its values are computed."""
        self._folder, self._digests = out / FOLDER, digests
        self._photos: dict[str, str] = {}

    def path(self, clip: ClipFile, identity: IdentityRef | None) -> Path:
        """Return the file of a clip's scores; reference clips have no identity.

        Raises OSError if the clip cannot be read.
        """
        known_by = self._photos_of(identity) if identity else ""
        facts = [clip_sha256(Path(clip.file)), known_by, clip.prompt, clip.fps]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        return self._folder / f"{key}.json"

    def _photos_of(self, identity: IdentityRef) -> str:
        """Return a hash of the photos and crops of an identity."""
        if identity.folder not in self._photos:
            folders = (Path(identity.folder) / kind for kind in ("faces", "references"))
            self._photos[identity.folder] = " ".join(map(sha256_of_folder, folders))
        return self._photos[identity.folder]

    def read(self, path: Path, clip: ClipFile) -> ClipScores | None:
        """Return the valid values of a file; None if there are none."""
        known = _read(path)
        if known is None:
            return None
        digests = known["digests"].items()
        valid = {name for name, digest in digests if self._digests.get(name) == digest}
        worst = known["worst_frame"] if "likeness_min" in valid else None
        return ClipScores(
            clip,
            known["fps"],
            known["frames"],
            {name: value for name, value in known["scores"].items() if name in valid},
            {name: value for name, value in known["features"].items() if name in valid},
            WorstFrame(**worst) if worst else None,
            tuple(known["notes"]),
        )

    def write(self, path: Path, scored: ClipScores) -> None:
        """Write the scores of a clip; values of metrics that this evaluation omits are kept."""
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        own_folder(path.parent)
        before = _read(path) or {"scores": {}, "features": {}, "digests": {}, "worst_frame": None}
        names = [*scored.scores, *scored.features]
        facts = scored.facts()
        record = {
            **{key: value for key, value in facts.items() if key != "file"},
            "worst_frame": facts["worst_frame"] or before["worst_frame"],
            "scores": {**before["scores"], **scored.scores},
            "features": {**before["features"], **scored.features},
            "digests": {**before["digests"], **{name: self._digests[name] for name in names}},
        }
        replace_file(path, json.dumps(record, ensure_ascii=False).encode())


def _read(path: Path) -> dict[str, Any] | None:
    """Return the content of a file of scores; None if it is missing or not as `write` writes it."""
    try:
        known: Any = orjson.loads(read_regular(path, RECORD_BYTES))
        worst = known["worst_frame"]
        numbers = [known["frames"], *known["scores"].values()]
        numbers += [number for values in known["features"].values() for number in values]
        texts = [*known["notes"], *known["digests"], *known["digests"].values()]
        sound = (
            all(number is None or type(number) in (int, float) for number in numbers)
            and all(isinstance(text, str) for text in texts)
            and type(known["fps"]) in (int, float)
            and known["fps"] > 0
            and (worst is None or worst.keys() == WorstFrame.__dataclass_fields__.keys())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return known if sound else None
