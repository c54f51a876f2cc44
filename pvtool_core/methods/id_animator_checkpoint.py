"""Read ID-Animator's published checkpoint, and convert it to diffusers' IP-Adapter.

    [module.]image_proj_model.*                      resampler of IP-Adapter Plus
    [module.]adapter_modules.N.to_{k,v}_face.*       face branch of a cross-attention layer
    [module.]adapter_modules.N.to_{q,k,v,out}_lora.* LoRA of the same layer, always active

N counts the spatial attention layers, self- and cross-attention, in the order of the UNet's
modules. The motion modules have none.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pvtool_core.errors import InputRefused
from pvtool_core.tensor_files import read_weights

Weights = Mapping[str, Tensor]
_LORA = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
"""Names of a LoRA in the checkpoint, with those of its layers in diffusers."""
_NUMBERED = re.compile(r"(\d{1,4})\.(.+)")
_CROSS_ATTENTION = re.compile(r"(?!.*motion_modules).*\.attn2\.processor")
HINT = "Use animator.ckpt of `pv models fetch id-animator`, with Stable Diffusion 1.5."


@dataclass(frozen=True)
class FaceAdapter:
    """The checkpoint by layers of a UNet.

    `resampler` has the published names, which diffusers converts. `projections` are those of the
    face branch by diffusers' names for IP-Adapters, and `loras` the down and up projections by the
    name of their layer.
    """

    resampler: Weights
    projections: Weights
    loras: Mapping[str, tuple[Tensor, Tensor]]


def read_face_adapter(file: Path, unet: Any) -> FaceAdapter:
    """Return the checkpoint for a UNet; it is read as tensors only. Raises InputRefused."""
    weights = read_weights(file)
    resampler = _within(weights, "image_proj_model.")
    layers = _by_number(_within(weights, "adapter_modules."))
    names = [name for name in unet.attn_processors if _CROSS_ATTENTION.fullmatch(name)]
    if not resampler or not layers:
        raise InputRefused(f"{file.name} is not a checkpoint of ID-Animator.", HINT)
    if len(layers) != len(names):
        raise InputRefused(
            f"{file.name} has weights for {len(layers)} cross-attention layers, but the UNet has "
            f"{len(names)}.",
            HINT,
        )
    projections: dict[str, Tensor] = {}
    loras: dict[str, tuple[Tensor, Tensor]] = {}
    for index, (name, parts) in enumerate(zip(names, layers, strict=True)):
        try:
            for letter in "kv":  # diffusers counts self-attention layers, too
                key = f"{2 * index + 1}.to_{letter}_ip.weight"
                projections[key] = parts[f"to_{letter}_face.weight"]
            for part, layer in _LORA.items():
                pair = tuple(parts[f"{part}_lora.{kind}.weight"] for kind in ("down", "up"))
                loras[f"{name.removesuffix('.processor')}.{layer}"] = pair[0], pair[1]
        except KeyError as error:
            problem = f"{file.name} has no {error.args[0]} for the layer {name}."
            raise InputRefused(problem, HINT) from error
    return FaceAdapter(resampler, projections, loras)


def merge_lora(unet: nn.Module, adapter: FaceAdapter) -> None:
    """Add the LoRA to the weights of the UNet, with the sum in float32. Raises InputRefused."""
    for name, (down, up) in adapter.loras.items():
        weight: Any = unet.get_submodule(name).weight
        if down.shape[1:] != weight.shape[1:] or up.shape[:1] != weight.shape[:1]:
            raise InputRefused(f"The LoRA of ID-Animator does not fit the layer {name}.", HINT)
        change = up.to(weight.device, torch.float32) @ down.to(weight.device, torch.float32)
        weight.copy_(weight.float() + change)


def _within(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }


def _by_number(weights: Weights) -> list[dict[str, Tensor]]:
    """Return the weights of each layer with a face branch, in the order of their numbers."""
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        if numbered := _NUMBERED.fullmatch(name):
            layers.setdefault(int(numbered[1]), {})[numbered[2]] = tensor
    return [layers[number] for number in sorted(layers)]
