"""Store the frozen denoiser of a large model in fewer bits, or offload it block by block.

This happens once, after style LoRAs are merged and before the adapter is added: the adapter's
weights are in float32 and on the device.

The equivalents in diffusers do not work here: layerwise casting changes a weight that a gradient
still needs, group offloading also moves the adapter, and quantisation requires a GPU and precedes
style LoRAs.
"""

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pvtool_core.errors import InputRefused
from pvtool_core.imports import reveal
from pvtool_core.settings.families import FAMILIES
from pvtool_core.settings.schema import ModelConfig

_LARGEST = torch.finfo(torch.float8_e4m3fn).max


def blocks_of(denoiser: Any, model: ModelConfig) -> list[Any]:
    """Return the transformer blocks of a denoiser, which `place` stores; none in a small model."""
    lists = FAMILIES[model.family].blocks
    return [block for name in lists for block in getattr(denoiser, name)]


def place(
    denoiser: nn.Module, blocks: Sequence[nn.Module], model: ModelConfig, device: torch.device
) -> None:
    """Store a frozen `denoiser` by `model.storage` and `model.offload`, and move it to `device`.

    `blocks` are its transformer blocks, which contain nearly all weights; the rest is unchanged.
    Raises InputRefused if bitsandbytes is required and missing.
    """
    for block in blocks:
        if model.storage == "float8":
            _store_in_float8(block)
        elif model.storage in {"int8", "nf4"}:
            _quantise(block, model.storage)
            block.to(
                device
            )  # bitsandbytes quantises here: without a second copy of the whole model
    if model.offload:
        _offload(denoiser, blocks, device)
    else:
        denoiser.to(device)


def _linear_layers(block: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yield each linear layer with its parent and its name there."""
    for parent in list(block.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                yield parent, name, layer


def _store_in_float8(block: nn.Module) -> None:
    """Store matrices as e4m3 with one scale per row, except modulations.

    Modulations affect whole blocks.
    """
    for parent, _, layer in _linear_layers(block):
        if "Norm" in type(parent).__name__:
            continue
        weight = layer.weight.data
        scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-6) / _LARGEST
        layer.register_buffer("float8_scale", scale)
        layer.weight.data = (weight / scale).to(torch.float8_e4m3fn)
        layer.forward = functools.partial(_forward_from_float8, layer)


def _forward_from_float8(layer: Any, input: Tensor) -> Tensor:
    return nn.functional.linear(
        input, layer.weight.to(input.dtype) * layer.float8_scale, layer.bias
    )


def _quantise(block: nn.Module, storage: str) -> None:
    """Put bitsandbytes' layers in place of the linear ones."""
    reveal("bitsandbytes")
    """Replace linear layers by those of bitsandbytes."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputRefused(
            f"model.storage={storage} needs the package bitsandbytes, which is not installed.",
            "Install pvtool[quant], or use --set model.storage=float8.",
        )
    import bitsandbytes

    bnb: Any = bitsandbytes.nn
    for parent, name, layer in _linear_layers(block):
        sizes = (layer.in_features, layer.out_features)
        if storage == "nf4":
            kept = bnb.Linear4bit(
                *sizes, compute_dtype=layer.weight.dtype, quant_type="nf4", device="meta"
            )
            kept.weight = bnb.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        else:
            kept = bnb.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0, device="meta")
            kept.weight = bnb.Int8Params(
                layer.weight.data, requires_grad=False, has_fp16_weights=False
            )
        kept.bias = layer.bias
        setattr(parent, name, kept)


def _offload(denoiser: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Keep the weights of blocks in CPU memory, and copy them to the device while a block runs.

    Weights never change, so nothing is copied back. With gradient checkpointing a block runs twice.
    """
    in_blocks = {id(tensor) for block in blocks for tensor in _tensors(block)}
    for tensor in _tensors(denoiser):
        if id(tensor) not in in_blocks:
            tensor.data = tensor.data.to(device)
    for block in blocks:
        kept = [(tensor, _pinned(tensor.data, device)) for tensor in _tensors(block)]
        block.register_forward_pre_hook(functools.partial(_bring_in, kept, device))
        # also when checkpointing ends the second forward pass early by raising
        block.register_forward_hook(functools.partial(_let_go, kept), always_call=True)


Kept = list[tuple[Tensor, Tensor]]
"""Weights of a block, each with its tensor while the block is idle."""


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _pinned(data: Tensor, device: torch.device) -> Tensor:
    """Return a tensor in page-locked memory, for asynchronous copies at full speed."""
    return data.pin_memory() if device.type == "cuda" else data


def _bring_in(kept: Kept, device: torch.device, *_: Any) -> None:
    for tensor, data in kept:
        tensor.data = data.to(device, non_blocking=True, copy=True)


def _let_go(kept: Kept, *_: Any) -> None:
    for tensor, data in kept:
        tensor.data = data
