"""Adapter files of small models, one for each family with a workflow for ComfyUI."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from pvtool_core.adapter import AdapterMetadata, IdentityAdapter, LoraLayout
from pvtool_core.backbones.animatediff import AnimateDiff
from pvtool_core.backbones.hunyuan_video import FusedLayout, HunyuanVideo
from pvtool_core.backbones.wan import Wan
from pvtool_core.settings.jobs import TrainJob
from tests.support.families import wan_transformer
from tests.support.small_hunyuan_video import transformer as hunyuan_video_transformer
from tests.support.small_models import random_job, shake, with_settings


@dataclass(frozen=True)
class Exported:
    """A family whose adapters are exported: a denoiser with narrow layers, and the adapter's."""

    name: str
    denoiser: Callable[[], nn.Module]
    target: str
    layout: LoraLayout
    sampler: Mapping[str, Any]
    guidance: float
    frames: int

    def job(self) -> TrainJob:
        """Return the job of a run; no model is at its path."""
        model = {"family": self.name, "width": 64, "height": 64, "num_frames": self.frames}
        return with_settings(random_job(Path("models")), "model", **model)

    def save(self, file: Path, start: float = 0.75, steps: int = 8) -> None:
        """Write an adapter file, as the trainer does."""
        adapter = IdentityAdapter(self.denoiser(), self.target, rank=2, seed=3)
        shake(adapter)
        style = {"file": "ink.safetensors", "weight": 0.7, "fingerprint": "abc"}
        terms = AdapterMetadata(start, steps, self.guidance, self.sampler, "base", "ugly", (style,))
        adapter.save(file, self.layout, terms)


def still_unet() -> UNet2DConditionModel:
    """Return a UNet with the layers of Stable Diffusion 1.5, each a tenth as wide."""
    return UNet2DConditionModel(
        block_out_channels=(32, 64, 128, 128), cross_attention_dim=16, attention_head_dim=8
    )


EXPORTED = (
    Exported(
        "animatediff",
        still_unet,
        AnimateDiff.lora_target,
        AnimateDiff.lora_layout,
        {"class": "DDIMScheduler", "beta_schedule": "linear"},
        7.5,
        frames=4,
    ),
    Exported(
        "hunyuan-video",
        hunyuan_video_transformer,
        HunyuanVideo.lora_target,
        FusedLayout(mlp_width=128),
        {"class": "FlowMatchEulerDiscreteScheduler", "shift": 7.0},
        6.0,
        frames=5,
    ),
    Exported(
        "wan",
        wan_transformer,
        Wan.lora_target,
        Wan.lora_layout,
        {"class": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        5.0,
        frames=5,
    ),
)
