"""Where the weights of rendered clips are on this machine, for `pv render --from CLIP`.

Clips and sidecars have hashes of weights and no paths, as they leave the machine. The paths are in
`<data>/places/`, one file for the weights of each hash.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pvtool_core.files import replace_file
from pvtool_core.paths import data_dir
from pvtool_core.permissions import make_private
from pvtool_core.settings.jobs import RenderItem, Setup
from pvtool_core.untrusted import SMALL_BYTES, parse_json, read_regular

Kind = Literal["model", "lora", "control", "method", "adapter"]
Paths = dict[str, str]


def remember_places(setups: Sequence[Setup], items: Iterable[RenderItem]) -> None:
    """Record the paths of all weights of a batch."""
    for model in (setup.model for setup in setups):
        parts = {"base_model": model.base_model, "motion_adapter": model.motion_adapter}
        _remember("model", model.fingerprint, {**parts, "config": model.config})
        for lora in model.loras:
            _remember("lora", lora.fingerprint, {"file": lora.file})
        control = model.control
        paths = {"model": control.model, "frames": control.frames}
        _remember("control", control.fingerprint, paths)
    for method in (setup.method for setup in setups):
        paths = {"weights": method.weights, "image_encoder": method.image_encoder}
        paths |= {"detector": method.detector, "recognizer": method.recognizer}
        _remember("method", method.fingerprint, paths)
    for sha256, adapter in {item.adapter_sha256: item.adapter for item in items}.items():
        _remember("adapter", sha256, {"file": adapter})


def place_of(kind: Kind, key: str) -> Paths:
    """Return the recorded paths of weights by their hash; empty if unknown."""
    try:
        found: Any = parse_json(read_regular(_file(kind, key), SMALL_BYTES))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    paths = cast("Mapping[str, Any]", found)
    return {name: path for name, path in paths.items() if isinstance(path, str) and path}


def _remember(kind: Kind, key: str, paths: Mapping[str, str]) -> None:
    known = {name: path for name, path in paths.items() if path}
    if key and known and place_of(kind, key) != known:
        file = _file(kind, key)
        make_private(file.parent)
        replace_file(file, json.dumps(known).encode(), mode=0o600)


def _file(kind: Kind, key: str) -> Path:
    name = hashlib.sha256(f"{kind} {key}".encode()).hexdigest()[:32]
    return data_dir() / "places" / f"{name}.json"
