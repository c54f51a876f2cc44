"""Flip book: each frame is a picture by Stable Diffusion, drawn without knowing the others."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pvtool_core.adapter import LoraLayout, LoraPair
from pvtool_core.backbones.interface import (
    Diffused,
    Embeds,
    Frames,
    Latents,
    clips_of_one_frame,
    described_sampler,
    signed_range,
    trajectory_facts,
    unit_range,
)
from pvtool_core.backbones.noise_schedule import diffused_by_schedule
from pvtool_core.backbones.style_loras import merge_style_loras
from pvtool_core.devices import resolve_device
from pvtool_core.models.base_models import pipeline_variant
from pvtool_core.settings.schema import ModelConfig, SamplerConfig


class PlainLayout:
    """`LoraLayout` with the names of diffusers; without an alpha, it equals the rank."""

    def pack(self, layers: Mapping[str, LoraPair]) -> dict[str, Tensor]:
        return {
            f"unet.{name}.lora_{part}.weight": matrix
            for name, pair in layers.items()
            for part, matrix in zip("AB", pair, strict=True)
        }

    def unpack(self, tensors: Mapping[str, Tensor], layers: Iterable[str]) -> dict[str, LoraPair]:
        return {
            name: LoraPair(*(tensors[f"unet.{name}.lora_{part}.weight"] for part in "AB"))
            for name in layers
        }


class Flipbook:
    """`Backbone` for flip books. Latents are (1, channels, frames, height / 8, width / 8)."""

    lora_target = r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn1\.to_[qkv]"
    cross_target = r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn2\.to_[qkv]"
    lora_layout: LoraLayout = PlainLayout()
    prompt_encoder = None

    def __init__(
        self,
        model: ModelConfig,
        sampler: SamplerConfig,
        prompts: Sequence[str],
        recompute: bool = False,
    ) -> None:
        self.model, self.sampler = model, sampler
        self.device, self.dtype = resolve_device(model.device), getattr(torch, model.dtype)
        self.num_frames, self.num_steps = model.num_frames, sampler.num_inference_steps
        self.guided = sampler.guidance_scale > 1
        base = Path(model.base_model)
        self.pipeline: Any = StableDiffusionPipeline.from_pretrained(
            base,
            dtype=self.dtype,
            variant=pipeline_variant(base),
            local_files_only=True,
            use_safetensors=True,
        ).to(self.device)
        self.merged_loras = merge_style_loras(self.pipeline, model)
        self.denoiser: nn.Module = self.pipeline.unet
        for part in (self.denoiser, self.pipeline.vae, self.pipeline.text_encoder):
            part.eval().requires_grad_(False)
        # the folder's own sampler may be multistep, or clip what the model predicts
        own = self.pipeline.scheduler.config
        self.scheduler: Any = DDIMScheduler.from_config(own, clip_sample=False)
        self.scheduler.set_timesteps(self.num_steps, device=self.device)
        self._embeds = {prompt: self._encode(prompt) for prompt in prompts}
        self.pipeline.text_encoder = None
        if model.vae_tiling:
            self.pipeline.vae.enable_tiling()
        if recompute:
            self.pipeline.vae.enable_gradient_checkpointing()
            self.denoiser.forward = functools.partial(
                checkpoint, self.denoiser.forward, use_reentrant=False
            )

    @torch.no_grad()
    def _encode(self, prompt: str) -> Embeds:
        positive, negative = self.pipeline.encode_prompt(
            prompt, self.device, 1, self.guided, self.sampler.negative_prompt
        )
        return {"prompt_embeds": torch.cat([negative, positive]) if self.guided else positive}

    def prompt_embeds(self, prompt: str) -> Embeds:
        return self._embeds[prompt]

    def random_embeds(self) -> Embeds:
        config: Any = self.denoiser.config
        shape = (2 if self.guided else 1, 77, config.cross_attention_dim)
        return {"prompt_embeds": torch.randn(shape, device=self.device, dtype=self.dtype)}

    def initial_latents(self, seed: int) -> Latents:
        config: Any = self.denoiser.config
        factor = self.pipeline.vae_scale_factor
        size = (self.model.height // factor, self.model.width // factor)
        generator = torch.Generator("cpu").manual_seed(seed)
        shape = (self.num_frames, config.in_channels, *size)
        noise = randn_tensor(shape, generator=generator, device=self.device, dtype=self.dtype)
        return noise.transpose(0, 1)[None] * self.scheduler.init_noise_sigma

    def predict(self, latents: Latents, step: int, embeds: Embeds) -> Latents:
        pictures = latents[0].transpose(0, 1)
        branches = torch.cat([pictures] * 2) if self.guided else pictures
        text = embeds["prompt_embeds"].repeat_interleave(self.num_frames, dim=0)
        timestep = self.scheduler.timesteps[step]
        output = self.denoiser(branches, timestep, encoder_hidden_states=text).sample
        if self.guided:
            negative, positive = output.chunk(2)
            output = negative + self.sampler.guidance_scale * (positive - negative)
        return output.transpose(0, 1)[None]

    def advance(self, latents: Latents, step: int, output: Latents) -> Latents:
        timestep = self.scheduler.timesteps[step]
        return self.scheduler.step(output, timestep, latents, eta=0.0).prev_sample

    def noise_level(self, step: int) -> float:
        timestep = int(self.scheduler.timesteps[step])
        return float((1 - self.scheduler.alphas_cumprod[timestep]).sqrt())

    def decode(self, latents: Latents, frames: Sequence[int]) -> Frames:
        vae = self.pipeline.vae
        pictures = latents[0, :, list(frames)].transpose(0, 1) / vae.config.scaling_factor
        return unit_range(vae.decode(pictures).sample)

    def decoded_with(self, frame: int) -> Sequence[int]:
        return range(self.num_frames)

    @torch.no_grad()
    def encode(self, frames: Frames, generator: torch.Generator) -> Latents:
        vae = self.pipeline.vae
        pictures = signed_range(frames).to(self.device, vae.dtype)
        sampled = vae.encode(pictures).latent_dist.sample(generator)
        return (sampled * vae.config.scaling_factor).transpose(0, 1)[None]

    def diffuse(self, latents: Latents, noise: Latents, level: float) -> Diffused:
        return diffused_by_schedule(self.scheduler, latents, noise, level)

    def predict_diffused(self, diffused: Diffused, embeds: Embeds) -> Latents:
        pictures = diffused.latents[0].transpose(0, 1)
        text = embeds["prompt_embeds"][-1:].expand(len(pictures), -1, -1)
        output = self.denoiser(pictures, diffused.timestep, encoder_hidden_states=text).sample
        return output.transpose(0, 1)[None]

    def as_image_model(self) -> AbstractContextManager[None]:
        return clips_of_one_frame(self)

    def facts(self) -> Mapping[str, Any]:
        return trajectory_facts(self.model, self.sampler, self.scheduler, self.device, self.guided)

    def sampler_facts(self) -> Mapping[str, Any]:
        return described_sampler(self.scheduler)
