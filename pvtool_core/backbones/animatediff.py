"""AnimateDiff: Stable Diffusion 1.5 with motion modules, a 2D autoencoder, and a DDIM sampler.

Built on diffusers' own pipeline, from a folder in its format. What is here repeats `AnimateDiffPipeline.__call__` step
by step, because no pipeline takes the tail of a schedule or lets a gradient through.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import nn
from torch.utils.checkpoint import checkpoint

from pvtool_core.backbones.interface import Embeds, Frames, Latents, resolve_device
from pvtool_core.config import ModelConfig, SamplerConfig
from pvtool_core.errors import InputRefused
from pvtool_core.weights import fingerprint

_RECOMPUTED = re.compile(r".*\.(resnets|attentions|motion_modules)\.\d+")


class AnimateDiff:
    """Fulfils `Backbone`. Latents are (1, channels, frames, height / 8, width / 8) for the paper's autoencoder.

    Raises InputRefused if the folder holds another pipeline, or a sampler other than DDIM: multistep solvers carry
    a history from step to step, which the trajectory cache would lose.
    """

    lora_target = r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn1\.to_[qkv]"
    lora_prefix = "unet"

    def __init__(self, model: ModelConfig, sampler: SamplerConfig, recompute: bool = False) -> None:
        self.model, self.sampler = model, sampler
        self.device, self.dtype = resolve_device(model.device), getattr(torch, model.dtype)
        self.pipeline: Any = _load_pipeline(Path(model.base_model), self.dtype, self.device)
        self.denoiser: nn.Module = self.pipeline.unet
        self.num_frames, self.num_steps = model.num_frames, sampler.num_inference_steps
        self.guided = sampler.guidance_scale > 1
        self.scheduler: Any = self.pipeline.scheduler
        self.scheduler.set_timesteps(self.num_steps, device=self.device)
        if recompute:
            self.pipeline.vae.enable_gradient_checkpointing()
            recompute_activations(self.denoiser)

    @torch.no_grad()
    def encode_prompt(self, prompt: str) -> Embeds:
        positive, negative = self.pipeline.encode_prompt(
            prompt, self.device, 1, self.guided, self.sampler.negative_prompt
        )
        return torch.cat([negative, positive]) if self.guided else positive

    def initial_latents(self, seed: int) -> Latents:
        factor = self.pipeline.vae_scale_factor
        size = (self.num_frames, self.model.height // factor, self.model.width // factor)
        shape = (1, self.pipeline.unet.config.in_channels, *size)
        generator = torch.Generator("cpu").manual_seed(seed)
        noise = randn_tensor(shape, generator=generator, device=self.device, dtype=self.dtype)
        return noise * self.scheduler.init_noise_sigma

    def predict(self, latents: Latents, step: int, embeds: Embeds) -> Latents:
        t = self.scheduler.timesteps[step]
        branches = torch.cat([latents] * 2) if self.guided else latents
        text = embeds.repeat_interleave(self.num_frames, dim=0)  # the pipeline repeats it for each frame, the net not
        output = self.denoiser(self.scheduler.scale_model_input(branches, t), t, encoder_hidden_states=text).sample
        if not self.guided:
            return output
        negative, positive = output.chunk(2)
        return negative + self.sampler.guidance_scale * (positive - negative)

    def advance(self, latents: Latents, step: int, output: Latents) -> Latents:
        return self.scheduler.step(output, self.scheduler.timesteps[step], latents, eta=0.0).prev_sample

    def decode(self, latents: Latents, frames: Sequence[int]) -> Frames:
        vae = self.pipeline.vae
        chosen = (1 / vae.config.scaling_factor * latents)[0, :, list(frames)].transpose(0, 1).contiguous()
        return (vae.decode(chosen).sample.float() / 2 + 0.5).clamp(0, 1)

    def facts(self) -> Mapping[str, Any]:
        model, sampler = self.model, self.sampler
        return {
            "family": model.family,
            "base": model.fingerprint or fingerprint(Path(model.base_model)),
            "style_loras": [],
            "sampler": {"class": type(self.scheduler).__name__, **_plain(self.scheduler.config)},
            "steps": sampler.num_inference_steps,
            "guidance": sampler.guidance_scale,
            "negative_prompt": sampler.negative_prompt if self.guided else "",
            "size": [model.num_frames, model.height, model.width],
            "dtype": model.dtype,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type,
            "threads": torch.get_num_threads() if self.device.type == "cpu" else 0,
            "versions": [torch.__version__, diffusers.__version__],
        }


def _load_pipeline(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The pipeline of a diffusers folder, frozen and in eval mode. Raises InputRefused for another sampler."""
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()  # what a terminal shows is not theirs to say
    pipeline: Any = AnimateDiffPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device)
    if not isinstance(pipeline.scheduler, DDIMScheduler):
        raise InputRefused(
            f"The sampler of {folder} is {type(pipeline.scheduler).__name__}, not DDIM.",
            "Save the pipeline with DDIMScheduler.from_config(pipeline.scheduler.config).",
        )
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.eval().requires_grad_(False)
    return pipeline


def recompute_activations(denoiser: nn.Module) -> None:
    """Checkpoint each resnet, attention and motion module; diffusers' own switch covers the resnets only.

    A denoising step of 16 frames at 512 × 512 then keeps 3.4 GiB instead of 40 (21 with diffusers' switch).
    """
    for name, module in denoiser.named_modules():
        if _RECOMPUTED.fullmatch(name):
            plain = module.forward
            module.forward = functools.partial(checkpoint, plain, use_reentrant=False, preserve_rng_state=False)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}
