"""What training and rendering need of a video model: the contract that each backbone fulfils.

N               num_steps, the denoising steps of one clip
step            0 … N − 1, from pure noise to the clean clip
latents         the clip inside the model, as it enters or leaves a step; one clip at a time
embeds          the prompt inside the model; two branches with guidance (negative first), else one
output          what the model predicts at a step, after guidance
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pvtool_core.errors import InputRefused

Latents = Float[Tensor, "1 channels frames latent_height latent_width"]
Embeds = Float[Tensor, "branches tokens width"]
Frames = Float[Tensor, "chosen 3 height width"]


@runtime_checkable
class Backbone(Protocol):
    """A frozen text-to-video model with its sampler, taken step by step.

    A run through all steps equals the model's own pipeline to the bit. Steps have no memory of each other (no
    multistep solver), so that any part of a trajectory can be cached and gone through again.
    """

    denoiser: nn.Module
    """The network that the adapter sits in."""
    lora_target: str
    """Full-match expression for the q, k and v projections of spatial self-attention (section 4.4)."""
    lora_prefix: str
    """What the denoiser is called in LoRA files."""
    num_steps: int
    num_frames: int
    device: torch.device
    dtype: torch.dtype

    def encode_prompt(self, prompt: str) -> Embeds:
        """The prompt, and with guidance the negative prompt before it; no gradient."""
        ...

    def initial_latents(self, seed: int) -> Latents:
        """Pure noise, drawn on the CPU: the same on every device."""
        ...

    def predict(self, latents: Latents, step: int, embeds: Embeds) -> Latents:
        """The model's guided output at `step`."""
        ...

    def advance(self, latents: Latents, step: int, output: Latents) -> Latents:
        """The sampler's step from `latents` to the next ones, given the model's output."""
        ...

    def decode(self, latents: Latents, frames: Sequence[int]) -> Frames:
        """The chosen frames in [0, 1], float32; gradients reach the latents."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """All that a trajectory depends on besides prompt and seed, as plain values."""
        ...


def resolve_device(name: str) -> torch.device:
    """The device that a setting names; `auto` is the accelerator, if there is one. Raises InputRefused."""
    if name != "auto":
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise InputRefused(f"torch sees no GPU here for model.device={name}.", "`pv doctor` shows what it sees.")
        return torch.device(name)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
