"""ConsisID (arXiv 2411.17440): CogVideoX, conditioned on a photo by two face encoders.

diffusers' pipeline runs all steps: its sampler has a state between steps. Of several photos, the
first one is used.
"""

import functools
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline
from torch import Tensor

from pvtool_core.backbones import Frames, Latents
from pvtool_core.backbones.interface import unit_range
from pvtool_core.backbones.memory import blocks_of, place
from pvtool_core.backbones.style_loras import merge_style_loras
from pvtool_core.devices import resolve_device
from pvtool_core.errors import InputRefused, NotFinite
from pvtool_core.media.photos import read_picture
from pvtool_core.methods import consisid_faces
from pvtool_core.models.base_models import pipeline_variant
from pvtool_core.settings.schema import MethodConfig, ModelConfig, SamplerConfig
from pvtool_core.store.events import Report
from pvtool_core.store.reference_files import ReferenceFiles

_TOKENS = 226  # the pipeline's default, which the transformer expects


class ConsisId:
    """`EncoderMethod` on diffusers' ConsisIDPipeline.

    Latents are (1, (frames - 1) / 4 + 1, 16, height / 8, width / 8).
    """

    def __init__(
        self,
        model: ModelConfig,
        sampler: SamplerConfig,
        method: MethodConfig,
        prompts: Sequence[str],
        report: Report,
    ) -> None:
        self.model, self.sampler = model, sampler
        self.device, self.dtype = resolve_device(model.device), getattr(torch, model.dtype)
        self._load: Any = functools.partial(
            ConsisIDPipeline.from_pretrained,
            model.base_model,
            dtype=self.dtype,
            variant=pipeline_variant(Path(model.base_model)),
            local_files_only=True,
            use_safetensors=True,
        )
        self._faces = consisid_faces.load_face_encoder(method, self.device, self.dtype)
        self._known: tuple[str, consisid_faces.FaceConditions] | None = None
        self._embeds = self._encode(prompts)
        gc.collect()  # the text encoder's 10 GB are needed for the denoiser
        self.pipeline: Any = self._load(text_encoder=None, tokenizer=None)
        self.pipeline.set_progress_bar_config(disable=True)
        for event in merge_style_loras(self.pipeline, model):
            report(event)
        vae, denoiser = self.pipeline.vae.to(self.device), self.pipeline.transformer
        for part in (vae, denoiser):
            part.eval().requires_grad_(False)
        if model.vae_tiling:
            vae.enable_tiling()
        place(denoiser, blocks_of(denoiser, model), model, self.device)

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str]) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Return the embeddings of each prompt and of the negative prompt, on the CPU."""
        pipeline = self._load(transformer=None, vae=None).to(self.device)
        negative = self.sampler.negative_prompt
        guided = self.sampler.guidance_scale > 1
        found: dict[str, tuple[Tensor, Tensor | None]] = {}
        for prompt in prompts:
            pair = pipeline.encode_prompt(
                prompt, negative, guided, device=self.device, max_sequence_length=_TOKENS
            )
            found[prompt] = pair[0].cpu(), pair[1].cpu() if guided else None
        return found

    @torch.no_grad()
    def render(self, prompt: str, seed: int, reference: ReferenceFiles) -> Latents:
        face = self._conditions(reference)
        positive, negative = self._embeds[prompt]
        latents = self.pipeline(
            image=face.image,
            prompt_embeds=positive.to(self.device),
            negative_prompt_embeds=None if negative is None else negative.to(self.device),
            height=self.model.height,
            width=self.model.width,
            num_frames=self.model.num_frames,
            num_inference_steps=self.sampler.num_inference_steps,
            guidance_scale=self.sampler.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="latent",
            id_cond=face.identity,
            id_vit_hidden=list(face.states),
            kps_cond=face.landmarks,
        ).frames
        if not latents.isfinite().all():
            raise NotFinite("denoised latents")
        return latents

    @torch.no_grad()
    def decode(self, latents: Latents) -> Frames:
        decoded = self.pipeline.decode_latents(latents.to(self.device, self.dtype))
        return unit_range(decoded[0].transpose(0, 1))

    def _conditions(self, reference: ReferenceFiles) -> consisid_faces.FaceConditions:
        """Return the conditions of an identity; the last ones are kept. Raises InputRefused."""
        if not reference.photos:
            folder = reference.crops[0].parent.parent
            raise InputRefused(
                f"No photos found in {folder / 'references'}.",
                "Restore the identity, or add it again.",
            )
        sha256 = reference.sha256
        if self._known is None or self._known[0] != sha256:
            photo = reference.photos[0]
            self._known = sha256, self._faces.encode(photo.name, read_picture(photo))
        return self._known[1]
