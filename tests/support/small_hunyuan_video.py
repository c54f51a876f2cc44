"""A small random HunyuanVideo: two blocks of each kind, Llama, CLIP, the 3D autoencoder."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import (
    DEFAULT_PROMPT_TEMPLATE,
    HunyuanVideoPipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from tests.support.small_models import text_encoder, tokenizer


def save_hunyuan_video(folder: Path) -> None:
    torch.manual_seed(0)
    words = llama_tokenizer()
    llama = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,  # the text embeddings are those of the third-last layer
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,  # the tokenizer's value
    )
    pipeline: Any = HunyuanVideoPipeline(
        text_encoder=LlamaModel(llama),
        tokenizer=words,  # type: ignore[arg-type]
        text_encoder_2=text_encoder(positions=77),
        tokenizer_2=tokenizer(folder.parent),
        transformer=transformer(),
        vae=autoencoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )
    pipeline.save_pretrained(folder)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer for the pipeline's template, which must have about 95 tokens.

    It has the words of the template, and spells all other words.
    """
    spelling = Tokenizer(BPE(unk_token="?"))
    spelling.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    template, letters = DEFAULT_PROMPT_TEMPLATE["template"], "abcdefghijklmnopqrstuvwxyz<>V"
    trainer = BpeTrainer(
        vocab_size=600, special_tokens=["<pad>", "?"], initial_alphabet=list(letters)
    )  # type: ignore[call-arg]
    spelling.train_from_iterator([template], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=spelling, pad_token="<pad>", unk_token="?", padding_side="right"
    )


def transformer(**sizes: Any) -> HunyuanVideoTransformer3DModel:
    small: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "num_refiner_layers": 1,
        "text_embed_dim": 16,
        "pooled_projection_dim": 16,
        "rope_axes_dim": (4, 6, 6),
    }
    return HunyuanVideoTransformer3DModel(**{**small, **sizes})


def autoencoder() -> AutoencoderKLHunyuanVideo:
    widths: Any = (8, 8, 8, 8)
    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=widths, layers_per_block=1, norm_num_groups=4
    )
