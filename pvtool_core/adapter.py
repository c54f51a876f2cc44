"""The Isolated Identity Adapter (section 4.4): where it sits, when it acts, how it travels.

LoRA on the q, k and v projections of spatial self-attention, W + A_down A_up, acting in the last part of the denoising
steps only, in training and in rendering alike. It is off except within `acting()`, so the model around it is the base
model to the bit.
"""

import json
import math
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pvtool_core.comfyui_schedule import recipe, scheduler_name, start_percent
from pvtool_core.errors import InputRefused
from pvtool_core.store.prompts import KEYWORD
from pvtool_core.tensor_files import save_tensors

NAME = "identity"
_FORMAT = "pv adapter 1"


def switch_step(start: float, num_steps: int) -> int:
    """The first step in which the adapter acts: a quarter of 50 steps begins at int(0.75 · 50) = 37."""
    return int(start * num_steps)


@dataclass(frozen=True)
class AdapterMetadata:
    """What a file must say, for an adapter alone is not enough to use it: when it acts, and on what.

    `sampler` is the scheduler's configuration with its `class` and, for flow matching, its noise levels (see
    `Backbone.sampler_facts`); `base_model` is the fingerprint of the weights. `style_loras` and `control` are those of
    the training run, each with the name of its file, its weight and its fingerprint; `keyword` is the literal text that
    stands for the person in a prompt.
    """

    start: float
    num_inference_steps: int
    guidance_scale: float
    sampler: Mapping[str, Any]
    base_model: str
    negative_prompt: str = ""
    style_loras: tuple[Mapping[str, Any], ...] = ()
    control: Mapping[str, Any] = field(default_factory=dict[str, Any])
    keyword: str = KEYWORD

    def metadata(self) -> dict[str, str]:
        """As the texts of a safetensors header, with words for those who find the file without us."""
        first, steps = switch_step(self.start, self.num_inference_steps), self.num_inference_steps
        return {
            "format": _FORMAT,
            "adapter_start": str(self.start),
            "first_step": str(first),
            "num_inference_steps": str(steps),
            "guidance_scale": str(self.guidance_scale),
            "negative_prompt": self.negative_prompt,
            "keyword": self.keyword,
            "sampler": _json(self.sampler),
            "base_model_fingerprint": self.base_model,
            "style_loras": _json(self.style_loras),
            "control": _json(self.control),
            "comfyui_scheduler": scheduler_name(self.sampler),
            "comfyui_start_percent": str(start_percent(first, steps, self.sampler)),
            "how_to_use": self._how_to_use(first),
        }

    def _how_to_use(self, first: int) -> str:
        steps = self.num_inference_steps
        prompt = f"Prompts name the person by the literal text {self.keyword}."
        comfyui = recipe(first, steps, self.sampler)
        if first == 0:
            return f"Acts in all {steps} denoising steps. {prompt} diffusers: load_lora_weights. {comfyui}"
        return (
            f"Acts in denoising steps {first} to {steps - 1} of {steps} only (steps count from 0); off before. "
            f"{prompt} diffusers: load_lora_weights, set_adapters weight 0, and weight 1 from "
            f"callback_on_step_end after step {first - 1}, with the scheduler in `sampler`. {comfyui}"
        )

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "AdapterMetadata":
        """Read the terms of a header; files of older versions lack some. Raises KeyError without a needed one."""
        return cls(
            start=float(metadata["adapter_start"]),
            num_inference_steps=int(metadata["num_inference_steps"]),
            guidance_scale=float(metadata["guidance_scale"]),
            sampler=json.loads(metadata["sampler"]),
            base_model=metadata["base_model_fingerprint"],
            negative_prompt=metadata.get("negative_prompt", ""),
            style_loras=tuple(json.loads(metadata.get("style_loras", "[]"))),
            control=json.loads(metadata.get("control", "{}")),
            keyword=metadata.get("keyword", KEYWORD),
        )


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


class LoraPair(NamedTuple):
    """The matrices of one layer: down (rank, in), up (out, rank)."""

    down: Tensor
    up: Tensor


@runtime_checkable
class LoraLayout(Protocol):
    """How a family's LoRA files name and arrange the matrices, so that diffusers and ComfyUI both read them."""

    def pack(self, layers: Mapping[str, LoraPair]) -> dict[str, Tensor]:
        """The file's tensors, from the matrices by the names of their layers in the denoiser."""
        ...

    def unpack(self, tensors: Mapping[str, Tensor], layers: Iterable[str]) -> dict[str, LoraPair]:
        """The matrices of `layers`, from the tensors of a file that `pack` made."""
        ...


class IdentityAdapter:
    """A LoRA in a denoiser, with a gate. `target` is a full-match expression for the layers' names.

    The down projections are drawn from `seed`, the up projections are zero: a new adapter changes nothing.
    """

    def __init__(self, denoiser: nn.Module, target: str, rank: int, seed: int = 0) -> None:
        self.rank = rank
        self._denoiser: Any = denoiser
        before = {
            name: list(layer.active_adapters) for name, layer in _lora_layers(denoiser).items()
        }
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=target), denoiser, NAME
        )
        self.layers = {
            name: layer for name, layer in _lora_layers(denoiser).items() if NAME in layer.lora_A
        }
        self._others = {name: before.get(name, []) for name in self.layers}
        for (
            name,
            active,
        ) in before.items():  # PEFT has just switched off every other LoRA of the model
            self._denoiser.get_submodule(name)._active_adapter = active
        self._draw(torch.Generator("cpu").manual_seed(seed))
        self._gate(False)

    def _draw(self, generator: torch.Generator) -> None:
        device = next(
            self._denoiser.parameters()
        ).device  # not the layer's: blocks may be kept elsewhere until used
        for layer in self.layers.values():
            for matrix in (layer.lora_A[NAME], layer.lora_B[NAME]):
                matrix.to(device, torch.float32)  # whatever the model's type
            down = torch.empty(layer.lora_A[NAME].weight.shape)
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
            layer.lora_A[NAME].weight.data.copy_(down)

    def parameters(self) -> list[nn.Parameter]:
        """Down and up projection of each layer, in a fixed order."""
        return [
            pair[NAME].weight
            for layer in self.layers.values()
            for pair in (layer.lora_A, layer.lora_B)
        ]

    @contextmanager
    def acting(self, on: bool = True) -> Generator[None]:
        """Let the adapter act, in forward passes and in the backward pass that belongs to them; or rest, within that.

        Nothing is rebuilt and `requires_grad` stays as it is: only the list of active adapters of our own layers
        changes, so other LoRAs go on acting.
        """
        before = self._on
        self._gate(on)
        try:
            yield
        finally:
            self._gate(before)

    def _gate(self, on: bool) -> None:
        self._on = on
        for name, layer in self.layers.items():
            layer._active_adapter = [*self._others[name], NAME] if on else self._others[name]

    def remove(self) -> None:
        """Take the adapter out of the model; its layers stay as they were before."""
        for name, layer in self.layers.items():
            parent, _, child = name.rpartition(".")
            layer.delete_adapter(NAME)
            if not layer.lora_A:
                setattr(self._denoiser.get_submodule(parent), child, layer.get_base_layer())
        del self._denoiser.peft_config[NAME]
        self.layers = {}

    def pairs(self) -> dict[str, LoraPair]:
        """The matrices of each layer by the layer's name."""
        return {
            name: LoraPair(layer.lora_A[NAME].weight, layer.lora_B[NAME].weight)
            for name, layer in self.layers.items()
        }

    def save(self, path: Path, layout: LoraLayout, terms: AdapterMetadata) -> None:
        """Write the adapter as other programs read it; equal adapters give equal bytes."""
        packed = layout.pack(self.pairs())
        tensors = {name: weight.detach().cpu().contiguous() for name, weight in packed.items()}
        save_tensors(path, tensors, {**terms.metadata(), "rank": str(self.rank)})

    def load(self, path: Path, layout: LoraLayout) -> None:
        """Take over the weights of a file that `save` wrote. Raises InputRefused if they do not fit."""
        tensors = read_adapter(path)
        ours = self.pairs()
        expected = {key: tuple(weight.shape) for key, weight in layout.pack(ours).items()}
        if tensors.keys() != expected.keys():
            raise _unfit(path, "it was made for other layers")
        for key, shape in expected.items():
            if tuple(tensors[key].shape) != shape:
                raise _unfit(path, f"{key} is {tuple(tensors[key].shape)}, not {shape}")
        for name, pair in layout.unpack(tensors, ours).items():
            ours[name].down.data.copy_(pair.down)
            ours[name].up.data.copy_(pair.up)


def read_adapter(path: Path) -> dict[str, Tensor]:
    """Return the tensors of an adapter file. Raises InputRefused if pv did not write it."""
    return _read(path)[0]


def read_rank(path: Path) -> int:
    """The rank of an adapter file. Raises InputRefused if it is none of ours."""
    return int(_read(path)[1]["rank"])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError:
        metadata, tensors = {}, {}
    if metadata.get("format") != _FORMAT:
        raise InputRefused(
            f"{path} is no adapter file of pv.", "Give one from a run's checkpoints."
        )
    return tensors, metadata


def load_adapter(
    path: Path, denoiser: nn.Module, target: str, layout: LoraLayout
) -> IdentityAdapter:
    """Put the adapter of a file into a denoiser. Raises InputRefused if it does not fit."""
    adapter = IdentityAdapter(denoiser, target, read_rank(path))
    try:
        adapter.load(path, layout)
    except BaseException:
        adapter.remove()
        raise
    return adapter


def _lora_layers(denoiser: nn.Module) -> dict[str, Any]:
    """PEFT's layers by their names; its own type knows too little to be of use."""
    return {
        name: module for name, module in denoiser.named_modules() if isinstance(module, LoraLayer)
    }


def _unfit(path: Path, problem: str) -> InputRefused:
    return InputRefused(
        f"The adapter {path} does not fit this model: {problem}.", "Use the base model of its run."
    )
