"""The Isolated Identity Adapter (section 4.4): its layers, its active steps, and its file.

LoRA on the q, k and v projections of spatial self-attention, W + A_down A_up, active in the last
denoising steps only, both in training and in rendering. Outside `acting()` it is off, and the model
equals the base model bit by bit.
"""

import json
import math
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pvtool_core.comfyui.schedule import recipe, scheduler_name, start_percent
from pvtool_core.errors import InputRefused
from pvtool_core.settings.objectives import DEFAULT_OBJECTIVE
from pvtool_core.settings.schema import LAYERS
from pvtool_core.store.events import LoraEvent
from pvtool_core.store.prompts import KEYWORD
from pvtool_core.tensor_files import save_tensors
from pvtool_core.untrusted import parse_json

NAME = "identity"
_FORMAT = "pv adapter 1"
_SHOWN_KEYS, _SHOWN_LETTERS = 3, 120


def switch_step(start: float, num_steps: int) -> int:
    """Return the first active step of the adapter.

    For the last quarter of 50 steps this is int(0.75 · 50) = 37.
    """
    return int(start * num_steps)


@dataclass(frozen=True)
class AdapterMetadata:
    """Metadata of an adapter file: active steps, sampler and base model.

    The file cannot be used without them. `sampler` is the configuration of the scheduler with its
    `class` and, for flow matching, its noise levels (see `Backbone.sampler_facts`); `base_model` is
    the fingerprint of the weights. `style_loras` and `control` are those of the training run, each
    with file name, weight and fingerprint; `keyword` is the literal text that stands for the
    identity in a prompt. `layers` and `objective` are the settings of the run, which the file omits
    if they are the defaults, and so is `image_model`: whether single frames were trained.
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
    layers: str = "self"
    objective: str = DEFAULT_OBJECTIVE
    image_model: bool = False

    def metadata(self) -> dict[str, str]:
        """Return the texts of the safetensors header, described for other programs' users."""
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
            **self._training(),
        }

    def _training(self) -> dict[str, str]:
        """Return what differs from the method of the paper."""
        return {
            **({} if self.layers == "self" else {"adapter_layers": self.layers}),
            **({} if self.objective == DEFAULT_OBJECTIVE else {"objective": self.objective}),
            **({"image_model": "true"} if self.image_model else {}),
        }

    def _how_to_use(self, first: int) -> str:
        steps = self.num_inference_steps
        prompt = f"Prompts name the person by the literal text {self.keyword}."
        comfyui = recipe(first, steps, self.sampler)
        if first == 0:
            return (
                f"Acts in all {steps} denoising steps. "
                f"{prompt} diffusers: load_lora_weights. {comfyui}"
            )
        return (
            f"Acts in denoising steps {first} to {steps - 1} of {steps} only (steps count from 0); "
            f"off before. {prompt} diffusers: load_lora_weights, set_adapters weight 0, and weight "
            f"1 from callback_on_step_end after step {first - 1}, with the scheduler in `sampler`. "
            f"{comfyui}"
        )

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "AdapterMetadata":
        """Read metadata from a header; files of older versions lack some.

        Raises KeyError without a required one, ValueError for an invalid one.
        """
        start, steps = float(metadata["adapter_start"]), int(metadata["num_inference_steps"])
        guidance = float(metadata["guidance_scale"])
        if not 0 <= start < 1 or steps < 1 or not math.isfinite(guidance):
            raise ValueError("a number is out of range")
        layers = metadata.get("adapter_layers", "self")
        if layers not in LAYERS:
            raise ValueError("the layers are unknown")
        return cls(
            start=start,
            num_inference_steps=steps,
            guidance_scale=guidance,
            sampler=_table(metadata["sampler"]),
            base_model=metadata["base_model_fingerprint"],
            negative_prompt=metadata.get("negative_prompt", ""),
            style_loras=_tables(metadata.get("style_loras", "[]")),
            control=_table(metadata.get("control", "{}")),
            keyword=metadata.get("keyword", KEYWORD),
            layers=layers,
            objective=metadata.get("objective", DEFAULT_OBJECTIVE),
            image_model=metadata.get("image_model") == "true",
        )


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _table(text: str) -> dict[str, Any]:
    """Return the object in a JSON text. Raises ValueError for anything else."""
    return _object(parse_json(text))


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return cast("dict[str, Any]", value)


def _tables(text: str) -> tuple[dict[str, Any], ...]:
    """Return the objects that a JSON list holds. Raises ValueError for anything else."""
    values = parse_json(text)
    if not isinstance(values, list):
        raise ValueError("is not a JSON list")
    return tuple(_object(value) for value in cast("list[Any]", values))


class LoraPair(NamedTuple):
    """The matrices of one layer: down (rank, in), up (out, rank)."""

    down: Tensor
    up: Tensor


@runtime_checkable
class LoraLayout(Protocol):
    """Names and shapes of a family's LoRA files, which both diffusers and ComfyUI read."""

    def pack(self, layers: Mapping[str, LoraPair]) -> dict[str, Tensor]:
        """Return the tensors of a file, from the matrices by their layer names in the denoiser."""
        ...

    def unpack(self, tensors: Mapping[str, Tensor], layers: Iterable[str]) -> dict[str, LoraPair]:
        """Return the matrices of `layers` from the tensors of a file that `pack` made."""
        ...


@runtime_checkable
class Adapter(Protocol):
    """What a run trains: a small part of a model, which acts only within `acting`.

    Prompts are encoded within it too: part of an adapter may be what the text encoder reads.
    """

    def parameters(self) -> list[nn.Parameter]:
        """Return the trained weights, in a fixed order."""
        ...

    def acting(self, on: bool = True) -> AbstractContextManager[None]:
        """Activate the adapter in forward and backward passes, or deactivate it."""
        ...

    def set_strength(self, strength: float) -> None:
        """Multiply the effect by `strength`; 1 is the adapter as trained. May raise UsageError."""
        ...

    def save(self, path: Path, layout: LoraLayout, terms: AdapterMetadata) -> None:
        """Write the adapter as other programs read it; equal adapters give equal bytes."""
        ...

    def load(self, path: Path, layout: LoraLayout) -> None:
        """Load the weights of a file that `save` wrote. Raises InputRefused if they do not fit."""
        ...

    def loaded_event(self, name: str) -> LoraEvent:
        """Return the event of the last `load`."""
        ...

    def remove(self) -> None:
        """Take the adapter out of the model."""
        ...


class IdentityAdapter:
    """A LoRA in a denoiser with a gate.

    `target` is a regular expression that matches whole layer names.

    Down projections are drawn from `seed`, up projections are zero: a new adapter changes nothing.
    """

    def __init__(self, denoiser: nn.Module, target: str, rank: int, seed: int = 0) -> None:
        self.rank, self.target = rank, target
        self._loaded_keys = 0
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
        """Return down and up projection of each layer, in a fixed order."""
        return [
            pair[NAME].weight
            for layer in self.layers.values()
            for pair in (layer.lora_A, layer.lora_B)
        ]

    @contextmanager
    def acting(self, on: bool = True) -> Generator[None]:
        """Activate the adapter in forward and backward passes, or deactivate it.

        Nothing is rebuilt and `requires_grad` is unchanged: only the list of active adapters of our
        own layers changes, so that other LoRAs stay active.
        """
        before = self._on
        self._gate(on)
        try:
            yield
        finally:
            self._gate(before)

    def set_strength(self, strength: float) -> None:
        """Multiply the output of every layer by `strength`; 1 is the adapter as trained."""
        for layer in self.layers.values():
            layer.set_scale(NAME, strength)

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
        """Return the matrices of each layer by its name."""
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
        """Load the weights of a file that `save` wrote. Raises InputRefused if they do not fit."""
        tensors = read_adapter(path)
        ours = self.pairs()
        expected = {key: tuple(weight.shape) for key, weight in layout.pack(ours).items()}
        if tensors.keys() != expected.keys():
            raise _unfit(path, _other_layers(tensors, expected))
        for key, shape in expected.items():
            if tuple(tensors[key].shape) != shape:
                raise _unfit(path, f"{key} is {tuple(tensors[key].shape)}, not {shape}")
        for name, pair in layout.unpack(tensors, ours).items():
            ours[name].down.data.copy_(pair.down)
            ours[name].up.data.copy_(pair.up)
        self._loaded_keys = len(expected)

    def loaded_event(self, name: str) -> LoraEvent:
        """Return the event of the last `load`, which refuses files with other keys."""
        keys = self._loaded_keys
        return LoraEvent(role="adapter", name=name, keys=keys, matched=keys)


def read_adapter(path: Path) -> dict[str, Tensor]:
    """Return the tensors of an adapter file.

    Raises InputRefused for other files or invalid metadata.
    """
    return read_tensors(path, _FORMAT)


def read_tensors(path: Path, kind: str) -> dict[str, Tensor]:
    """Return the tensors of an adapter file whose format is `kind`.

    Raises InputRefused for other files or invalid metadata.
    """
    tensors, metadata = _read(path, kind)
    try:
        AdapterMetadata.of(metadata)
    except (KeyError, ValueError) as error:
        raise _damaged(path) from error
    return tensors


def read_rank(path: Path) -> int:
    """Return the rank of an adapter file. Raises InputRefused for other files."""
    tensors, metadata = _read(path, _FORMAT)
    try:
        rank = int(metadata["rank"])
    except (KeyError, ValueError) as error:
        raise _damaged(path) from error
    largest = max((max(tensor.shape, default=0) for tensor in tensors.values()), default=0)
    if not 1 <= rank <= largest:  # it decides how much is allocated
        raise _damaged(path)
    return rank


def read_layers(path: Path) -> str:
    """Return the value of `adapter.layers` of an adapter file, from its header.

    Raises InputRefused for other files.
    """
    metadata = _read(path, header_only=True)[1]
    try:
        return AdapterMetadata.of(metadata).layers
    except (KeyError, ValueError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> InputRefused:
    return InputRefused(f"The adapter {path} has invalid metadata.", "Download or copy it again.")


def _read(
    path: Path, kind: str = _FORMAT, header_only: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            keys = [] if header_only else file.keys()
            tensors = {key: file.get_tensor(key) for key in keys}
    except SafetensorError:
        metadata, tensors = {}, {}
    if metadata.get("format") != kind:
        raise InputRefused(
            f"{path} is not an adapter file of pv.", "Use one from the checkpoints of a run."
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
    """Return PEFT's layers by name; the type in PEFT is too general."""
    return {
        name: module for name, module in denoiser.named_modules() if isinstance(module, LoraLayer)
    }


def _unfit(path: Path, problem: str) -> InputRefused:
    return InputRefused(
        f"The adapter {path} does not fit this model: {problem}.", "Use the base model of its run."
    )


def _other_layers(found: Iterable[str], expected: Iterable[str]) -> str:
    """Return how the names in a file differ from those of the model, as a phrase."""
    theirs, ours = set(found), set(expected)
    words = f"it was made for other layers; {len(theirs & ours)} of its {len(theirs)} keys match"
    for label, names in (("unmatched", theirs - ours), ("missing", ours - theirs)):
        if names:
            shown = [name[:_SHOWN_LETTERS] for name in sorted(names)[:_SHOWN_KEYS]]
            words += f", {label} ({len(names)}): {', '.join(shown)}"
            words += ", …" if len(names) > _SHOWN_KEYS else ""
    return words
