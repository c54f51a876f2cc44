"""Families of models for the laws in tests/core/test_backbones.py; a new backbone is added here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import HunyuanVideoPipeline
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from pvtool_core.backbones.wan import flow_levels
from pvtool_core.settings.jobs import TrainJob
from tests.support.small_hunyuan_video import save_hunyuan_video
from tests.support.small_models import LETTERS, random_job, save_animatediff, with_settings

Settings = Mapping[str, Any]
IN_TWO_PASSES = tuple(
    {"guidance_scale": scale, "negative_prompt": negative}
    for scale in (1.0, 5.0)
    for negative in ("", "ugly")
)


@dataclass(frozen=True)
class Family:
    """Properties of a family for the laws.

    `save` writes a small random model as a diffusers folder of the class `pipeline`; `sampler`
    replaces that of the folder. `encoders` are the components that are released before the others
    are loaded. `adapted` are the attention modules whose q, k and v the adapter must have, and no
    others. `size` are the settings of the clips, `guidance` those of the sampler that may change
    guidance, and `saving` those of the model that save memory. `decoder` is diffusers' decoder of
    all latents, and `encoder` the posterior of its encoder for a clip in [-1, 1].
    `frame_error` is the tolerance between a frame decoded with fewer others and the same frame in
    the whole clip; `exact` is the tolerance between two methods for a gradient in float64. Without
    `file_at_any_width`, diffusers reads the adapter's file at the full model's width only.
    """

    name: str
    save: Callable[[Path], None]
    pipeline: Any
    adapted: tuple[str, ...]
    size: Settings
    guidance: tuple[Settings, ...]
    saving: Settings
    encoders: tuple[str, ...] = ()
    sampler: Callable[[Any], Any] = lambda own: own
    decoder: Callable[[Any, Tensor], Tensor] = lambda vae, latents: vae.decode(latents).sample
    encoder: Callable[[Any, Tensor], Any] = lambda vae, clip: vae.encode(clip).latent_dist
    frame_error: float = 0.0
    exact: float = 1e-11
    file_at_any_width: bool = True

    def job(self, models: Path) -> TrainJob:
        """Return a training job on the small models: 8 steps, active steps 6 and 7."""
        folder = models / self.name
        if not folder.exists():
            torch.manual_seed(0)
            self.save(folder)
        return with_settings(
            random_job(models), "model", family=self.name, base_model=str(folder), **self.size
        )

    def fresh_pipeline(self, job: TrainJob) -> Any:
        pipeline = self.pipeline.from_pretrained(
            job.model.base_model, dtype=getattr(torch, job.model.dtype)
        )
        pipeline.scheduler = self.sampler(pipeline.scheduler)
        pipeline.set_progress_bar_config(disable=True)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)  # torch adds in another order for frozen matrices
        return pipeline


def pipeline_call(pipeline: Any, job: TrainJob, prompt: str, **more: Any) -> Tensor:
    """Return the result of diffusers' pipeline for seed 7 and the job's settings.

    The result is final latents, or frames if `more` asks for them.
    """
    model, sampler = job.model, job.sampler
    words = {"prompt": prompt, "negative_prompt": sampler.negative_prompt}
    sizes = {"num_frames": model.num_frames, "height": model.height, "width": model.width}
    steps = {
        "num_inference_steps": sampler.num_inference_steps,
        "guidance_scale": sampler.guidance_scale,
    }
    drawn = {"generator": torch.Generator().manual_seed(7), "output_type": "latent"}
    return pipeline(**words, **sizes, **steps, **{**drawn, **more}).frames


def save_wan(folder: Path, boundary_ratio: float | None = None) -> None:
    """Write Wan 2.1 with two narrow blocks; with `boundary_ratio`, Wan 2.2's two transformers."""
    torch.manual_seed(0)
    experts = {"transformer_2": wan_transformer()} if boundary_ratio else {}
    wan_pipeline(
        wan_transformer(), AutoencoderKLWan(**WAN_VAE), boundary_ratio=boundary_ratio, **experts
    ).save_pretrained(folder)


def save_wan_dense(folder: Path) -> None:
    """Write Wan 2.2 TI2V: one timestep per patch, and another autoencoder with factor 16."""
    torch.manual_seed(0)
    patches: dict[str, Any] = {
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "scale_factor_spatial": 16,
    }
    vae = AutoencoderKLWan(**WAN_VAE, **patches, is_residual=True)
    wan_pipeline(wan_transformer(), vae, expand_timesteps=True).save_pretrained(folder)


WAN_VAE: dict[str, Any] = {
    "base_dim": 4,
    "z_dim": 16,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
}


def wan_transformer() -> WanTransformer3DModel:
    widths: dict[str, Any] = {"text_dim": 16, "freq_dim": 16, "ffn_dim": 32}
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=2, **widths
    )
    for block in transformer.blocks:
        own, text = cast("list[Any]", [block.attn1, block.attn2])
        own.to_out[0].weight.data *= 5  # a random adapter has little effect,
        text.to_out[0].weight.data *= 30  # and the prompt none: guidance would not matter
    return transformer


def wan_pipeline(
    transformer: WanTransformer3DModel, vae: AutoencoderKLWan, **more: Any
) -> WanPipeline:
    widths: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=64, pad_token_id=0, eos_token_id=1, **widths)
    )
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    parts: dict[str, Any] = {
        "tokenizer": t5_tokenizer(),
        "text_encoder": text_encoder,
        "scheduler": scheduler,
    }
    return WanPipeline(transformer=transformer, vae=vae, **parts, **more)


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer like T5's (SentencePiece), with letters as words."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS, "V"]
    tokenizer = Tokenizer(Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2))
    tokenizer.pre_tokenizer = Metaspace()  # type: ignore[assignment]
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])  # type: ignore[assignment]
    words = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **words)


class EulerOnWansLevels(FlowMatchEulerDiscreteScheduler):
    """Euler sampler with Wan's noise levels.

    Wan's pipeline passes only the number of steps, and expects its own sampler.
    """

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:  # type: ignore[override]
        super().set_timesteps(sigmas=flow_levels(num_inference_steps).tolist(), device=device)


def euler_of(own: Any) -> Any:
    """Return the replacement of Wan's sampler, with the folder's shift."""
    return EulerOnWansLevels(shift=own.config.flow_shift)


def decode_one_by_one(vae: Any, latents: Tensor) -> Tensor:
    """Decode with an image autoencoder."""
    return vae.decode(latents[0].transpose(0, 1)).sample


def encode_one_by_one(vae: Any, clip: Tensor) -> Any:
    """Encode with an image autoencoder."""
    return vae.encode(clip[0].transpose(0, 1)).latent_dist


ANIMATEDIFF = Family(
    name="animatediff",
    save=save_animatediff,
    pipeline=AnimateDiffPipeline,
    adapted=tuple(
        f"{block}.transformer_blocks.0.attn1"
        for block in (
            "down_blocks.0.attentions.0",
            "mid_block.attentions.0",
            "up_blocks.1.attentions.0",
            "up_blocks.1.attentions.1",
        )
    ),
    size={"num_frames": 4},
    guidance=IN_TWO_PASSES,
    saving={},
    decoder=decode_one_by_one,
    encoder=encode_one_by_one,
    frame_error=1e-6,  # rounding differs between a batch and single pictures
)
HUNYUAN_VIDEO = Family(
    name="hunyuan-video",
    save=save_hunyuan_video,
    pipeline=HunyuanVideoPipeline,
    encoders=("text_encoder", "text_encoder_2"),
    adapted=tuple(
        f"{kind}.{n}.attn"
        for kind in ("transformer_blocks", "single_transformer_blocks")
        for n in range(2)
    ),
    size={"num_frames": 9},
    guidance=({"guidance_scale": 1.0}, {"guidance_scale": 6.0}),
    saving={"offload": True},
    exact=1e-6,  # the rotary embedding is computed in float32
    file_at_any_width=False,
)
WAN = Family(
    name="wan",
    save=save_wan,
    pipeline=WanPipeline,
    encoders=("text_encoder",),
    sampler=euler_of,
    adapted=("blocks.0.attn1", "blocks.1.attn1"),
    size={"num_frames": 9},
    guidance=IN_TWO_PASSES,
    saving={"offload": True},
    exact=1e-5,  # norms round to float32
)
FAMILIES = (ANIMATEDIFF, HUNYUAN_VIDEO, WAN)
