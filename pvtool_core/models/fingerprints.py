"""Fingerprints of weights: hashes that change with any file that affects pixels."""

import dataclasses
import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from pvtool_core.hashes import cached_sha256
from pvtool_core.settings.schema import MethodConfig, ModelConfig, named_weights

_MODEL_FILES = {".json", ".safetensors", ".onnx", ".txt", ".model", ".bin"}
_METHOD_FILES = {*_MODEL_FILES, ".pt", ".pth", ".ckpt"}


def with_fingerprints(model: ModelConfig) -> ModelConfig:
    """Return the model settings with fingerprints of LoRAs, ControlNet and base model.

    A fingerprint of the base model that is set is kept.
    """
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
    """Return the PEFT configuration of a LoRA, or None.

    It contains the scale, and is in the LoRA's folder if PEFT saved it.
    """
    config = lora.with_name("adapter_config.json")
    return config if lora.stem == "adapter_model" and config.is_file() else None


def _fingerprint_of_lora(path: Path) -> str:
    """Return the fingerprint of a LoRA file, including its PEFT configuration if it has one."""
    config = peft_config_beside(path)
    parts = [fingerprint(each) for each in (path, config) if each]
    return (
        parts[0] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
    )


def fingerprint_of(model: ModelConfig) -> str:
    """Return the fingerprint of all parts of a base model, or the one that the job records."""
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


def method_fingerprint(method: MethodConfig) -> str:
    """Return the fingerprint of all files of an encoder method, besides its base model."""
    parts = [fingerprint(Path(part), _METHOD_FILES) for part in named_weights(method)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def fingerprint(path: Path, of: Collection[str] | None = _MODEL_FILES) -> str:
    """Return 16 hex digits of the content of all model files under `path`.

    They do not depend on location or times. `of` are the file suffixes that count; None counts
    every file.
    """
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [file for file in found if file == path or of is None or file.suffix in of]
    index = [
        (str(file.relative_to(path)), file.stat().st_size, cached_sha256(file))
        for file in files
        if file.is_file()
    ]
    return hashlib.sha256(json.dumps(index).encode()).hexdigest()[:16]


_FRAMES_READ = 2  # increment when the same files decode to other images


def frames_fingerprint(path: Path) -> str:
    """Return 16 hex digits of a video, or of the images in a folder in their order.

    File names do not count.
    """
    # imports Pillow, which most commands do not need
    from pvtool_core.media.photos import pictures_in

    files = pictures_in(path) if path.is_dir() else [path]
    index = [_FRAMES_READ, *(cached_sha256(file) for file in files)]
    return hashlib.sha256(json.dumps(index).encode()).hexdigest()[:16]
