"""A backbone without weight files: the model of config files, empty or with random weights.

On the device `meta` nothing is allocated or computed, but every tensor has its shape: memory and
work are estimated this way before weights are loaded (`estimate/counts.py`). On other devices the
weights are random, which takes as much time and memory as real ones
(`tests/benchmarks/full_size.py`).
"""

import dataclasses
import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn

from pvtool_core.backbones import backbone_class, refused_unless_loaded
from pvtool_core.backbones.interface import Backbone, Embeds
from pvtool_core.models.integrity import read_table
from pvtool_core.settings.schema import ControlConfig, ModelConfig, SamplerConfig

TRIMMED_TOKENS = 64
"""Largest number of tokens of prompts in the shipped banks, without padding."""


def meta_model(
    model: ModelConfig,
    sampler: SamplerConfig,
    recompute: bool,
    architecture: Path,
    motion: Path | None = None,
) -> Backbone:
    """Return a backbone of the family's class on `model.device`.

    All prompts have the same random embeddings. `architecture` is a diffusers folder of which only
    config files are read, `motion` that of AnimateDiff's motion modules if separate. Style LoRAs
    are omitted, since they are merged; so is a ControlNet.
    """
    bare = dataclasses.replace(
        model,
        base_model=str(architecture),
        motion_adapter="",
        config="",
        loras=(),
        control=ControlConfig(),
    )
    device, dtype = torch.device(model.device), getattr(torch, model.dtype)

    def build(cls: Any, folder: Path, **given: Any) -> Any:
        with _made_as(device, dtype):
            return cls(**_parts(cls, Path(folder), motion, given))

    with (
        refused_unless_loaded(bare.base_model, model.family),
        replaced(DiffusionPipeline, "from_pretrained", classmethod(build)),
    ):
        backbone: Any = backbone_class(model.family)(bare, sampler, (), recompute)
    embeds = _random_embeds(bare, sampler, backbone.denoiser.config)

    def the_same(_: str) -> Embeds:
        return embeds

    backbone.prompt_embeds = the_same
    return backbone


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Generator[Any]:
    """Replace a function of another library temporarily; yields the original."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield before
    finally:
        setattr(owner, name, before)


@contextmanager
def _made_as(device: torch.device, dtype: torch.dtype) -> Generator[None]:
    """Create modules with this type on this device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


class _NoText(nn.Module):
    """Replaces a text encoder; it cannot be called."""

    dtype = torch.float32


def _parts(cls: Any, folder: Path, motion: Path | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the pipeline's constructor from model_index.json.

    Missing parts are None.
    """
    index = read_table(folder / "model_index.json")
    parts: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        entry = index.get(name, parameter.default)
        if name in given:
            parts[name] = given[name]
        elif name.startswith("text_encoder"):
            parts[name] = _NoText()
        elif isinstance(entry, list):
            parts[name] = _part(folder / name, *entry) if entry[0] == "diffusers" else None
        else:
            parts[name] = None if entry is inspect.Parameter.empty else entry
    if motion is not None:
        of_motion: Any = MotionAdapter
        modules = of_motion.from_config(read_table(motion / of_motion.config_name))
        parts["unet"] = UNetMotionModel.from_unet2d(parts["unet"], modules, load_weights=False)
    return parts


def _part(folder: Path, _: str, name: str) -> Any:
    cls: Any = getattr(diffusers, name)
    samples = "Scheduler" in name  # schedulers need real numbers
    config = read_table(
        folder / cls.config_name
    )  # diffusers interprets other values as the name of a model
    with torch.device("cpu") if samples else nullcontext():
        return cls.from_config(config)


def _random_embeds(model: ModelConfig, sampler: SamplerConfig, denoiser: Any) -> Embeds:
    """Return random embeddings with the shapes of the family's text encoders."""
    device, dtype = torch.device(model.device), getattr(torch, model.dtype)
    rows = 2 if sampler.guidance_scale > 1 else 1

    def text(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    def of_hunyuan_video() -> Embeds:
        tokens = TRIMMED_TOKENS if model.trim_prompt else 256
        mask = torch.ones(1, tokens, device=device, dtype=dtype)
        pooled = text(1, denoiser.pooled_projection_dim)
        long = text(1, tokens, denoiser.text_embed_dim)
        return {
            "prompt_embeds": long,
            "pooled_prompt_embeds": pooled,
            "prompt_attention_mask": mask,
        }

    shapes: dict[str, Callable[[], Embeds]] = {
        "animatediff": lambda: {"prompt_embeds": text(rows, 77, denoiser.cross_attention_dim)},
        "hunyuan-video": of_hunyuan_video,
        "wan": lambda: {"prompt_embeds": text(rows, 512, denoiser.text_dim)},
    }
    return shapes[model.family]()
