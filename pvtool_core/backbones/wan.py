"""Wan 2.x: a diffusion transformer with a causal 3D autoencoder, and classifier-free guidance in two passes.

Built on the parts of diffusers' `WanPipeline`, from a folder in its format. Its own sampler, UniPC, is a multistep
solver: it carries a history from step to step, which the trajectory cache would lose. `FlowMatchEulerDiscreteScheduler`
on the same noise levels takes its place, with the folder's shift (the model card: 3 for 480p, 5 for 720p) unless the
settings name another. A clip equals the pipeline's with that sampler put in.

Supported are Wan 2.1 and the dense model of Wan 2.2 (TI2V-5B, as text-to-video). Wan 2.2 A14B is two transformers that
take turns, and is refused.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pvtool_core.adapter import LoraLayout, LoraPair
from pvtool_core.backbones.flow_matching import euler_step
from pvtool_core.backbones.interface import Embeds, Frames, Latents, resolve_device, trajectory_facts
from pvtool_core.config import ModelConfig, SamplerConfig
from pvtool_core.errors import InputRefused

_TOKENS = 512  # to which the pipeline's call pads a prompt; its `encode_prompt` alone would cut at 226
_NO_TEXT: dict[str, Any] = {"text_encoder": None, "tokenizer": None}
_TEXT_ALONE: dict[str, Any] = {"transformer": None, "transformer_2": None, "vae": None}


class WanLayout:
    """Fulfils `LoraLayout` by the names of the original Wan code, which ComfyUI and diffusers both read."""

    def pack(self, layers: Mapping[str, LoraPair]) -> dict[str, Tensor]:
        packed: dict[str, Tensor] = {}
        for name, (down, up) in layers.items():
            packed |= {f"{_original(name)}.lora_A.weight": down, f"{_original(name)}.lora_B.weight": up}
        return packed

    def unpack(self, tensors: Mapping[str, Tensor], layers: Iterable[str]) -> dict[str, LoraPair]:
        return {name: LoraPair(*(tensors[f"{_original(name)}.lora_{part}.weight"] for part in "AB")) for name in layers}


def _original(layer: str) -> str:
    return "diffusion_model." + re.sub(r"attn1\.to_([qkv])$", r"self_attn.\1", layer)


class Wan:
    """Fulfils `Backbone`. Latents are (1, 16, (frames − 1) / 4 + 1, height / 8, width / 8) for Wan 2.1.

    Raises InputRefused for two transformers, and for a size that the model cannot have.
    """

    lora_target = r"blocks\.\d+\.attn1\.to_[qkv]"  # attn1 is self-attention over all of the clip's patches
    lora_layout: LoraLayout = WanLayout()

    def __init__(
        self, model: ModelConfig, sampler: SamplerConfig, prompts: Sequence[str], recompute: bool = False
    ) -> None:
        self.model, self.sampler = model, sampler
        self.device, self.dtype = resolve_device(model.device), getattr(torch, model.dtype)
        self.num_frames, self.num_steps = model.num_frames, sampler.num_inference_steps
        self.guided = sampler.guidance_scale > 1
        self._embeds = self._encode(prompts)
        self.pipeline: Any = self._load(**_NO_TEXT)
        _check(self.pipeline, model)
        self.denoiser: nn.Module = self.pipeline.transformer
        self.scheduler: Any = _euler(self.pipeline.scheduler.config, sampler.shift)
        self.scheduler.set_timesteps(self.num_steps, device=self.device)
        if model.vae_tiling:
            self.pipeline.vae.enable_tiling()
        if recompute:
            self.pipeline.transformer.enable_gradient_checkpointing()
            recompute_decoder(self.pipeline.vae.decoder)

    def _load(self, **without: Any) -> Any:
        pipeline: Any = WanPipeline.from_pretrained(
            self.model.base_model, dtype=self.dtype, local_files_only=True, use_safetensors=True, **without
        )
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)
        return pipeline.to(self.device)

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str]) -> dict[str, Embeds]:
        """Every prompt, by a text encoder that is gone when this is done."""
        pipeline, negative = self._load(**_TEXT_ALONE), self.sampler.negative_prompt
        rows = {
            prompt: pipeline.encode_prompt(
                prompt, negative, self.guided, device=self.device, max_sequence_length=_TOKENS
            )
            for prompt in prompts
        }
        return {
            prompt: {"prompt_embeds": torch.cat([negative, positive]) if self.guided else positive}
            for prompt, (positive, negative) in rows.items()
        }

    def prompt_embeds(self, prompt: str) -> Embeds:
        return self._embeds[prompt]

    def initial_latents(self, seed: int) -> Latents:
        size = (self.model.height, self.model.width)
        rows, columns = (side // self.pipeline.vae_scale_factor_spatial for side in size)
        shape = (1, self.pipeline.transformer.config.in_channels, self._latent(self.num_frames - 1) + 1, rows, columns)
        return randn_tensor(shape, torch.Generator("cpu").manual_seed(seed), self.device, torch.float32)

    def predict(self, latents: Latents, step: int, embeds: Embeds) -> Latents:
        text = embeds["prompt_embeds"]
        given, timestep = latents.to(text.dtype), self.scheduler.timesteps[step].expand(1)
        if self.pipeline.config.expand_timesteps:  # Wan 2.2's dense model is told the time of each patch
            timestep = timestep[:, None].expand(1, given[0, 0, :, ::2, ::2].numel())
        positive = self.denoiser(given, timestep, text[-1:], return_dict=False)[0]
        if not self.guided:
            return positive
        negative = self.denoiser(given, timestep, text[:1], return_dict=False)[0]
        return negative + self.sampler.guidance_scale * (positive - negative)

    def advance(self, latents: Latents, step: int, output: Latents) -> Latents:
        return euler_step(self.scheduler, latents, step, output)

    def decode(self, latents: Latents, frames: Sequence[int]) -> Frames:
        """As the contract says, from all latents up to the last that is needed.

        The decoder is causal, and each latent is decoded with features of those before it: about 38 of them count
        (the depth of its convolutions in time), more than a clip has, so no window smaller than this prefix is exact.
        """
        vae = self.pipeline.vae
        needed = latents[:, :, : self._latent(max(frames)) + 1].to(vae.dtype)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1).to(needed) for values in _statistics(vae))
        decoded = vae.decode(needed / (1.0 / std) + mean).sample[0, :, list(frames)]
        return (decoded.transpose(0, 1).float() / 2 + 0.5).clamp(0, 1)

    def decoded_with(self, frame: int) -> Sequence[int]:
        """All frames before it and those of its own latent, which `decode` makes on the way."""
        return range(self._latent(frame) * self.pipeline.vae_scale_factor_temporal + 1)

    def _latent(self, frame: int) -> int:
        """Which latent a frame is decoded from: the first has one for itself, then several share one."""
        each = self.pipeline.vae_scale_factor_temporal
        return (frame + each - 1) // each

    def facts(self) -> Mapping[str, Any]:
        return trajectory_facts(self.model, self.sampler, self.scheduler, self.device, self.guided)


def _check(pipeline: Any, model: ModelConfig) -> None:
    """Raises InputRefused if this model cannot be driven here, or not at this size."""
    if pipeline.config.boundary_ratio is not None:
        raise InputRefused(
            f"{model.base_model} is two transformers that take turns, which pv cannot train.",
            "Use Wan 2.1, or the dense model of Wan 2.2 (TI2V-5B).",
        )
    patch = pipeline.vae_scale_factor_spatial * pipeline.transformer.config.patch_size[-1]
    if model.width % patch or model.height % patch:
        raise InputRefused(
            f"{model.width}×{model.height} is no size for this model.", f"Use multiples of {patch} pixels."
        )


def _euler(config: Mapping[str, Any], shift: float) -> Any:
    """Euler's method on the noise levels of the folder's sampler, which names their shift in one of two ways."""
    shift = shift or config.get("flow_shift") or config.get("shift") or 1.0
    return FlowMatchEulerDiscreteScheduler(config["num_train_timesteps"], shift)


def _statistics(vae: Any) -> tuple[list[float], list[float]]:
    return vae.config.latents_mean, vae.config.latents_std


def recompute_decoder(decoder: Any) -> None:
    """Checkpoint each call of a causal decoder, which diffusers has no switch for.

    The list of features that a call hands to the next is changed in place; here a call gets a copy, so that it can be
    made again.
    """
    plain = decoder.forward

    def forward(x: Tensor, feat_cache: list[Any], feat_idx: list[int], first_chunk: bool = False) -> Tensor:
        def decode(x: Tensor, *features: Any) -> tuple[Any, ...]:
            after = list(features)
            return plain(x, feat_cache=after, feat_idx=[0], first_chunk=first_chunk), *after

        decoded, *feat_cache[:] = checkpoint(decode, x, *feat_cache, use_reentrant=False, preserve_rng_state=False)
        return decoded

    decoder.forward = forward
