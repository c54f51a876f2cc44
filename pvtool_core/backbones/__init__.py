"""Video models: one file per family, and the interface between them and the rest."""

import dataclasses
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from pvtool_core.backbones.interface import Backbone, Embeds, Frames, Latents
from pvtool_core.errors import InputRefused, RunFailed, from_foreign
from pvtool_core.imports import quick_imports
from pvtool_core.models.fingerprints import with_fingerprints
from pvtool_core.settings.families import FAMILIES
from pvtool_core.settings.references import load_named
from pvtool_core.settings.schema import ModelConfig, SamplerConfig
from pvtool_core.store.events import Report, ignore

__all__ = [
    "Backbone",
    "Embeds",
    "Frames",
    "Latents",
    "backbone_class",
    "load_backbone",
    "refused_unless_loaded",
]


def backbone_class(family: str) -> Any:
    """Return the class that drives the models of a family; no other family's module is imported."""
    return load_named(FAMILIES[family].backbone)


def load_backbone(
    model: ModelConfig,
    sampler: SamplerConfig,
    prompts: Sequence[str],
    recompute: bool = False,
    report: Report = ignore,
    keep_text_encoder: bool = False,
) -> Backbone:
    """Load the model of the settings for these prompts, and report its style LoRAs.

    With `recompute`, activations are not stored but recomputed in the backward pass: slower, in a
    tenth of the memory, with the same gradient. With `keep_text_encoder`, for families with
    keyword vectors, it is not released. Raises InputRefused if the files differ from those that the
    job was created for: a resumed run would continue from other weights, and the trajectory cache
    would store them under the wrong key.
    """
    if model.fingerprint:
        _check_unchanged(model)
    with quick_imports():
        import diffusers
        import transformers
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()  # the engine prints no progress bars
    with refused_unless_loaded(model.base_model, model.family):
        with quick_imports():
            driver = backbone_class(model.family)
        kept = {"keep_text_encoder": True} if keep_text_encoder else {}
        backbone: Backbone = driver(model, sampler, prompts, recompute, **kept)
    for event in backbone.merged_loras:
        report(event)
    return backbone


@contextmanager
def refused_unless_loaded(base_model: str, family: str) -> Generator[None]:
    """Raise InputRefused with the base model's name for errors of the loading libraries."""
    try:
        yield
    except Exception as error:
        known = from_foreign(error)
        if type(known) is not RunFailed:
            raise
        raise InputRefused(
            f"The base model {base_model} cannot be loaded as {family}: {known.message}",
            "Check the files with `pv models verify`; see `pv presets show` for the requirements.",
        ) from error


def _check_unchanged(model: ModelConfig) -> None:
    now = with_fingerprints(dataclasses.replace(model, fingerprint=""))
    parts = [
        (f"base model in {model.base_model}", "--base-model", now.fingerprint == model.fingerprint)
    ]
    parts += [(f"LoRA {lora.file}", "--lora", lora in now.loras) for lora in model.loras]
    control = f"ControlNet {model.control.model}, or its control images,"
    parts.append((control, "--controlnet", model.control == now.control))
    for part, option, same in parts:
        if not same:
            raise InputRefused(
                f"The {part} is not the one that this job was created for.",
                f"Restore its files. To use the changed ones, start a new run, or render with "
                f"{option}.",
            )
