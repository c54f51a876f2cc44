"""A backbone without weight files: the model of config files, empty or with random weights.

On the device `meta` nothing is allocated or computed, but every tensor has its shape: memory and
work are estimated this way before weights are loaded (`estimate/counts.py`). On other devices the
weights are random, which takes as much time and memory as real ones
(`tests/benchmarks/full_size.py`).
"""

import dataclasses
import inspect
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from pvtool_core.backbones import backbone_class, refused_unless_loaded
from pvtool_core.backbones.interface import Backbone, Embeds
from pvtool_core.models.integrity import read_table
from pvtool_core.settings.schema import ControlConfig, ModelConfig, SamplerConfig


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
    embeds = backbone.random_embeds()

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
