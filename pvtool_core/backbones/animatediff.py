"""AnimateDiff: Stable Diffusion 1.5 with motion modules, a 2D autoencoder and a DDIM sampler.

Built on the diffusers pipeline, from a folder in its format. This code repeats
`AnimateDiffPipeline.__call__` step by step, because no pipeline starts in the middle of a schedule
or is differentiable.
"""

import functools
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pvtool_core.adapter import LoraLayout, LoraPair
from pvtool_core.backbones.control import ControlNet
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
from pvtool_core.errors import InputRefused
from pvtool_core.keyword_vectors import PromptEncoder
from pvtool_core.models.base_models import model_variant, pipeline_variant, prediction_of
from pvtool_core.settings.schema import ModelConfig, SamplerConfig

_RECOMPUTED = re.compile(r".*\.(resnets|attentions|motion_modules)\.\d+")
_MOTION = re.compile(r".*\.motion_modules\.\d+")
_TOKENS = 77  # of CLIP, to which the pipeline pads
_FRAMES_AT_ONCE = 16  # as diffusers' pipeline decodes them


class KohyaLayout:
    """`LoraLayout` with kohya's layer names of a Stable Diffusion UNet; alpha equals the rank."""

    def pack(self, layers: Mapping[str, LoraPair]) -> dict[str, Tensor]:
        packed: dict[str, Tensor] = {}
        for name, (down, up) in layers.items():
            key = _kohya(name)
            packed |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            packed[f"{key}.alpha"] = torch.tensor(float(len(down)))
        return packed

    def unpack(self, tensors: Mapping[str, Tensor], layers: Iterable[str]) -> dict[str, LoraPair]:
        parts = ("lora_down", "lora_up")
        return {
            name: LoraPair(*(tensors[f"{_kohya(name)}.{part}.weight"] for part in parts))
            for name in layers
        }


def _kohya(layer: str) -> str:
    return "lora_unet_" + layer.replace(".", "_")


class AnimateDiff:
    """`Backbone` for AnimateDiff. Latents are (1, channels, frames, height / 8, width / 8).

    Raises InputRefused for another pipeline, or a sampler other than DDIM: multistep solvers carry
    a history between steps, which the trajectory cache would lose.
    """

    lora_target = r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn1\.to_[qkv]"
    cross_target = r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn2\.to_[qkv]"
    lora_layout: LoraLayout = KohyaLayout()

    def __init__(
        self,
        model: ModelConfig,
        sampler: SamplerConfig,
        prompts: Sequence[str],
        recompute: bool = False,
        keep_text_encoder: bool = False,
    ) -> None:
        self.model, self.sampler = model, sampler
        self.device, self.dtype = resolve_device(model.device), getattr(torch, model.dtype)
        self.pipeline: Any = _load_pipeline(model, self.dtype).to(self.device)
        self.merged_loras = merge_style_loras(self.pipeline, model)
        for part in (self.pipeline.unet, self.pipeline.vae, self.pipeline.text_encoder):
            part.eval().requires_grad_(False)
        self.denoiser: nn.Module = self.pipeline.unet
        factor = self.pipeline.vae_scale_factor
        self.control = (
            ControlNet(model, self.pipeline.unet, self.device, factor)
            if model.control.model
            else None
        )
        self.num_frames, self.num_steps = model.num_frames, sampler.num_inference_steps
        self.guided = sampler.guidance_scale > 1
        self._moves = True
        self.scheduler: Any = self.pipeline.scheduler
        self.scheduler.set_timesteps(self.num_steps, device=self.device)
        with torch.no_grad():
            self._embeds = {
                prompt: self._encode(prompt, sampler.negative_prompt) for prompt in prompts
            }
        self.prompt_encoder = PromptEncoder(self.pipeline) if keep_text_encoder else None
        if not keep_text_encoder:
            self.pipeline.text_encoder = None
        if model.vae_tiling:
            self.pipeline.vae.enable_tiling()
        if recompute:
            self.pipeline.vae.enable_gradient_checkpointing()
            recompute_activations(self.denoiser)
            if self.control:
                recompute_activations(self.control.net)

    def _encode(self, prompt: str, negative_prompt: str) -> Embeds:
        positive, negative = self.pipeline.encode_prompt(
            prompt, self.device, 1, self.guided, negative_prompt
        )
        return {"prompt_embeds": torch.cat([negative, positive]) if self.guided else positive}

    def prompt_embeds(self, prompt: str) -> Embeds:
        encoder = self.prompt_encoder
        if encoder is None or encoder.vectors is None:
            return self._embeds[prompt]
        return self._encode(*map(encoder.spelled, (prompt, self.sampler.negative_prompt)))

    def random_embeds(self) -> Embeds:
        """Return random embeddings with the shapes of the text encoder's, for `--plan`."""
        config: Any = self.denoiser.config
        shape = (2 if self.guided else 1, _TOKENS, config.cross_attention_dim)
        return {"prompt_embeds": torch.randn(shape, device=self.device, dtype=self.dtype)}

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
        text = embeds["prompt_embeds"].repeat_interleave(
            self.num_frames, dim=0
        )  # the pipeline repeats it for each frame, the net not
        branches = self.scheduler.scale_model_input(branches, t)
        led = self.control.residuals(branches, t, text) if self.control else {}
        if (faces := embeds.get("image_embeds")) is not None:  # of an encoder method
            led["added_cond_kwargs"] = {"image_embeds": [faces]}
        output = self.denoiser(branches, t, encoder_hidden_states=text, **led).sample
        if not self.guided:
            return output
        negative, positive = output.chunk(2)
        return negative + self.sampler.guidance_scale * (positive - negative)

    def advance(self, latents: Latents, step: int, output: Latents) -> Latents:
        return self.scheduler.step(
            output, self.scheduler.timesteps[step], latents, eta=0.0
        ).prev_sample

    def noise_level(self, step: int) -> float:
        t = int(self.scheduler.timesteps[step])
        return float((1 - self.scheduler.alphas_cumprod[t]).sqrt())

    def decode(self, latents: Latents, frames: Sequence[int]) -> Frames:
        vae = self.pipeline.vae
        chosen = (
            (1 / vae.config.scaling_factor * latents)[0, :, list(frames)]
            .transpose(0, 1)
            .contiguous()
        )
        decoded = [vae.decode(chunk).sample for chunk in chosen.split(_FRAMES_AT_ONCE)]
        return unit_range(torch.cat(decoded))

    def decoded_with(self, frame: int) -> Sequence[int]:
        return range(self.num_frames)  # each frame is decoded by itself

    @torch.no_grad()
    def encode(self, frames: Frames, generator: torch.Generator) -> Latents:
        vae = self.pipeline.vae
        sampled = vae.encode(signed_range(frames).to(self.device, vae.dtype)).latent_dist.sample(
            generator
        )
        return (sampled * vae.config.scaling_factor).transpose(0, 1)[None]

    def diffuse(self, latents: Latents, noise: Latents, level: float) -> Diffused:
        return diffused_by_schedule(self.scheduler, latents, noise, level)

    def predict_diffused(self, diffused: Diffused, embeds: Embeds) -> Latents:
        text = embeds["prompt_embeds"][-1:].expand(diffused.latents.shape[2], -1, -1)
        return self.denoiser(diffused.latents, diffused.timestep, encoder_hidden_states=text).sample

    @contextmanager
    def as_image_model(self) -> Generator[None]:
        """Be the Stable Diffusion model without motion modules, as the interface describes."""
        before = self._moves, self.control
        self._moves, self.control = False, None
        try:
            with clips_of_one_frame(self), without_motion(self.denoiser):
                yield
        finally:
            self._moves, self.control = before

    def facts(self) -> Mapping[str, Any]:
        shared = trajectory_facts(
            self.model, self.sampler, self.scheduler, self.device, self.guided
        )
        return shared if self._moves else {**shared, "motion_modules": False}

    def sampler_facts(self) -> Mapping[str, Any]:
        return described_sampler(self.scheduler)


def _load_pipeline(model: ModelConfig, dtype: torch.dtype) -> Any:
    """Load the pipeline of a folder, or of Stable Diffusion 1.5 with a motion adapter.

    Stable Diffusion may be a folder or a single file. Raises InputRefused for a sampler other than
    DDIM.
    """
    load: Any = functools.partial(dict, dtype=dtype, local_files_only=True, use_safetensors=True)
    base = Path(model.base_model)
    if not model.motion_adapter:
        pipeline: Any = AnimateDiffPipeline.from_pretrained(
            base, variant=pipeline_variant(base), **load()
        )
    elif base.is_dir():
        motion = _load_motion(model, load())
        variant = pipeline_variant(base)
        pipeline = AnimateDiffPipeline.from_pretrained(
            base, motion_adapter=motion, variant=variant, **load()
        )
        pipeline.scheduler = _motion_sampler(pipeline.scheduler)
    else:
        motion = _load_motion(model, load())
        still: Any = StableDiffusionPipeline.from_single_file(
            str(base),
            config=model.config,
            torch_dtype=dtype,
            local_files_only=True,
            safety_checker=None,
        )
        parts = {
            name: getattr(still, name) for name in ("vae", "text_encoder", "tokenizer", "unet")
        }
        pipeline = AnimateDiffPipeline(
            **parts, motion_adapter=motion, scheduler=_as_trained(base, still.scheduler)
        )
    if not isinstance(pipeline.scheduler, DDIMScheduler):
        raise InputRefused(
            f"The sampler of {base} is {type(pipeline.scheduler).__name__}, not DDIM.",
            "Save the pipeline with DDIMScheduler.from_config(pipeline.scheduler.config).",
        )
    return pipeline


def _load_motion(model: ModelConfig, load: Mapping[str, Any]) -> Any:
    return MotionAdapter.from_pretrained(
        model.motion_adapter, variant=model_variant(Path(model.motion_adapter)), **load
    )


def _motion_sampler(of_images: Any, **more: Any) -> Any:
    """Return DDIM with the betas of the motion modules, which differ from Stable Diffusion's."""
    return DDIMScheduler.from_config(
        of_images.config,
        beta_schedule="linear",
        clip_sample=False,
        timestep_spacing="linspace",
        steps_offset=1,
        **more,
    )


def _as_trained(checkpoint: Path, of_images: Any) -> Any:
    """Return the sampler for the prediction type in the checkpoint, or that of model.config."""
    prediction = prediction_of(checkpoint)
    said: dict[str, Any] = {"prediction_type": prediction.kind} if prediction.kind else {}
    if prediction.zero_terminal_snr:
        said["rescale_betas_zero_snr"] = True
    elif prediction.kind == "epsilon":
        said["rescale_betas_zero_snr"] = False
    return _motion_sampler(of_images, **said)


@contextmanager
def without_motion(denoiser: nn.Module) -> Generator[None]:
    """Replace each motion module by the identity in a context."""
    modules = [module for name, module in denoiser.named_modules() if _MOTION.fullmatch(name)]
    before = [vars(module).get("forward") for module in modules]
    for module in modules:
        module.forward = _unchanged
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                del module.forward  # that of the class again
            else:
                module.forward = forward


def _unchanged(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def recompute_activations(denoiser: nn.Module) -> None:
    """Checkpoint each resnet, attention and motion module.

    diffusers' own option covers the resnets only. A denoising step of 16 frames at 512 × 512 then
    stores 3.4 GiB instead of 40 (21 with diffusers' option).
    """
    for name, module in denoiser.named_modules():
        if _RECOMPUTED.fullmatch(name):
            plain = module.forward
            module.forward = functools.partial(
                checkpoint, plain, use_reentrant=False, preserve_rng_state=False
            )
