"""The interface of video models for training and rendering, which each backbone implements.

N               num_steps, the denoising steps of one clip
step            0 … N − 1, from pure noise to the clean clip
latents         the clip inside the model, as it enters or leaves a step
embeds          the prompt inside the model: tensors by diffusers' names, with a row per branch (two
                with classifier-free guidance, the negative first; otherwise one)
output          the model's prediction at a step, after guidance
level           share of the schedule that a training example is noised to, from 0 (clean) to 1
"""

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pvtool_core.adapter import LoraLayout
from pvtool_core.backbones.style_loras import MERGE_VERSION
from pvtool_core.errors import InputRefused, NotFinite
from pvtool_core.keyword_vectors import PromptEncoder
from pvtool_core.media.decode import Pixels
from pvtool_core.models.fingerprints import fingerprint_of
from pvtool_core.settings.schema import ControlConfig, ModelConfig, SamplerConfig
from pvtool_core.store.events import LoraEvent

Latents = Float[Tensor, "clips channels frames latent_height latent_width"]
Embeds = Mapping[str, Tensor]
Frames = Float[Tensor, "chosen 3 height width"]


@dataclass(frozen=True)
class Diffused:
    """A training example of the denoiser: noised latents, their timestep, and the target.

    `timestep` has one value for each clip, as the denoiser takes it. `target` is what the denoiser
    is trained to predict: the noise or a velocity.
    """

    latents: Latents
    timestep: Float[Tensor, " clips"] | Int[Tensor, " clips"]
    target: Latents


@runtime_checkable
class Backbone(Protocol):
    """A frozen text-to-video model with its sampler, run step by step.

    It is loaded for given prompts: they are encoded first, and the text encoders are released. If
    they are the largest part of the model, this happens before the denoiser is loaded.

    A run through all steps equals the model's own pipeline bit for bit. Steps are independent of
    each other (no multistep solver), so that any part of a trajectory can be cached and repeated.
    """

    denoiser: nn.Module
    """The network to which the adapter is added."""
    lora_target: str
    """Regular expression for the q, k, v projections of spatial self-attention (section 4.4)."""
    cross_target: str
    """Regular expression for those of cross-attention; empty if text and image share attention."""
    lora_layout: LoraLayout
    """Layer names in the adapter's file."""
    merged_loras: tuple[LoraEvent, ...]
    """The style LoRAs that were merged into the model, as `merge_style_loras` returns them."""
    num_steps: int
    num_frames: int
    device: torch.device
    dtype: torch.dtype

    @property
    def prompt_encoder(self) -> PromptEncoder | None:
        """The text encoder, if it was kept for keyword vectors, which not all families support."""
        ...

    def prompt_embeds(self, prompt: str) -> Embeds:
        """Return the embeddings of a loaded prompt, on the model's device, without gradient.

        While keyword vectors act, any prompt is encoded, with a gradient to them.
        """
        ...

    def random_embeds(self) -> Embeds:
        """Return random embeddings with the shapes of a prompt's, on the model's device.

        `pv train --plan` counts the work of a model without weights and text encoders with them.
        """
        ...

    def initial_latents(self, seed: int) -> Latents:
        """Return Gaussian noise, drawn on the CPU: the same on every device."""
        ...

    def predict(self, latents: Latents, step: int, embeds: Embeds) -> Latents:
        """Return the guided output of the model at `step`."""
        ...

    def advance(self, latents: Latents, step: int, output: Latents) -> Latents:
        """Return the latents after the sampler's step, given the output of the model."""
        ...

    def noise_level(self, step: int) -> float:
        """Return the share of noise in the latents before `step`, from 1 to 0.

        It is sigma of flow matching, and sqrt(1 - alpha_bar) of a variance-preserving sampler.
        """
        ...

    def decode(self, latents: Latents, frames: Sequence[int]) -> Frames:
        """Return the selected frames of one clip in [0, 1], float32, with gradients."""
        ...

    def decoded_with(self, frame: int) -> Sequence[int]:
        """Return the frames, including this one, that are decoded together by a 3D autoencoder."""
        ...

    def encode(self, frames: Frames, generator: torch.Generator) -> Latents:
        """Return the scaled latents of a clip with these frames, in [0, 1], without gradient.

        They are sampled from the autoencoder's posterior with `generator`, on the CPU, as in the
        training scripts of diffusers, in the number format of `initial_latents`. The number of
        frames is any that a clip of the family may have.
        """
        ...

    def diffuse(self, latents: Latents, noise: Latents, level: float) -> Diffused:
        """Return the training example with this noise at `level`, in [0, 1).

        Uniformly drawn levels give the distribution of diffusers' training scripts. Stable
        Diffusion has the timestep int(level · num_train_timesteps), and the target of the
        scheduler's `prediction_type`. A flow model has sigma = `level` after the sampler's shift,
        (1 − sigma) latents + sigma noise, and the target noise − latents.
        """
        ...

    def predict_diffused(self, diffused: Diffused, embeds: Embeds) -> Latents:
        """Return the denoiser's prediction of the target, with gradients.

        It is that for the positive prompt alone, without guidance and without ControlNet. A model
        with embedded guidance takes the scale of the sampler's settings.
        """
        ...

    def as_image_model(self) -> AbstractContextManager[None]:
        """Run as an image model within the context, where a clip has one frame.

        All members work there. AnimateDiff is then Stable Diffusion: the motion modules and the
        ControlNet are off.
        """
        ...

    def facts(self) -> Mapping[str, Any]:
        """Return all dependencies of a trajectory except prompt and seed, as plain values."""
        ...

    def sampler_facts(self) -> Mapping[str, Any]:
        """Return everything needed to rebuild the scheduler in diffusers, as plain values.

        These are `class`, configuration and, unless the class determines them, the noise levels
        (see `described_sampler`).
        """
        ...


def adapter_target(backbone: Backbone, layers: str) -> str:
    """Return the regular expression for the layers that a value of `adapter.layers` selects.

    Raises InputRefused for cross-attention in a model without.
    """
    if layers == "self":
        return backbone.lora_target
    if not backbone.cross_target:
        raise InputRefused(
            "This model has no cross-attention: text and image share one attention.",
            "Use an adapter of self-attention (adapter.layers = self).",
        )
    both = f"(?:{backbone.lora_target})|(?:{backbone.cross_target})"
    return backbone.cross_target if layers == "cross" else both


def unit_range(decoded: Tensor) -> Tensor:
    """Return the output of an autoencoder, in [-1, 1], as float32 in [0, 1].

    Infinities become NaN, so that they are detected later: clamped, they would look like white or
    black.
    """
    frames = decoded.float() / 2 + 0.5
    return frames.masked_fill(frames.isinf(), torch.nan).clamp(0, 1)


def signed_range(frames: Frames) -> Frames:
    """Return frames in [0, 1] as the input of an autoencoder, in [-1, 1]."""
    return frames * 2 - 1


@contextmanager
def clips_of_one_frame(backbone: Any) -> Generator[None]:
    """Give clips one frame and no ControlNet in a context, for `Backbone.as_image_model`."""
    before = backbone.model, backbone.num_frames
    backbone.model = dataclasses.replace(backbone.model, num_frames=1, control=ControlConfig())
    backbone.num_frames = 1
    try:
        yield
    finally:
        backbone.model, backbone.num_frames = before


def described_sampler(scheduler: Any) -> dict[str, Any]:
    """Return class and configuration of a diffusers scheduler, as stable plain values.

    Machine- or version-dependent values are omitted.
    """
    config = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    return {"class": type(scheduler).__name__, **config}


def trajectory_facts(
    model: ModelConfig, sampler: SamplerConfig, scheduler: Any, device: torch.device, guided: bool
) -> dict[str, Any]:
    """Return the part of `Backbone.facts` that all models share."""
    import diffusers
    import transformers

    merged = {"lora_merge": MERGE_VERSION} if model.loras else {}
    return {
        **merged,
        "family": model.family,
        "base": fingerprint_of(model),
        "style_loras": [[lora.fingerprint, lora.weight] for lora in model.loras],
        "control": [model.control.fingerprint, model.control.weight]
        if model.control.model
        else None,
        "sampler": described_sampler(scheduler),
        "steps": sampler.num_inference_steps,
        "guidance": sampler.guidance_scale,
        "negative_prompt": sampler.negative_prompt if guided else "",
        "size": [model.num_frames, model.height, model.width],
        "dtype": model.dtype,
        "storage": model.storage,
        "trim_prompt": model.trim_prompt,
        "vae_tiling": model.vae_tiling,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "versions": [torch.__version__, diffusers.__version__, transformers.__version__],
    }


def to_pixels(frames: Tensor) -> Pixels:
    """Return frames (n, 3, height, width) in [0, 1] as uint8 (n, height, width, 3).

    Raises NotFinite.
    """
    if not frames.isfinite().all():
        raise NotFinite("decoded frames")
    return (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
