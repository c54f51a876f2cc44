"""What a rendered clip is called, what lies beside it, and when it counts as whole.

    OUT/IDENTITY/PROMPT-SLUG-HASH/seed-000003.mp4  seed-000003.gif  seed-000003.json

The hash covers everything that changes the file, so that a changed setting never meets an old clip, and the same
command twice renders nothing. The sidecar is written last: a clip without one, or with files other than it says, is
made again.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pvtool_core.config import ModelConfig, Settings
from pvtool_core.paths import replace_file
from pvtool_core.prompts import without_keyword
from pvtool_core.runs import sha256_of

BASE = "base"


def clip_path(out: Path, identity: str, prompt: str, seed: int, settings: Settings, adapter_sha256: str = "") -> Path:
    """The clip's path without its suffix. For the model without an adapter, `identity` is BASE and the digest empty."""
    digest = hashlib.sha256(json.dumps(_facts(prompt, settings, adapter_sha256), sort_keys=True).encode()).hexdigest()
    return out / identity / f"{slug(prompt)}-{digest[:8]}" / f"seed-{seed:06d}"


def _facts(prompt: str, settings: Settings, adapter_sha256: str) -> dict[str, Any]:
    start = settings.adapter.start if adapter_sha256 else None
    return {
        "prompt": prompt,
        "model": model_facts(settings.model),
        "sampler": asdict(settings.sampler),
        "adapter": adapter_sha256,
        "start": start,
    }


_PLACES = {"base_model", "motion_adapter", "config", "device", "threads", "offload", "loras", "control"}


def model_facts(model: ModelConfig) -> dict[str, Any]:
    """All of the model's settings that change pixels, and no place on this machine; as JSON gives it back."""
    settings = {key: value for key, value in asdict(model).items() if key not in _PLACES}
    loras = [[lora.fingerprint, lora.weight] for lora in model.loras]
    return {**settings, "loras": loras, "control": [model.control.fingerprint, model.control.weight]}


def slug(prompt: str, length: int = 40) -> str:
    """The prompt's first words in lower case, for people who look into the folder; whole words where they fit."""
    plain = unicodedata.normalize("NFKD", without_keyword(prompt)).encode("ascii", "ignore").decode().lower()
    words = "-".join(re.findall(r"[a-z0-9]+", plain)) or "prompt"
    return words if len(words) <= length else words[: length + 1].rpartition("-")[0] or words[:length]


def sidecar_path(clip: Path) -> Path:
    """The JSON file beside a clip."""
    return clip.with_name(clip.name + ".json")


def write_sidecar(clip: Path, formats: Iterable[str], facts: Mapping[str, Any]) -> None:
    """Call the clip's files, which must be there, whole; `facts` is all that is needed to make it again."""
    files = {file.name: sha256_of(file) for file in (clip.with_name(f"{clip.name}.{suffix}") for suffix in formats)}
    record = {**facts, "files": {**_recorded_files(clip), **files}}
    replace_file(sidecar_path(clip), json.dumps(record, indent=1, ensure_ascii=False).encode())


def is_whole(clip: Path, formats: Iterable[str]) -> bool:
    """Whether the clip is there in each of `formats`, as it was written."""
    recorded = _recorded_files(clip)
    return all(
        (name := f"{clip.name}.{suffix}") in recorded
        and (file := clip.with_name(name)).is_file()
        and sha256_of(file) == recorded[name]
        for suffix in formats
    )


def _recorded_files(clip: Path) -> dict[str, str]:
    try:
        return json.loads(sidecar_path(clip).read_bytes())["files"]
    except FileNotFoundError:
        return {}
