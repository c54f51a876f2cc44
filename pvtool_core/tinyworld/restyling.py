"""Stages "styled" and "style_lora": fine-tune the shipped generator on posters, in two ways.

As community models of Stable Diffusion are made: the spatial layers are trained on single pictures,
and the motion modules, the autoencoder and the text encoder stay those of the base model.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from pvtool_core.adapter import LoraPair
from pvtool_core.backbones.animatediff import KohyaLayout
from pvtool_core.tensor_files import save_tensors
from pvtool_core.tinyworld.generator import (
    Latents,
    encode_shards,
    image_losses,
    load_shards,
    new_unet,
    save_pipeline,
)
from pvtool_core.tinyworld.styles import POSTER
from pvtool_core.tinyworld.training import fit

BATCH = 24
RANK = 8
ADAPTED = r".*\.attn[12]\.to_(q|k|v|out\.0)"
"""Layers of the style LoRA: all of self-attention and cross-attention."""

METADATA = {
    "modelspec.title": "Poster",
    "modelspec.description": "Drawings with dark outlines on paper, of the tiny world",
    "modelspec.license": "Apache-2.0",
    "modelspec.trigger_phrase": "",
    "ss_network_module": "networks.lora",
    "ss_network_dim": str(RANK),
    "ss_network_alpha": str(RANK),
    "base_model": "preset:tiny/animatediff",
}


class Restyling:
    """The shipped generator in `base`, the posters in `work`, and what is trained from both."""

    def __init__(self, base: Path, work: Path, shards: int) -> None:
        self.work = work
        pipeline: Any = AnimateDiffPipeline.from_pretrained(
            base, dtype=torch.float32, local_files_only=True
        )
        self.vae: AutoencoderKL = pipeline.vae
        self.text: CLIPTextModel = pipeline.text_encoder
        self.tokenizer: CLIPTokenizer = pipeline.tokenizer
        self.model: UNetMotionModel = pipeline.unet
        encode_shards(work, self.vae, "poster", range(shards), POSTER)
        self.posters: Latents = load_shards(work, "poster")

    def save_styled(self, folder: Path, steps: int) -> None:
        """Fine-tune all spatial layers, and write a pipeline with the base's other models."""
        unet = spatial_part(self.model)
        losses = image_losses(unet, self.posters, self.text, self.tokenizer, BATCH)
        fit("styled", self.work, unet, losses, steps=steps, learning_rate=4e-4, ema=0.995)
        self.model.load_state_dict({**self.model.state_dict(), **unet.state_dict()})
        save_pipeline(folder, self.vae, self.text, self.tokenizer, self.model)

    def save_lora(self, file: Path, steps: int) -> None:
        """Train a LoRA of the spatial attention, and write it with the names of kohya-ss."""
        unet: Any = spatial_part(self.model).requires_grad_(False)
        torch.manual_seed(0)
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=ADAPTED), unet)
        losses = image_losses(unet, self.posters, self.text, self.tokenizer, BATCH)
        fit(
            "style_lora",
            self.work,
            unet,
            losses,
            steps=steps,
            learning_rate=4e-3,
            ema=0.995,
            weight_decay=0.0,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(file, KohyaLayout().pack(_pairs(unet)), METADATA)


def spatial_part(model: UNetMotionModel) -> UNet2DConditionModel:
    """Return a text-to-image model with copies of the spatial layers."""
    unet = new_unet()
    state = {
        name: value for name, value in model.state_dict().items() if "motion_modules" not in name
    }
    unet.load_state_dict(state)
    return unet


def _pairs(unet: nn.Module) -> dict[str, LoraPair]:
    """Return the trained matrices of each layer in float16."""

    def of(layer: Any, part: str) -> Tensor:
        return getattr(layer, part)["default"].weight.detach().half()

    return {
        name: LoraPair(of(layer, "lora_A"), of(layer, "lora_B"))
        for name, layer in unet.named_modules()
        if isinstance(layer, LoraLayer)
    }
