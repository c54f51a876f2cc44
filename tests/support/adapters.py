"""Adapters with random weights and a visible effect, for tests and benchmarks of rendering."""

from collections.abc import Iterable
from pathlib import Path

import torch

from pvtool_core.adapter import AdapterMetadata, IdentityAdapter
from pvtool_core.backbones import load_backbone
from pvtool_core.backbones.interface import adapter_target
from pvtool_core.models.locate import locate_model
from pvtool_core.settings.jobs import Setup


def save_random_adapters(
    folder: Path, setup: Setup, names: Iterable[str], strength: float, layers: str = "self"
) -> dict[str, Path]:
    """Write an adapter file for each name in `folder`, with the setup's rank and random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(locate_model(setup.model), setup.sampler, [])
    facts, sampler = backbone.facts(), setup.sampler
    terms = AdapterMetadata(
        setup.adapter.start,
        sampler.num_inference_steps,
        sampler.guidance_scale,
        facts["sampler"],
        facts["base"],
        layers=layers,
    )
    target = adapter_target(backbone, layers)
    adapter = IdentityAdapter(backbone.denoiser, target, setup.adapter.rank)
    generator = torch.Generator().manual_seed(0)
    files = {name: folder / f"{name}.safetensors" for name in names}
    for file in files.values():
        for weight in adapter.parameters():
            weight.data = strength * torch.randn(weight.shape, generator=generator)
        adapter.save(file, backbone.lora_layout, terms)
    return files
