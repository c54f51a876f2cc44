"""The families of models that the laws of tests/core/test_backbones.py are checked on; a new backbone is one more."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from pvtool_core.config import TrainJob
from tests.conftest import LETTERS, random_job

Frozen = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """What the laws need to know of a family.

    `save` writes a small random model as a folder of diffusers. `size` are the settings of its clips. `pipeline` is
    diffusers' own, from that folder, with the sampler that the backbone uses. `adapted` matches the layers that the
    adapter is to sit on, and no others.
    """

    name: str
    save: Callable[[Path], None]
    size: Frozen
    pipeline: Callable[[str], Any]
    adapted: str

    def job(self, models: Path) -> TrainJob:
        """A training job on the small models: 8 steps, of which the adapter acts in 6 and 7."""
        folder = models / self.name
        if not folder.exists():
            torch.manual_seed(0)
            self.save(folder)
        job = random_job(models)
        model = dataclasses.replace(job.model, family=self.name, base_model=str(folder), **self.size)
        return dataclasses.replace(job, model=model)

    def fresh_pipeline(self, job: TrainJob) -> Any:
        pipeline = self.pipeline(job.model.base_model)
        pipeline.set_progress_bar_config(disable=True)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)  # torch multiplies by a frozen matrix in another order of additions
        return pipeline

    def layers(self, denoiser: nn.Module) -> set[str]:
        return {name for name, _ in denoiser.named_modules() if re.fullmatch(self.adapted, name)}


def pipeline_call(pipeline: Any, job: TrainJob, prompt: str, latents: Tensor | None, **more: Any) -> Tensor:
    """What diffusers' pipeline makes with the job's settings: final latents, unless `more` asks for frames."""
    model, sampler = job.model, job.sampler
    words = {"prompt": prompt, "negative_prompt": sampler.negative_prompt}
    sizes = {"num_frames": model.num_frames, "height": model.height, "width": model.width}
    steps = {"num_inference_steps": sampler.num_inference_steps, "guidance_scale": sampler.guidance_scale}
    return pipeline(**words, **sizes, **steps, latents=latents, **{"output_type": "latent", **more}).frames


def save_wan(folder: Path, boundary_ratio: float | None = None) -> None:
    """Wan 2.1 with two narrow blocks; with a `boundary_ratio`, Wan 2.2's two transformers."""
    torch.manual_seed(0)
    experts = {"transformer_2": wan_transformer()} if boundary_ratio else {}
    wan_pipeline(
        wan_transformer(), AutoencoderKLWan(**WAN_VAE), boundary_ratio=boundary_ratio, **experts
    ).save_pretrained(folder)


def save_wan_dense(folder: Path) -> None:
    """Wan 2.2 TI2V: a time for each patch, and an autoencoder of another build that shrinks frames 16 times."""
    torch.manual_seed(0)
    patches: dict[str, Any] = {"patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16}
    vae = AutoencoderKLWan(**WAN_VAE, **patches, is_residual=True)
    wan_pipeline(wan_transformer(), vae, expand_timesteps=True).save_pretrained(folder)


WAN_VAE: dict[str, Any] = {"base_dim": 4, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}


def wan_transformer() -> WanTransformer3DModel:
    widths: dict[str, Any] = {"text_dim": 16, "freq_dim": 16, "ffn_dim": 32}
    transformer = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=12, num_layers=2, **widths)
    for block in transformer.blocks:
        attention: Any = block.attn2
        attention.to_out[0].weight.data *= 30  # at random the prompt hardly shows, and every guidance were the same
    return transformer


def wan_pipeline(transformer: WanTransformer3DModel, vae: AutoencoderKLWan, **more: Any) -> WanPipeline:
    widths: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    text_encoder = UMT5EncoderModel(UMT5Config(vocab_size=64, pad_token_id=0, eos_token_id=1, **widths))
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    parts: dict[str, Any] = {"tokenizer": t5_tokenizer(), "text_encoder": text_encoder, "scheduler": scheduler}
    return WanPipeline(transformer=transformer, vae=vae, **parts, **more)


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """SentencePiece's kind of tokenizer, as T5 has it, with letters for words."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS, "V"]
    tokenizer = Tokenizer(Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2))
    tokenizer.pre_tokenizer = Metaspace()  # type: ignore[assignment]
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])  # type: ignore[assignment]
    words = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **words)


def wan_with_euler(folder: str) -> Any:
    """Wan's pipeline with the sampler that takes the place of its own, on the folder's shift."""
    pipeline: Any = WanPipeline.from_pretrained(folder)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=pipeline.scheduler.config.flow_shift)
    return pipeline


WAN = Family(
    name="wan",
    save=save_wan,
    size={"num_frames": 9},
    pipeline=wan_with_euler,
    adapted=r"blocks\.[01]\.attn1\.to_[qkv]",
)
FAMILIES = (WAN,)
