"""Style LoRAs: other people's files, merged into the model before anything else happens to it.

Merged weights cost nothing in a forward pass, and the model with them is simply another base model: the trajectory
cache knows it by the files' fingerprints. Kohya's and Civitai's names are read as well as diffusers' own.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pvtool_core.config import LoraConfig
from pvtool_core.errors import InputRefused

_DOWN = re.compile(r"[._](lora_down|lora_A|lora\.down|lora_linear_layer\.down)(\.|$)")
_NAME = "style"


def merge_style_loras(pipeline: Any, loras: Sequence[LoraConfig], components: Sequence[str]) -> None:
    """Add each file's weights, times its weight, to the pipeline's `components`, such as `unet` and `text_encoder`.

    Raises InputRefused if a file is no LoRA, or one for another model.
    """
    for lora in loras:
        path = Path(lora.file)
        tensors = read_lora(path)
        named = original_names(tensors)
        try:
            converted: Any = pipeline.lora_state_dict(dict(named))
            pipeline.load_lora_weights(named, adapter_name=_NAME)
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            sizes = "mismatch" in str(error)
            raise _unfit(path, tensors, pipeline, f"its layers have other {'sizes' if sizes else 'names'}") from error
        state: Mapping[str, Tensor] = converted[0] if isinstance(converted, tuple) else converted
        fitting = sum(_layers_with_style(getattr(pipeline, component)) for component in components)
        if fitting != (wanted := sum(map(is_down, state))):
            raise _unfit(path, tensors, pipeline, f"{wanted - fitting} of its {wanted} layers are not there")
        pipeline.fuse_lora(components=list(components), lora_scale=lora.weight, adapter_names=[_NAME])
        pipeline.unload_lora_weights()


def read_lora(path: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file by their names in it. Raises InputRefused if it is none."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputRefused(
            f"{path} is no whole safetensors file.", "Fetch it anew; pickled files are refused."
        ) from error
    if not any(map(is_down, tensors)):
        raise InputRefused(f"{path} holds no LoRA.", "Give a LoRA; another base model goes to --base-model.")
    if any("dora_scale" in key for key in tensors):
        raise InputRefused(f"{path} is a DoRA, which cannot be merged as it was trained.", "Give a plain LoRA.")
    return tensors


def is_down(key: str) -> bool:
    """Whether it names a down projection: there is one a layer."""
    return bool(_DOWN.search(key))


_BLOCK = re.compile(r"lora_unet_((?:double|single)_blocks)_(\d+)_(.+)")
_DOTTED = {"mlp_fc": "mlp.fc", "mod_linear": "mod.linear", "modulation_linear": "modulation.linear"}


def original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a HunyuanVideo LoRA by kohya's tools under the names of the original model, alpha folded in.

    diffusers reads those, and stumbles over kohya's. Tensors of any other file stay as they are.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        layer, _, part = key.partition(".")
        block = _BLOCK.fullmatch(layer)
        if not block:
            return dict(tensors)
        name = block[3]
        for plain, dotted in _DOTTED.items():
            name = name.replace(plain, dotted)
        path = f"transformer.{block[1]}.{block[2]}.{name}"
        if part == "lora_down.weight":
            rank = len(tensor)
            alpha = float(tensors.get(f"{layer}.alpha", torch.tensor(float(rank))))
            renamed[f"{path}.lora_A.weight"] = tensor * (alpha / rank)
        elif part == "lora_up.weight":
            renamed[f"{path}.lora_B.weight"] = tensor
    return renamed


def made_for(tensors: Mapping[str, Tensor]) -> str:
    """The model that a LoRA was made for, as far as its names and sizes tell."""
    names = " ".join(tensors)
    if re.search(r"double_blocks|single_transformer_blocks", names):
        return "HunyuanVideo or FLUX"
    if re.search(r"(^|[ .]|lora_unet_)blocks[._]\d+[._](self_attn|cross_attn|attn[12])", names):
        return "Wan"
    if "lora_te1_" in names or "lora_te2_" in names:
        return "Stable Diffusion XL"
    widths = {tensor.shape[1] for key, tensor in tensors.items() if is_down(key) and re.search(r"attn2[._]to_k", key)}
    by_width = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
    return next((by_width[width] for width in sorted(widths) if width in by_width), "another model")


def _layers_with_style(model: nn.Module) -> int:
    return sum(_NAME in getattr(module, "lora_A", ()) for module in model.modules())


def _unfit(path: Path, tensors: Mapping[str, Tensor], pipeline: Any, misfit: str) -> InputRefused:
    model = type(pipeline).__name__.removesuffix("Pipeline")
    return InputRefused(
        f"The LoRA {path} does not fit this {model} model: {misfit}. It looks like one for {made_for(tensors)}.",
        "Give a LoRA that was made for this base model.",
    )
