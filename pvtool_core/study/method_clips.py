"""Clips of the methods of a study, from the sidecars of `pv render` or from a manifest."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pvtool_core.batches.clips import read_clip_record, shows_identity
from pvtool_core.batches.manifest import read_manifest
from pvtool_core.errors import InputRefused, Missing, printable
from pvtool_core.settings.formats import FORMATS
from pvtool_core.untrusted import exists

_FPS = 8  # the default of `model.fps`, for sidecars without settings of the model


class SetKey(NamedTuple):
    """The common part of the clips of a set."""

    identity: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class MethodClip:
    """A clip of a method: its file or folder of images, and its frames per second.

    They are 0 for a clip of another program, whose file says them.
    """

    file: Path
    fps: int


@dataclass
class MethodClips:
    """Clips of a method.

    A clip of the base model belongs to every identity: `pv render --base` renders it once for all
    with the same prompt.
    """

    name: str
    own: dict[SetKey, MethodClip] = field(default_factory=dict[SetKey, MethodClip])
    shared: dict[tuple[str, int], MethodClip] = field(
        default_factory=dict[tuple[str, int], MethodClip]
    )

    def find(self, key: SetKey) -> MethodClip | None:
        return self.own.get(key) or self.shared.get((key.prompt, key.seed))


MANIFEST = "clips.csv"
"""A folder with this file has clips of other programs."""


def read_method(name: str, folder: Path, identities: Collection[str] = ()) -> MethodClips:
    """Read the clips below a folder.

    A folder with a manifest has clips of other programs, of these `identities`: the rows whose
    method is `name`. Raises what `read_manifest` does, Missing without clips, InputRefused for an
    invalid sidecar, for a sidecar without a clip, and for two clips of the same identity, prompt
    and seed.
    """
    found = MethodClips(name)
    if exists(manifest := folder / MANIFEST):
        rows = read_manifest(manifest, folder, identities)
        for where, why in rows.refused.items():
            raise InputRefused(f"{where}: {why}.", "Correct or remove the row.")
        for clip in rows.clips:
            if clip.method == name:
                key = SetKey(clip.identity, clip.prompt, clip.seed)
                if key in found.own:
                    raise _twice(folder, key)
                found.own[key] = MethodClip(Path(clip.file), 0)
        if not found.own:
            raise Missing("method in the manifest", name, f"Use a method of {manifest}.")
        return found
    for sidecar in sorted(folder.rglob("seed-*.json")):
        record = read_clip_record(sidecar)
        key = SetKey(record["identity"], record["prompt"], record["seed"])
        if key in found.own:
            raise _twice(folder, key)
        clip = MethodClip(_file_of(sidecar), _fps(record))
        found.own[key] = clip
        if not shows_identity(record):
            found.shared[key.prompt, key.seed] = clip
    if not found.own:
        raise Missing("clip in the folder", str(folder), "Use a folder written by `pv render`.")
    return found


def _twice(folder: Path, key: SetKey) -> InputRefused:
    return InputRefused(
        f"{printable(folder, whole=True)} has two clips of {key.identity}, seed {key.seed}, and "
        f"the prompt {key.prompt!r}.",
        "Use a folder with the clips of one method, such as DIR/base or DIR/IDENTITY.",
    )


def _file_of(sidecar: Path) -> Path:
    for form in FORMATS.values():
        if exists(file := form.path(sidecar.with_suffix(""))):
            return file
    raise InputRefused(
        f"No clip found beside {printable(sidecar, whole=True)}.", "Render the clip again."
    )


def _fps(record: Mapping[str, Any]) -> int:
    model: Any = record.get("model")
    fps: Any = model.get("fps") if isinstance(model, dict) else None
    return fps if type(fps) is int and 1 <= fps <= 120 else _FPS
