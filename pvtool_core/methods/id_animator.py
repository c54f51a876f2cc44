"""ID-Animator (arXiv 2404.15275): AnimateDiff with an IP-Adapter for faces.

The reference is the aligned face crop, enlarged to the size that CLIP takes. Of several photos, the
tokens are averaged. The branch without prompt gets the tokens of a black image, not zeros.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import MultiIPAdapterImageProjection
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from pvtool_core import sampling
from pvtool_core.backbones import Frames, Latents, load_backbone
from pvtool_core.errors import InputRefused, RunFailed, from_foreign
from pvtool_core.media.photos import read_picture
from pvtool_core.methods.id_animator_checkpoint import (
    HINT,
    FaceAdapter,
    merge_lora,
    read_face_adapter,
)
from pvtool_core.settings.schema import MethodConfig, ModelConfig, SamplerConfig
from pvtool_core.store.events import Report
from pvtool_core.store.reference_files import ReferenceFiles

_RELEASED_SIDE = 224
"""Side to which the published code enlarges face crops, before CLIP's own preparation."""


class IdAnimator:
    """`EncoderMethod` on the AnimateDiff backbone. Latents are those of the backbone."""

    def __init__(
        self,
        model: ModelConfig,
        sampler: SamplerConfig,
        method: MethodConfig,
        prompts: Sequence[str],
        report: Report,
    ) -> None:
        backbone: Any = load_backbone(model, sampler, prompts, report=report)
        self.backbone, self.device = backbone, backbone.device
        adapter = read_face_adapter(Path(method.weights), backbone.denoiser)
        with torch.no_grad():
            merge_lora(backbone.denoiser, adapter)
        self._encoder = _image_encoder(Path(method.image_encoder))
        self._encoder.to(self.device, backbone.dtype)
        backbone.pipeline.register_modules(image_encoder=self._encoder)
        self._projection = _install(backbone.pipeline, adapter, method)
        self._processor = CLIPImageProcessor(
            size={"shortest_edge": self._encoder.config.image_size},
            crop_size=self._encoder.config.image_size,
        )
        self._known: tuple[str, Tensor] = ("", torch.empty(0))

    @torch.no_grad()
    def render(self, prompt: str, seed: int, reference: ReferenceFiles) -> Latents:
        embeds: Mapping[str, Tensor] = {
            **self.backbone.prompt_embeds(prompt),
            "image_embeds": self._tokens_of(reference),
        }
        noise = self.backbone.initial_latents(seed)
        return sampling.denoise(self.backbone, noise, embeds, range(self.backbone.num_steps))

    @torch.no_grad()
    def decode(self, latents: Latents) -> Frames:
        return self.backbone.decode(latents.to(self.device), range(self.backbone.num_frames))

    def _tokens_of(self, reference: ReferenceFiles) -> Tensor:
        """Return the face tokens of an identity, (branches, 1, tokens, width).

        With guidance, those of a black image come first. The last result is kept.
        """
        sha256 = reference.sha256
        if self._known[0] != sha256:
            crops = [_enlarged(path) for path in reference.crops]
            pixels = self._processor(images=crops, return_tensors="pt").pixel_values
            pixels = pixels.to(self.device, self.backbone.dtype)
            positive = self._tokens(pixels).mean(0, keepdim=True)
            branches = [self._tokens(torch.zeros_like(pixels[:1]))] if self.backbone.guided else []
            self._known = sha256, torch.stack([*branches, positive])
        return self._known[1]

    def _tokens(self, pixels: Tensor) -> Tensor:
        """Return the tokens (images, tokens, width) of prepared images."""
        states = self._encoder(pixels, output_hidden_states=True).hidden_states
        return self._projection(states[-2])


def _enlarged(crop: Path) -> Image.Image:
    return read_picture(crop).resize((_RELEASED_SIDE, _RELEASED_SIDE))


def _install(pipeline: Any, adapter: FaceAdapter, method: MethodConfig) -> nn.Module:
    """Add the face branch to the pipeline's UNet as an IP-Adapter, and return its resampler.

    The UNet then expects the resampler's tokens, which are computed once for each identity. Raises
    InputRefused for weights of other sizes.
    """
    try:
        pipeline.load_ip_adapter(
            {"image_proj": adapter.resampler, "ip_adapter": adapter.projections},
            subfolder="",
            weight_name="",
            low_cpu_mem_usage=False,
        )
    except Exception as error:
        known = from_foreign(error)
        if type(known) is not RunFailed:
            raise
        raise InputRefused(
            f"{Path(method.weights).name} does not fit the base model: {known.message}", HINT
        ) from error
    pipeline.set_ip_adapter_scale(method.scale)
    (projection,) = pipeline.unet.encoder_hid_proj.image_projection_layers
    width, expected = pipeline.image_encoder.config.hidden_size, projection.proj_in.in_features
    if width != expected:
        raise InputRefused(
            f"The image encoder {method.image_encoder} has width {width}, but ID-Animator expects "
            f"{expected}.",
            "Set method.image_encoder to CLIP ViT-H/14.",
        )
    pipeline.unet.encoder_hid_proj = MultiIPAdapterImageProjection([nn.Identity()])
    pipeline.unet.eval().requires_grad_(False)
    return projection.eval()


def _image_encoder(folder: Path) -> Any:
    encoder: Any = CLIPVisionModelWithProjection.from_pretrained(
        folder, local_files_only=True, use_safetensors=True
    )
    return encoder.eval().requires_grad_(False)
