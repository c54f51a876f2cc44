"""HunyuanVideo: a transformer of 13B weights with embedded guidance and flow matching.

Its autoencoder is a causal 3D one. Built on the diffusers pipeline, from a folder in its format.
This code repeats `HunyuanVideoPipeline.__call__` step by step, because no pipeline starts in the
middle of a schedule or is differentiable.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import HunyuanVideoPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from torch import Tensor, nn
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

_TRIMMED_TOKENS = 64
"""Upper bound of the tokens of a prompt of the shipped banks without padding."""


class FusedLayout:
    """`LoraLayout` with q, k and v in one matrix, as in HunyuanVideo's own code and ComfyUI.

    The fused down projection (3 rank, in) stacks the three, the fused up projection (3 out, 3 rank)
    is block-diagonal. In single blocks the matrix also feeds the MLP, whose last `mlp_width` rows
    are zero. Alpha equals the rank, which is also the default.
    """

    def __init__(self, mlp_width: int) -> None:
        self._mlp_width = mlp_width

    def pack(self, layers: Mapping[str, LoraPair]) -> dict[str, Tensor]:
        packed: dict[str, Tensor] = {}
        for block in dict.fromkeys(name.rpartition(".attn.")[0] for name in layers):
            downs, ups = zip(
                *(layers[f"{block}.attn.to_{projection}"] for projection in "qkv"), strict=True
            )
            key, more = self._fused(block)
            packed[f"{key}.lora_A.weight"] = torch.cat(downs)
            packed[f"{key}.lora_B.weight"] = nn.functional.pad(
                torch.block_diag(*ups), (0, 0, 0, more)
            )
        return packed

    def unpack(self, tensors: Mapping[str, Tensor], layers: Iterable[str]) -> dict[str, LoraPair]:
        pairs: dict[str, LoraPair] = {}
        for name in layers:
            block, _, projection = name.rpartition(".attn.to_")
            key, more = self._fused(block)
            part, up = "qkv".index(projection), tensors[f"{key}.lora_B.weight"]
            rows = up[: len(up) - more].chunk(3)[part]
            pairs[name] = LoraPair(
                tensors[f"{key}.lora_A.weight"].chunk(3)[part], rows.chunk(3, dim=1)[part]
            )
        return pairs

    def _fused(self, block: str) -> tuple[str, int]:
        """Return the name of a block's fused matrix, and its number of rows besides q, k and v."""
        kind, _, number = block.rpartition(".")
        if kind == "single_transformer_blocks":
            return f"transformer.single_blocks.{number}.linear1", self._mlp_width
        return f"transformer.double_blocks.{number}.img_attn_qkv", 0


class HunyuanVideo:
    """`Backbone` for HunyuanVideo.

    Latents are (1, 16, (frames - 1) / 4 + 1, height / 8, width / 8).

    The guidance scale is an input of the distilled transformer, so each step is one forward pass.

    Raises InputRefused for a sampler other than flow matching by Euler's method without noise.
    """

    lora_target = r"(single_)?transformer_blocks\.\d+\.attn\.to_[qkv]"
    cross_target = ""
    prompt_encoder = None

    def __init__(
        self,
        model: ModelConfig,
        sampler: SamplerConfig,
        prompts: Sequence[str],
        recompute: bool = False,
    ) -> None:
        self.model, self.sampler, self.recompute = model, sampler, recompute
        self.device, self.dtype = resolve_device(model.device), getattr(torch, model.dtype)
        self._load: Any = functools.partial(
            HunyuanVideoPipeline.from_pretrained,
            Path(model.base_model),
            dtype=self.dtype,
            variant=pipeline_variant(Path(model.base_model)),
            local_files_only=True,
            use_safetensors=True,
        )
        self._embeds = self._encode(prompts) if prompts else {}
        without_text = dict.fromkeys(["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"])
        self.pipeline: Any = self._load(**without_text)
        self.merged_loras = merge_style_loras(self.pipeline, model)
        self.pipeline.vae.to(self.device)
        for part in (self.pipeline.transformer, self.pipeline.vae):
            part.eval().requires_grad_(False)
            if recompute:
                part.enable_gradient_checkpointing()
        self.pipeline.vae.use_framewise_decoding = (
            False  # `decode` processes temporal tiles one by one
        )
        if model.vae_tiling:
            self.pipeline.vae.enable_tiling()
        self.denoiser: Any = self.pipeline.transformer
        blocks = blocks_of(self.denoiser, model)
        place(self.denoiser, blocks, model, self.device)
        if model.trim_prompt:
            for block in blocks:
                block.attn.set_processor(_WithoutMask())
        self.lora_layout: LoraLayout = FusedLayout(
            self.denoiser.single_transformer_blocks[0].proj_mlp.out_features
        )
        self.num_frames, self.num_steps = model.num_frames, sampler.num_inference_steps
        self.scheduler = _scheduler(self.pipeline.scheduler, sampler, self.device)

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str]) -> dict[str, Embeds]:
        pipeline = self._load(transformer=None, vae=None).to(self.device)
        return {prompt: self._embeds_of(pipeline, prompt) for prompt in prompts}

    def _embeds_of(self, pipeline: Any, prompt: str) -> Embeds:
        text, pooled, mask = pipeline.encode_prompt(prompt, device=self.device)
        if self.model.trim_prompt:
            text, mask = (each[:, : int(mask.sum())] for each in (text, mask))
        embeds = {
            "prompt_embeds": text,
            "pooled_prompt_embeds": pooled,
            "prompt_attention_mask": mask,
        }
        return {name: tensor.to("cpu", self.dtype) for name, tensor in embeds.items()}

    def prompt_embeds(self, prompt: str) -> Embeds:
        return {name: tensor.to(self.device) for name, tensor in self._embeds[prompt].items()}

    def random_embeds(self) -> Embeds:
        """Return random embeddings with the shapes of the text encoder's, for `--plan`."""
        config, tokens = self.denoiser.config, _TRIMMED_TOKENS if self.model.trim_prompt else 256
        random = functools.partial(torch.randn, device=self.device, dtype=self.dtype)
        return {
            "prompt_embeds": random(1, tokens, config.text_embed_dim),
            "pooled_prompt_embeds": random(1, config.pooled_projection_dim),
            "prompt_attention_mask": torch.ones(1, tokens, device=self.device, dtype=self.dtype),
        }

    def initial_latents(self, seed: int) -> Latents:
        space, time = (
            self.pipeline.vae_scale_factor_spatial,
            self.pipeline.vae_scale_factor_temporal,
        )
        size = (
            (self.num_frames - 1) // time + 1,
            self.model.height // space,
            self.model.width // space,
        )
        shape = (1, self.denoiser.config.in_channels, *size)
        generator = torch.Generator("cpu").manual_seed(seed)
        return randn_tensor(shape, generator=generator, device=self.device, dtype=torch.float32)

    def predict(self, latents: Latents, step: int, embeds: Embeds) -> Latents:
        timestep = self.scheduler.timesteps[step].expand(len(latents)).to(latents.dtype)
        return self._denoise(latents, timestep, embeds)

    def _denoise(self, latents: Latents, timestep: Tensor, embeds: Embeds) -> Latents:
        text = embeds["prompt_embeds"]
        scale = [self.sampler.guidance_scale] * len(latents)
        guidance = torch.tensor(scale, dtype=text.dtype, device=text.device) * 1000.0
        return self.denoiser(
            hidden_states=latents.to(text.dtype),
            timestep=timestep,
            encoder_hidden_states=text,
            encoder_attention_mask=embeds["prompt_attention_mask"],
            pooled_projections=embeds["pooled_prompt_embeds"],
            guidance=guidance,
            return_dict=False,
        )[0]

    def advance(self, latents: Latents, step: int, output: Latents) -> Latents:
        return euler_step(self.scheduler, latents, step, output)

    def noise_level(self, step: int) -> float:
        return float(self.scheduler.sigmas[step])

    def decode(self, latents: Latents, frames: Sequence[int]) -> Frames:
        vae, into = self.pipeline.vae, self._tiling
        latents = latents.to(vae.dtype) / vae.config.scaling_factor
        needed = sorted({tile for frame in frames for tile in into.tiles_of(frame)})
        decode = vae.decode
        if self.recompute and len(needed) > 1:  # store the activations of one tile only
            decode = functools.partial(checkpoint, decode, use_reentrant=False)
        tiles: dict[int, Tensor] = {}
        for tile in needed:
            decoded: Any = decode(latents[:, :, into.latents_of(tile)]).sample
            tiles[tile] = (
                decoded[:, :, 1:] if tile else decoded
            )  # only the clip's first latent has one frame
            if tile - 1 in tiles:
                vae.blend_t(tiles[tile - 1], tiles[tile], into.blended)
        chosen = [tiles[into.tiles_of(frame)[-1]][0, :, into.place_of(frame)] for frame in frames]
        return unit_range(torch.stack(chosen))

    def decoded_with(self, frame: int) -> Sequence[int]:
        needed = set(self._tiling.tiles_of(frame))
        return [
            other
            for other in range(self.num_frames)
            if needed.issuperset(self._tiling.tiles_of(other))
        ]

    @property
    def _tiling(self) -> "TilesInTime":
        return TilesInTime(self.pipeline.vae)

    @torch.no_grad()
    def encode(self, frames: Frames, generator: torch.Generator) -> Latents:
        vae = self.pipeline.vae
        clip = signed_range(frames).to(self.device, vae.dtype).transpose(0, 1)[None]
        return (vae.encode(clip).latent_dist.sample(generator) * vae.config.scaling_factor).float()

    def diffuse(self, latents: Latents, noise: Latents, level: float) -> Diffused:
        return diffused_by_flow(self.scheduler, latents, noise, level)

    def predict_diffused(self, diffused: Diffused, embeds: Embeds) -> Latents:
        return self._denoise(diffused.latents, diffused.timestep, embeds)

    def as_image_model(self) -> AbstractContextManager[None]:
        return clips_of_one_frame(self)

    def facts(self) -> Mapping[str, Any]:
        return trajectory_facts(self.model, self.sampler, self.scheduler, self.device, guided=False)

    def sampler_facts(self) -> Mapping[str, Any]:
        levels = _flow_levels(self.num_steps).tolist()
        return flow_sampler_facts(self.scheduler, levels, "numpy.linspace(1, 0, n + 1)[:-1]")


class TilesInTime:
    """Temporal tiling of diffusers' `AutoencoderKLHunyuanVideo`.

    Tiles of latents overlap, and the first frames of each are blended with the last of the previous
    one. A tile is the smallest unit with identical pixels, although the autoencoder is causal: its
    normalisation averages over all latents in the tile. With the paper's autoencoder tile k has the
    latents 3k to 3k + 4 and provides the frames 12k + 1 to 12k + 12 (also the first frame for k =
    0), of which the first four are blended.
    """

    def __init__(self, vae: Any) -> None:
        self._length = vae.tile_sample_min_num_frames // vae.temporal_compression_ratio + 1
        self._stride = vae.tile_sample_stride_num_frames
        self._latent_stride = self._stride // vae.temporal_compression_ratio
        self.blended = vae.tile_sample_min_num_frames - self._stride
        """Number of frames of a tile that are blended with the previous one."""

    def tiles_of(self, frame: int) -> range:
        """Return the one or two tiles of a frame."""
        tile = max(0, frame - 1) // self._stride
        blended = tile > 0 and self.place_of(frame) < self.blended
        return range(tile - blended, tile + 1)

    def place_of(self, frame: int) -> int:
        """Return the position of a frame in its last tile."""
        return (frame - 1) % self._stride if frame > self._stride else frame

    def latents_of(self, tile: int) -> slice:
        return slice(tile * self._latent_stride, tile * self._latent_stride + self._length)


class _WithoutMask(HunyuanVideoAttnProcessor2_0):
    """Attention over a prompt without padding, which needs no mask.

    A mask would prevent flash attention.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        return super().__call__(attn, hidden_states, encoder_hidden_states, None, image_rotary_emb)


def _scheduler(of_folder: Any, sampler: SamplerConfig, device: torch.device) -> Any:
    """Return the scheduler of the folder, set to the number of steps.

    Raises InputRefused for another kind.
    """
    config: Any = of_folder.config
    if type(of_folder) is not FlowMatchEulerDiscreteScheduler or config.stochastic_sampling:
        raise InputRefused(
            f"The base model's sampler {type(of_folder).__name__} is multistep or stochastic.",
            "Save the pipeline with FlowMatchEulerDiscreteScheduler and stochastic_sampling=False.",
        )
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(
        config, shift=sampler.shift or config.shift
    )
    scheduler.set_timesteps(sigmas=_flow_levels(sampler.num_inference_steps), device=device)
    return scheduler


def _flow_levels(num_steps: int) -> NDArray[np.float64]:
    """Return the noise levels of the pipeline before the shift."""
    return np.linspace(1.0, 0.0, num_steps + 1)[:-1]
