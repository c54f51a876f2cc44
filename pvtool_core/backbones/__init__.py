"""Video models that the method runs on: one file each, and the contract between them and the rest."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

import diffusers
import transformers

from pvtool_core.backbones.interface import (
    Backbone,
    Embeds,
    Frames,
    Latents,
    resolve_device,
)
from pvtool_core.errors import InputRefused, RunFailed, from_foreign
from pvtool_core.models.fingerprints import with_fingerprints
from pvtool_core.settings.schema import ModelConfig, SamplerConfig

__all__ = [
    "Backbone",
    "Embeds",
    "Frames",
    "Latents",
    "backbone_class",
    "load_backbone",
    "resolve_device",
]

_FAMILIES = {
    "animatediff": ("animatediff", "AnimateDiff"),
    "hunyuan-video": ("hunyuan_video", "HunyuanVideo"),
    "wan": ("wan", "Wan"),
}
"""Each family's module and class; only the one that is asked for is imported."""


def backbone_class(family: str) -> Any:
    """The class that drives a family's models."""
    module, name = _FAMILIES[family]
    return getattr(importlib.import_module(f"pvtool_core.backbones.{module}"), name)


def load_backbone(
    model: ModelConfig, sampler: SamplerConfig, prompts: Sequence[str], recompute: bool = False
) -> Backbone:
    """Load the model that the settings name, for these prompts.

    `recompute` keeps almost no activations for the backward pass and computes them again: slower, in a tenth of the
    memory, with the same gradient. Raises InputRefused if the files are no longer those that the job was made for: a
    resumed run would go on from other weights, and the trajectory cache would keep them under the old ones' name.
    """
    if model.fingerprint:
        _check_unchanged(model)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()  # what a terminal shows is not theirs to say
    try:
        return backbone_class(model.family)(model, sampler, prompts, recompute)
    except Exception as error:
        known = from_foreign(error)
        if type(known) is not RunFailed:
            raise
        raise InputRefused(
            f"The base model {model.base_model} cannot be loaded as {model.family}: {known.message}",
            "`pv models verify` checks what was fetched; `pv presets show` says what each preset wants.",
        ) from error


def _check_unchanged(model: ModelConfig) -> None:
    now = with_fingerprints(dataclasses.replace(model, fingerprint=""))
    parts = {f"base model in {model.base_model}": now.fingerprint == model.fingerprint}
    parts |= {f"LoRA {lora.file}": lora in now.loras for lora in model.loras}
    parts |= {
        f"ControlNet {model.control.model}, or what it is shown,": model.control == now.control
    }
    if changed := [part for part, same in parts.items() if not same]:
        raise InputRefused(
            f"The {changed[0]} is not the one that this job was made for.",
            "Bring its files back as they were, or start a new run.",
        )
