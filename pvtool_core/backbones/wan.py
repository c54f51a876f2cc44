"""Wan 2.x: a diffusion transformer with a causal 3D autoencoder and classifier-free guidance.

Built on the parts of diffusers' `WanPipeline`, from a folder in its format. Its own sampler, UniPC,
is a multistep solver: it has a history, which the trajectory cache would lose. It is replaced by
`FlowMatchEulerDiscreteScheduler` on the same noise levels, with the shift of the settings or else
of the folder (the model card: 3 for 480p, 5 for 720p). A clip equals that of the pipeline with this
sampler and these levels.

Supported are Wan 2.1 and the dense model of Wan 2.2 (TI2V-5B, as text-to-video). Wan 2.2 A14B has
two transformers for different steps, and is refused.
"""

import functools
import gc
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pvtool_core.adapter import LoraLayout, LoraPair
from pvtool_core.backbones.flow_matching import (
    diffused_by_flow,
    euler_step,
    flow_sampler_facts,
)
from pvtool_core.backbones.interface import (
    Diffused,
    Embeds,
    Frames,
    Latents,
    clips_of_one_frame,
    signed_range,
    trajectory_facts,
    unit_range,
)
from pvtool_core.backbones.memory import blocks_of, place
from pvtool_core.backbones.style_loras import merge_style_loras
from pvtool_core.devices import resolve_device
from pvtool_core.errors import InputRefused
from pvtool_core.models.base_models import pipeline_variant
from pvtool_core.settings.schema import ModelConfig, SamplerConfig

_TOKENS = 512  # padding of the pipeline's call; its `encode_prompt` alone would truncate at 226


class WanLayout:
    """`LoraLayout` with the names of the original Wan code, read by ComfyUI and diffusers."""

    def pack(self, layers: Mapping[str, LoraPair]) -> dict[str, Tensor]:
        packed: dict[str, Tensor] = {}
        for name, (down, up) in layers.items():
            packed |= {
                f"{_original(name)}.lora_A.weight": down,
                f"{_original(name)}.lora_B.weight": up,
            }
        return packed

    def unpack(self, tensors: Mapping[str, Tensor], layers: Iterable[str]) -> dict[str, LoraPair]:
        return {
            name: LoraPair(*(tensors[f"{_original(name)}.lora_{part}.weight"] for part in "AB"))
            for name in layers
        }


def _original(layer: str) -> str:
    layer = re.sub(r"attn1\.to_([qkv])$", r"self_attn.\1", layer)
    return "diffusion_model." + re.sub(r"attn2\.to_([qkv])$", r"cross_attn.\1", layer)


class Wan:
    """`Backbone` for Wan.

    Latents are (1, 16, (frames - 1) / 4 + 1, height / 8, width / 8) for Wan 2.1.

    Raises InputRefused for two transformers, and for an unsupported size.
    """

    lora_target = (
        r"blocks\.\d+\.attn1\.to_[qkv]"  # attn1 is self-attention over all patches of the clip
    )
    cross_target = r"blocks\.\d+\.attn2\.to_[qkv]"
    lora_layout: LoraLayout = WanLayout()
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
        self._load: Any = functools.partial(
            WanPipeline.from_pretrained,
            model.base_model,
            dtype=self.dtype,
            variant=pipeline_variant(Path(model.base_model)),
            local_files_only=True,
            use_safetensors=True,
        )
        _check_parts(model)
        self._embeds = self._encode(prompts) if prompts else {}
        gc.collect()  # the text encoder's 11 GB are needed for the denoiser
        self.pipeline: Any = self._load(text_encoder=None, tokenizer=None)
        _check_size(self.pipeline, model)
        self.merged_loras = merge_style_loras(self.pipeline, model)
        vae, self.denoiser = self.pipeline.vae.to(self.device), self.pipeline.transformer
        for part in (vae, self.denoiser):
            part.eval().requires_grad_(False)
        if model.vae_tiling:
            vae.enable_tiling()
        vae.decoder.register_forward_hook(_mark_infinities)
        if recompute:
            self.denoiser.enable_gradient_checkpointing()
            recompute_decoder(vae.decoder)
        place(self.denoiser, blocks_of(self.denoiser, model), model, self.device)
        self.scheduler = _euler(self.pipeline.scheduler.config, sampler.shift)
        self.scheduler.set_timesteps(sigmas=flow_levels(self.num_steps), device=self.device)

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str]) -> dict[str, Embeds]:
        pipeline = self._load(transformer=None, transformer_2=None, vae=None).to(self.device)
        return {prompt: self._embeds_of(pipeline, prompt) for prompt in prompts}

    def _embeds_of(self, pipeline: Any, prompt: str) -> Embeds:
        positive, negative = pipeline.encode_prompt(
            prompt,
            self.sampler.negative_prompt,
            self.guided,
            device=self.device,
            max_sequence_length=_TOKENS,
        )
        return {
            "prompt_embeds": (torch.cat([negative, positive]) if self.guided else positive).cpu()
        }

    def prompt_embeds(self, prompt: str) -> Embeds:
        return {name: tensor.to(self.device) for name, tensor in self._embeds[prompt].items()}

    def random_embeds(self) -> Embeds:
        """Return random embeddings with the shapes of the text encoder's, for `--plan`."""
        shape = (2 if self.guided else 1, _TOKENS, self.denoiser.config.text_dim)
        return {"prompt_embeds": torch.randn(shape, device=self.device, dtype=self.dtype)}

    def initial_latents(self, seed: int) -> Latents:
        space = self.pipeline.vae_scale_factor_spatial
        size = (
            self._latent(self.num_frames - 1) + 1,
            self.model.height // space,
            self.model.width // space,
        )
        generator = torch.Generator("cpu").manual_seed(seed)
        return randn_tensor(
            (1, self.denoiser.config.in_channels, *size), generator, self.device, torch.float32
        )

    def predict(self, latents: Latents, step: int, embeds: Embeds) -> Latents:
        text = embeds["prompt_embeds"]
        timestep = self.scheduler.timesteps[step].expand(len(latents))
        positive = self._denoise(latents, timestep, text[-len(latents) :])
        if not self.guided:
            return positive
        negative = self._denoise(latents, timestep, text[: len(latents)])
        return negative + self.sampler.guidance_scale * (positive - negative)

    def _denoise(self, latents: Latents, timestep: Tensor, text: Tensor) -> Latents:
        """Return the denoiser's output for one row of text for each clip."""
        given = latents.to(text.dtype)
        if self.pipeline.config.expand_timesteps:  # Wan 2.2's dense model has a timestep per patch
            timestep = timestep[:, None].expand(-1, given[0, 0, :, ::2, ::2].numel())
        return self.denoiser(given, timestep, text, return_dict=False)[0]

    def advance(self, latents: Latents, step: int, output: Latents) -> Latents:
        return euler_step(self.scheduler, latents, step, output)

    def noise_level(self, step: int) -> float:
        return float(self.scheduler.sigmas[step])

    def decode(self, latents: Latents, frames: Sequence[int]) -> Frames:
        """Decode as the interface describes, from all latents up to the last needed one.

        The decoder is causal: the frames of a latent depend on cached features of 38 or 39 latents
        before, the depth of its temporal convolutions. Clips are shorter than that, so fewer
        latents would not be exact.
        """
        vae = self.pipeline.vae
        latents = latents[:, :, : self._latent(max(frames)) + 1].to(vae.dtype)
        mean, std = self._statistics(latents)
        decoded = vae.decode(latents / (1.0 / std) + mean).sample[0, :, list(frames)]
        return unit_range(decoded.transpose(0, 1))

    def decoded_with(self, frame: int) -> Sequence[int]:
        """Return the frames of the same latent and all before it, which are computed on the way."""
        return range(self._latent(frame) * self.pipeline.vae_scale_factor_temporal + 1)

    def _latent(self, frame: int) -> int:
        """Return the latent of a frame: the first frame has its own, then several share one."""
        each = self.pipeline.vae_scale_factor_temporal
        return (frame + each - 1) // each

    def _statistics(self, latents: Tensor) -> list[Tensor]:
        """Return mean and deviation of the autoencoder's latents by channel, to scale these."""
        config = self.pipeline.vae.config
        values = (config.latents_mean, config.latents_std)
        return [torch.tensor(each).view(1, -1, 1, 1, 1).to(latents) for each in values]

    @torch.no_grad()
    def encode(self, frames: Frames, generator: torch.Generator) -> Latents:
        vae = self.pipeline.vae
        clip = signed_range(frames).to(self.device, vae.dtype).transpose(0, 1)[None]
        sampled = vae.encode(clip).latent_dist.sample(generator)
        mean, std = self._statistics(sampled)
        return ((sampled - mean) * (1.0 / std)).float()

    def diffuse(self, latents: Latents, noise: Latents, level: float) -> Diffused:
        return diffused_by_flow(self.scheduler, latents, noise, level)

    def predict_diffused(self, diffused: Diffused, embeds: Embeds) -> Latents:
        text = embeds["prompt_embeds"][-1:]
        return self._denoise(diffused.latents, diffused.timestep, text)

    def as_image_model(self) -> AbstractContextManager[None]:
        return clips_of_one_frame(self)

    def facts(self) -> Mapping[str, Any]:
        return trajectory_facts(self.model, self.sampler, self.scheduler, self.device, self.guided)

    def sampler_facts(self) -> Mapping[str, Any]:
        levels = flow_levels(self.num_steps).tolist()
        return flow_sampler_facts(self.scheduler, levels, "numpy.linspace(1, 0.001, n + 1)[:-1]")


def _check_parts(model: ModelConfig) -> None:
    """Raise InputRefused for two transformers, before they are loaded."""
    config: Any = WanPipeline.load_config(model.base_model, local_files_only=True)
    if config.get("boundary_ratio") is not None:
        raise InputRefused(
            f"{model.base_model} has two transformers for different steps, which is not supported.",
            "Use Wan 2.1, or the dense model of Wan 2.2 (TI2V-5B).",
        )


def _check_size(pipeline: Any, model: ModelConfig) -> None:
    """Raise InputRefused for a size that the pipeline would round down to whole patches."""
    patch = pipeline.vae_scale_factor_spatial * pipeline.transformer.config.patch_size[-1]
    if model.width % patch or model.height % patch:
        raise InputRefused(
            f"Invalid size {model.width}×{model.height} for this model.",
            f"Use multiples of {patch} pixels.",
        )


def flow_levels(num_steps: int) -> NDArray[np.float64]:
    """Return the noise levels of Wan's sampler (UniPC, `use_flow_sigmas`) before the shift."""
    return np.linspace(1.0, 0.001, num_steps + 1)[:-1]


def _euler(config: Mapping[str, Any], shift: float) -> Any:
    """Return Euler's method on the noise levels of the folder's sampler.

    That sampler has two names for the shift.
    """
    shift = shift or config.get("flow_shift") or config["shift"]
    return FlowMatchEulerDiscreteScheduler(config["num_train_timesteps"], shift)


def _mark_infinities(_module: Any, _given: Any, decoded: Tensor) -> Tensor:
    """Turn infinities into NaN, which `unit_range` detects after the autoencoder's clamp."""
    return decoded.masked_fill(decoded.isinf(), torch.nan)


def recompute_decoder(decoder: Any) -> None:
    """Checkpoint each call of a causal decoder, for lack of an option in diffusers.

    The list of features passed between calls is changed in place; each call gets a copy here, so
    that it can be repeated.
    """
    plain = decoder.forward

    def forward(
        x: Tensor, feat_cache: list[Any], feat_idx: list[int], first_chunk: bool = False
    ) -> Tensor:
        def decode(x: Tensor, *features: Any) -> tuple[Any, ...]:
            after = list(features)
            return plain(x, feat_cache=after, feat_idx=[0], first_chunk=first_chunk), *after

        decoded, *feat_cache[:] = checkpoint(
            decode, x, *feat_cache, use_reentrant=False, preserve_rng_state=False
        )
        return decoded

    decoder.forward = forward
