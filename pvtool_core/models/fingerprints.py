"""Fingerprints of weights: hashes that change with any file that has an effect on pixels."""

import dataclasses
import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from pvtool_core.models.digests import sha256_remembered
from pvtool_core.settings.schema import ModelConfig

_MODEL_FILES = {".json", ".safetensors", ".onnx", ".txt", ".model", ".bin"}


def with_fingerprints(model: ModelConfig) -> ModelConfig:
    """The model's settings with the fingerprints of its LoRAs and ControlNet, and of its base unless that is known."""
    loras = tuple(
        dataclasses.replace(lora, fingerprint=_fingerprint_of_lora(Path(lora.file)))
        for lora in model.loras
    )
    control = model.control
    if control.model:
        digests = [fingerprint(Path(control.model)), frames_fingerprint(Path(control.frames))]
        control = dataclasses.replace(control, fingerprint=" ".join(digests))
    return dataclasses.replace(
        model, fingerprint=fingerprint_of(model), loras=loras, control=control
    )


def peft_config_beside(lora: Path) -> Path | None:
    """Return PEFT's settings of a LoRA, which hold its strength, if it lies in a folder as PEFT saves it."""
    config = lora.with_name("adapter_config.json")
    return config if lora.stem == "adapter_model" and config.is_file() else None


def _fingerprint_of_lora(path: Path) -> str:
    """The file's fingerprint; with settings beside it, one that changes with them, too."""
    config = peft_config_beside(path)
    parts = [fingerprint(each) for each in (path, config) if each]
    return (
        parts[0] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
    )


def fingerprint_of(model: ModelConfig) -> str:
    """What tells one base model from another: `fingerprint` of all its parts, unless the job knows it."""
    if model.fingerprint:
        return model.fingerprint
    parts = [
        fingerprint(Path(part))
        for part in (model.base_model, model.motion_adapter, model.config)
        if part
    ]
    return (
        parts[0] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
    )


def fingerprint(path: Path, of: Collection[str] | None = _MODEL_FILES) -> str:
    """16 hex digits that change with any model file under `path`, and not with its place, its times or its read-me.

    `of` are the suffixes that count; None counts every file.
    """
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [file for file in found if file == path or of is None or file.suffix in of]
    index = [
        (str(file.relative_to(path)), file.stat().st_size, sha256_remembered(file))
        for file in files
        if file.is_file()
    ]
    return hashlib.sha256(json.dumps(index).encode()).hexdigest()[:16]


_FRAMES_READ = 2  # to be raised when the same files are read as other pictures: clips and trajectories depend on it


def frames_fingerprint(path: Path) -> str:
    """16 hex digits of a video, or of a folder's pictures in their order; their names and other files do not count."""
    from pvtool_core.media.photos import pictures_in  # with Pillow, which most commands do not need

    files = pictures_in(path) if path.is_dir() else [path]
    index = [_FRAMES_READ, *(sha256_remembered(file) for file in files)]
    return hashlib.sha256(json.dumps(index).encode()).hexdigest()[:16]
