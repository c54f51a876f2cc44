"""Style LoRAs: files of other authors, merged into the model before anything else.

Merged weights cost nothing in a forward pass, and the result is another base model: the trajectory
cache identifies it by the fingerprints of the files. Names (`lora_names.py`) and scales
(`lora_files.py`) are read here and not by diffusers, whose converters drop tensors and alphas:
either every tensor of a file is merged, or the file is refused.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pvtool_core.backbones.lora_files import (
    LoraFile,
    Part,
    Piece,
    Training,
    read_lora,
    scale_of,
    shown,
)
from pvtool_core.backbones.lora_names import Rows, Table, Target, layer_names, without_prefixes
from pvtool_core.errors import InputRefused
from pvtool_core.settings.families import FAMILIES, Family
from pvtool_core.settings.schema import ModelConfig
from pvtool_core.store.events import LoraEvent

MERGE_VERSION = 2
"""Part of the trajectory cache's key with LoRAs: increment when merging changes."""
_SHOWN_KEYS = 10

_PAIRS: Mapping[Part, Sequence[Part]] = {
    "down": ("up",),
    "up": ("down",),
    "up bias": ("down",),
    "alpha": ("down", "up"),
    "magnitude": ("down", "up"),
    "dora_scale": ("down", "up"),
}
"""Other parts that a part requires."""


@dataclass(frozen=True)
class Base:
    """Components of a pipeline for LoRAs, with their parameters and all names of their layers."""

    model: str
    made_for: str
    parameters: Mapping[str, Mapping[str, nn.Parameter]]
    table: Table

    @classmethod
    def of(cls, pipeline: Any, family: Family) -> "Base":
        parts: dict[str, nn.Module] = {name: getattr(pipeline, name) for name in family.lora_names}
        parameters = {name: dict(part.named_parameters()) for name, part in parts.items()}
        return cls(
            type(pipeline).__name__.removesuffix("Pipeline"),
            family.lora_base,
            parameters,
            layer_names(parts, family.lora_names),
        )

    def weights(self, target: Target) -> list[Tensor]:
        """Return the rows of a layer in a file, as views."""
        return [
            self._rows(self._parameter(rows.component, rows.path, "weight"), rows)
            for rows in target
        ]

    def biases(self, target: Target) -> list[Tensor] | None:
        """Return the biases of a layer in a file, or None if one is missing."""
        found: list[Tensor] = []
        for rows in target:
            bias = self.parameters[rows.component].get(f"{rows.path}.bias")
            if bias is None:
                return None
            found.append(self._rows(bias, rows))
        return found

    def _parameter(self, component: str, path: str, kind: str) -> Tensor:
        parameters = self.parameters[component]
        return parameters[f"{path}.{kind}"] if f"{path}.{kind}" in parameters else parameters[path]

    def _rows(self, parameter: Tensor, rows: Rows) -> Tensor:
        return parameter.data[rows.start : rows.stop]


@dataclass(frozen=True)
class Layer:
    """The tensors of a file for one layer of the model; `name` is the name in the file."""

    name: str
    target: Target
    parts: Mapping[Part, Tensor]


@torch.no_grad()
def merge_style_loras(pipeline: Any, model: ModelConfig) -> tuple[LoraEvent, ...]:
    """Merge each style LoRA of the settings, scaled by its weight, into the parts of the pipeline.

    Sums are computed in float32 and rounded to the model's type once per file. Returns an event for
    each file, for `Backbone.merged_loras`. Raises InputRefused if a file is not a LoRA, if any of
    its tensors does not fit the model, or if merged weights are not finite.
    """
    if not model.loras:
        return ()
    merged: list[LoraEvent] = []
    base = Base.of(pipeline, FAMILIES[model.family])
    for lora in model.loras:
        file = read_lora(Path(lora.file))
        layers = _layers(file, base)
        scale = scale_of(file, lambda name: without_prefixes(name, base.table))
        for layer in layers:
            _check_sizes(file, layer, base)
        for layer in layers:
            _merge(file, layer, base, scale, lora.weight)
        merged.append(_event_of(file, layers))
    return tuple(merged)


def _event_of(file: LoraFile, layers: Sequence[Layer]) -> LoraEvent:
    matched = sum(len(layer.parts) for layer in layers)
    return LoraEvent(
        role="style LoRA",
        name=file.path.name,
        keys=matched + len(file.markers),
        matched=matched,
        unmatched=tuple(map(shown, file.markers[:_SHOWN_KEYS])),
    )


def _layers(file: LoraFile, base: Base) -> list[Layer]:
    """Group the tensors of a file by layer.

    Raises InputRefused for an unknown name or a missing part.
    """
    named = {piece.layer: without_prefixes(piece.layer, base.table) for piece in file.pieces}
    if other := _other_base(file, base):
        raise _unfit(file, base, f"it was made for {other}.")
    if strange := [layer for layer, name in named.items() if name not in base.table]:
        raise _without_place(file, base, named, strange)
    grouped: dict[Target, dict[Part, Piece]] = {}
    for piece in file.pieces:
        parts = grouped.setdefault(base.table[named[piece.layer]], {})
        if piece.part in parts:
            twice = f"{shown(parts[piece.part].key)} and {shown(piece.key)}"
            raise InputRefused(
                f"The LoRA {file.path} holds one layer twice: {twice}.", "Use one adapter per file."
            )
        parts[piece.part] = piece
    for parts in grouped.values():
        for part, piece in parts.items():
            if lacking := [needed for needed in _PAIRS.get(part, ()) if needed not in parts]:
                raise InputRefused(
                    f"The LoRA {file.path} is incomplete: {shown(piece.key)} lacks its "
                    f"{lacking[0]} matrix.",
                    "Download it again.",
                )
    return [
        Layer(
            next(iter(parts.values())).layer,
            target,
            {part: piece.tensor for part, piece in parts.items()},
        )
        for target, parts in grouped.items()
    ]


# Mismatches


def _check_sizes(file: LoraFile, layer: Layer, base: Base) -> None:
    """Raise InputRefused for a tensor whose size differs from its layer."""
    rows = base.weights(layer.target)
    shape = (sum(map(len, rows)), *rows[0].shape[1:])
    biases = base.biases(layer.target)
    for part, tensor in layer.parts.items():
        if part in {"up bias", "bias diff"}:
            if biases is None:
                raise _unfit(file, base, f"the layer {shown(layer.name)} has no bias in the model.")
            fits = tensor.numel() == sum(map(len, biases))
        elif part == "diff":
            fits = _squeezed(tensor.shape) == _squeezed(shape)
        elif part == "down":
            fits = _fit(tensor, layer.parts["up"], shape)
        else:
            fits = part not in {"magnitude", "dora_scale"} or _axis(part, tensor, shape) is not None
        if not fits:
            theirs = (
                layer.parts["up"].shape[:1] + tensor.shape[1:] if part == "down" else tensor.shape
            )
            raise _unfit(
                file,
                base,
                f"its layers have other sizes. {shown(layer.name)} is {_times(theirs)} in the file "
                f"and {_times(shape)} in the model.",
            )


def _fit(down: Tensor, up: Tensor, shape: Sequence[int]) -> bool:
    """Return whether up times down has this shape; matrices equal 1 × 1 convolutions."""
    if down.ndim < 2 or up.ndim < 2 or not len(down) or up.shape[:2] != (shape[0], len(down)):
        return False
    return (
        _squeezed(down.shape[1:]) == _squeezed(shape[1:])
        and not _squeezed(up.shape[2:])
        and len(shape) > 1
    )


def _squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _times(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "1"


def _axis(part: Part, magnitude: Tensor, shape: Sequence[int]) -> int | None:
    """Return the axis of the weight that a magnitude refers to, or None for other sizes.

    PEFT's has one value per output. LyCORIS and OneTrainer have (out, 1) or (1, in), which is
    resolved as in ComfyUI.
    """
    count = magnitude.numel()
    if part == "magnitude" or (magnitude.ndim and len(magnitude) == shape[0]):
        return 0 if count == shape[0] else None
    return 1 if len(shape) > 1 and count == shape[1] else None


def _without_place(
    file: LoraFile, base: Base, named: Mapping[str, str], strange: Sequence[str]
) -> InputRefused:
    """Return the error for layers that are missing in the model.

    The LoRA is for another base model or number of blocks, or has unknown names.
    """
    count = f"{len(strange)} of its {len(named)} layers"
    likely = made_for(file)
    if likely and base.made_for not in likely:
        return _unfit(file, base, f"{count} do not exist in it.")
    patterns = {_DIGITS.sub("#", name) for name in base.table}
    if all(_DIGITS.sub("#", named[layer]) in patterns for layer in strange):
        return _unfit(
            file,
            base,
            f"{count} belong to blocks that it does not have, for example {shown(strange[0])}.",
        )
    unknown = next(layer for layer in strange if _DIGITS.sub("#", named[layer]) not in patterns)
    return InputRefused(
        f"The LoRA {file.path} does not fit this {base.model} model: {count} have unknown names, "
        f"for example {shown(unknown)}.",
        f"Use a LoRA for {base.made_for} with the names of diffusers, PEFT, kohya-ss, "
        "ComfyUI or the original code.",
    )


_DIGITS = re.compile(r"(?<![a-zA-Z\d])\d+")  # numbers of blocks, not that of `attn1`


def _unfit(file: LoraFile, base: Base, misfit: str) -> InputRefused:
    likely = made_for(file)
    if likely and base.made_for in likely:
        likely = None  # would not explain the mismatch
    looks = (
        f" It looks like one for {likely}." if likely and "it was made for" not in misfit else ""
    )
    return InputRefused(
        f"The LoRA {file.path} does not fit this {base.model} model: {misfit}{looks}",
        "Use a LoRA that was made for this base model.",
    )


# Base model of a file

_ARCHITECTURES = (
    (r"sdxl|stable-diffusion-xl", "Stable Diffusion XL"),
    (r"sd_?v2|sd_2|stable-diffusion-v2", "Stable Diffusion 2.x"),
    (r"sd3|stable-diffusion-3", "Stable Diffusion 3"),
    (r"flux", "FLUX"),
    (r"wan", "Wan"),
    (r"hunyuan", "HunyuanVideo"),
    (r"qwen", "Qwen-Image"),
    (r"ltx", "LTX-Video"),
)


def made_for(file: LoraFile) -> str | None:
    """Return the base model of a LoRA, from its metadata, names and sizes."""
    if said := _by_metadata(file):
        return said
    names = " ".join(piece.layer for piece in file.pieces)
    if re.search(r"(img|txt)_mod[._]lin\b|modulation[._]lin\b|_(img|txt)_mlp_\d", names):
        return "HunyuanVideo or FLUX" if "." in names else "FLUX"
    if re.search(r"double_blocks|single_transformer_blocks", names):
        return "HunyuanVideo or FLUX"
    if re.search(r"(^|[ .]|lora_unet_+)blocks[._]\d+[._](self_attn|cross_attn|attn[12])", names):
        return "Wan"
    if "lora_te1_" in names or "lora_te2_" in names:
        return "Stable Diffusion XL"
    downs = [piece for piece in file.pieces if piece.part == "down" and piece.tensor.ndim > 1]
    widths = {piece.tensor.shape[1] for piece in downs if re.search(r"attn2[._]to_k", piece.layer)}
    by_width = {
        768: "Stable Diffusion 1.x",
        1024: "Stable Diffusion 2.x",
        2048: "Stable Diffusion XL",
    }
    return next((by_width[width] for width in sorted(widths) if width in by_width), None)


def _by_metadata(file: LoraFile) -> str | None:
    said = " ".join(
        file.metadata.get(key, "") for key in ("modelspec.architecture", "ss_base_model_version")
    ).lower()
    return next(
        (base for pattern, base in _ARCHITECTURES if re.search(rf"\b(?:{pattern})", said)), None
    )


def _other_base(file: LoraFile, base: Base) -> str | None:
    """Return another base model for which the file was certainly made.

    Names and sizes can fit both: FLUX has the layer names and widths of HunyuanVideo, but 19 and 38
    blocks instead of 20 and 40.
    """
    said = _by_metadata(file)
    if said and said != base.made_for:
        return said
    if base.made_for != "HunyuanVideo":
        return None
    names = " ".join(piece.layer.replace("_", ".") for piece in file.pieces)
    double = {
        int(number)
        for number in re.findall(r"(?:double|(?<!single\.)transformer)\.blocks\.(\d+)", names)
    }
    single = {
        int(number) for number in re.findall(r"single\.(?:transformer\.)?blocks\.(\d+)", names)
    }
    return "FLUX" if double == set(range(19)) and single == set(range(38)) else None


# The merge


def _merge(
    file: LoraFile,
    layer: Layer,
    base: Base,
    scale: Callable[[Training, Tensor | None], float],
    weight: float,
) -> None:
    rows = base.weights(layer.target)
    before = torch.cat(rows).float()
    shape, parts = (
        before.shape,
        {part: tensor.to(before.device).float() for part, tensor in layer.parts.items()},
    )
    merged, factor = before, 0.0
    if "down" in parts:
        rank = len(parts["down"])
        names = (layer.name, without_prefixes(layer.name, base.table), str(layer.target[0]))
        seen = Training(names, layer.target[0].component, rank, bool(_squeezed(shape[2:])))
        factor = weight * scale(seen, layer.parts.get("alpha"))
        merged = merged + factor * (parts["up"].flatten(1) @ parts["down"].flatten(1)).reshape(
            shape
        )
    for part in ("magnitude", "dora_scale"):
        if part in parts:
            merged = _rescaled(merged, parts[part], _axis(part, layer.parts[part], shape) or 0)
    if "diff" in parts:
        merged = merged + weight * parts["diff"].reshape(shape)
    _put_back(file, layer, rows, before, merged)
    added = [(weight, parts.get("bias diff")), (factor, parts.get("up bias"))]
    biases = base.biases(layer.target)
    if biases and any(tensor is not None for _, tensor in added):
        before = torch.cat(biases).float()
        merged = sum(
            (times * tensor.flatten() for times, tensor in added if tensor is not None), before
        )
        _put_back(file, layer, biases, before, merged)


def _rescaled(merged: Tensor, magnitude: Tensor, axis: int) -> Tensor:
    """Apply DoRA: `magnitude` is the norm of each merged row (axis 0) or column (axis 1)."""
    others = [each for each in range(merged.ndim) if each != axis]
    norm = torch.linalg.vector_norm(merged, dim=others, keepdim=True)
    return merged * (magnitude.reshape(norm.shape) / norm)


def _put_back(
    file: LoraFile, layer: Layer, rows: Sequence[Tensor], before: Tensor, merged: Tensor
) -> None:
    """Write the merged rows into the model.

    Raises InputRefused if one is not finite in the model's type.
    """
    for row, part in zip(rows, merged.split([len(row) for row in rows]), strict=True):
        rounded = part.to(row.dtype)
        if not torch.isfinite(rounded).all():
            dtype = str(row.dtype).removeprefix("torch.")
            if not torch.isfinite(before).all():
                raise InputRefused(
                    f"The base model's weights are not finite numbers in {shown(layer.name)}, "
                    f"into which the LoRA {file.path} would be merged.",
                    "Download the base model again.",
                )
            raise InputRefused(
                f"The LoRA {file.path} makes weights of {shown(layer.name)} not finite in {dtype}.",
                "Use a smaller weight for the LoRA, or another LoRA.",
            )
        row.copy_(rounded)
