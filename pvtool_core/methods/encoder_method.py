"""The interface of encoder methods, which each method implements."""

from typing import Protocol, runtime_checkable

import torch

from pvtool_core.backbones import Frames, Latents
from pvtool_core.store.reference_files import ReferenceFiles


@runtime_checkable
class EncoderMethod(Protocol):
    """A video model that is conditioned on the photos of an identity by an image encoder.

    It is constructed with the settings of model, sampler and method, and loaded for given prompts:
    they are encoded first, and the text encoder is released. The photos are part of every step, so
    that clips of one prompt and seed share none.
    """

    device: torch.device

    def render(self, prompt: str, seed: int, reference: ReferenceFiles) -> Latents:
        """Return the final latents of a clip.

        Equal prompt, seed and photos give equal latents. Raises NotFinite, and InputRefused for
        photos that it cannot use.
        """
        ...

    def decode(self, latents: Latents) -> Frames:
        """Return every frame of a clip in [0, 1], float32."""
        ...
