"""Video models that the method runs on: one file each, and the contract between them and the rest."""

from pathlib import Path

from pvtool_core.backbones.interface import Backbone, Embeds, Frames, Latents, resolve_device
from pvtool_core.config import ModelConfig, SamplerConfig
from pvtool_core.errors import InputRefused
from pvtool_core.weights import fingerprint

__all__ = ["Backbone", "Embeds", "Frames", "Latents", "load_backbone", "resolve_device"]


def load_backbone(model: ModelConfig, sampler: SamplerConfig, recompute: bool = False) -> Backbone:
    """Load the model that the settings name.

    `recompute` keeps almost no activations for the backward pass and computes them again: slower, in a tenth of the
    memory, with the same gradient. Raises InputRefused if the files are no longer those that the job was made for: a
    resumed run would go on from other weights, and the trajectory cache would keep them under the old ones' name.
    """
    from pvtool_core.backbones.animatediff import AnimateDiff

    if model.fingerprint and fingerprint(Path(model.base_model)) != model.fingerprint:
        raise InputRefused(
            f"The base model in {model.base_model} is not the one that this job was made for.",
            "Bring its files back as they were, or start a new run.",
        )
    families = {"animatediff": AnimateDiff}
    return families[model.family](model, sampler, recompute)
