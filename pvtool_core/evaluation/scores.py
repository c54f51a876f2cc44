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
from pvtool_core.settings.jobs import ClipFile, IdentityRef

FOLDER = "scores"


@dataclass(frozen=True)
class WorstFrame:
    """The frame with the lowest likeness: its number from 0, time in seconds, and likeness."""

    index: int
    time: float
    likeness: float


@dataclass
class ClipScores:
    """Values of a clip by metric, features by metric of sets, and what was found in its frames."""

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
        }


class ScoreFiles:
    """The scores of clips in an output folder."""

    def __init__(self, out: Path, digests: Mapping[str, str]) -> None:
        """Use the folder of `out`; `digests` say by metric how its values are computed."""
        self._folder, self._digests = out / FOLDER, digests

    def path(self, clip: ClipFile, identity: IdentityRef | None) -> Path:
        """Return the file of a clip's scores; reference clips have no identity.

        Raises OSError if the clip cannot be read.
        """
        known_by = identity.fingerprint if identity else ""
        facts = [clip_sha256(Path(clip.file)), known_by, clip.prompt, clip.fps]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        return self._folder / f"{key}.json"

    def read(self, path: Path, clip: ClipFile) -> ClipScores | None:
        """Return the valid values of a file; None if there are none."""
        try:
            known = orjson.loads(path.read_bytes())
            digests = known["digests"].items()
            valid = {name for name, digest in digests if self._digests.get(name) == digest}
            worst = known["worst_frame"]
            return ClipScores(
                clip,
                known["fps"],
                known["frames"],
                {name: value for name, value in known["scores"].items() if name in valid},
                {name: value for name, value in known["features"].items() if name in valid},
                WorstFrame(**worst) if worst else None,
                tuple(known["notes"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # scored again

    def write(self, path: Path, scored: ClipScores) -> None:
        """Write the scores of a clip."""
        path.parent.mkdir(parents=True, exist_ok=True)
        names = [*scored.scores, *scored.features]
        record = {
            **{key: value for key, value in scored.facts().items() if key != "file"},
            "features": scored.features,
            "notes": scored.notes,
            "digests": {name: self._digests[name] for name in names},
        }
        replace_file(path, json.dumps(record, ensure_ascii=False).encode())
