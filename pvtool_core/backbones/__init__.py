"""Video models that the method runs on: one file each, and the contract between them and the rest."""

from pvtool_core.backbones.interface import Backbone, Embeds, Frames, Latents, resolve_device
from pvtool_core.config import ModelConfig, SamplerConfig

__all__ = ["Backbone", "Embeds", "Frames", "Latents", "load_backbone", "resolve_device"]


def load_backbone(model: ModelConfig, sampler: SamplerConfig, recompute: bool = False) -> Backbone:
    """Load the model that the settings name.

    `recompute` keeps almost no activations for the backward pass and computes them again: slower, in a tenth of the
    memory, with the same gradient.
    """
    from pvtool_core.backbones.animatediff import AnimateDiff

    families = {"animatediff": AnimateDiff}
    return families[model.family](model, sampler, recompute)
