"""Small random models of encoder methods, in the layout in which they are published."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusers.models.transformers.consisid_transformer_3d import ConsisIDTransformer3DModel
from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline
from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler
from PIL import Image
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from pvtool_core.methods import consisid_faces
from pvtool_core.methods.consisid_faces import FaceConditions
from pvtool_core.settings.schema import MethodConfig
from tests.support.families import t5_tokenizer

WIDTH, TEXT_WIDTH, QUERIES, RANK = 16, 16, 4, 2
"""Width of the image encoder and of text embeddings, face tokens, and rank of the LoRA."""
HEAD = 64
"""Width of the resampler's only attention head, as in all IP-Adapters."""
CROSS_ATTENTION = (16, 16, 16, 32)
"""Widths of the cross-attention layers of the small UNet: down, up, then middle blocks."""


def save_id_animator(folder: Path) -> MethodConfig:
    """Write a random checkpoint and image encoder, and return their settings."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(5)
    state = random_checkpoint(generator)
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        folder / "animator.ckpt",
    )
    torch.manual_seed(6)
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            projection_dim=8,
        )
    ).save_pretrained(folder / "image_encoder")
    return MethodConfig(
        name="id-animator",
        weights=str(folder / "animator.ckpt"),
        image_encoder=str(folder / "image_encoder"),
        scale=0.8,
    )


def random_checkpoint(generator: torch.Generator) -> dict[str, Tensor]:
    """Return random weights by their published names, without the prefix `module.`."""

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    inner = TEXT_WIDTH
    resampler: dict[str, Tensor] = {
        "latents": drawn(1, QUERIES, inner),
        "proj_in.weight": drawn(inner, WIDTH),
        "proj_in.bias": drawn(inner),
        "proj_out.weight": drawn(TEXT_WIDTH, inner),
        "proj_out.bias": drawn(TEXT_WIDTH),
        "norm_out.weight": 1 + drawn(TEXT_WIDTH),
        "norm_out.bias": drawn(TEXT_WIDTH),
    }
    for layer in range(4):
        attention, forward = f"layers.{layer}.0", f"layers.{layer}.1"
        for norm in ("norm1", "norm2"):
            resampler[f"{attention}.{norm}.weight"] = 1 + drawn(inner)
            resampler[f"{attention}.{norm}.bias"] = drawn(inner)
        resampler[f"{attention}.to_q.weight"] = drawn(HEAD, inner)
        resampler[f"{attention}.to_kv.weight"] = drawn(2 * HEAD, inner)
        resampler[f"{attention}.to_out.weight"] = drawn(inner, HEAD)
        resampler[f"{forward}.0.weight"] = 1 + drawn(inner)
        resampler[f"{forward}.0.bias"] = drawn(inner)
        resampler[f"{forward}.1.weight"] = drawn(4 * inner, inner)
        resampler[f"{forward}.3.weight"] = drawn(inner, 4 * inner)
    found = {f"image_proj_model.{name}": tensor for name, tensor in resampler.items()}
    for number, width in enumerate(CROSS_ATTENTION):
        key = f"adapter_modules.{2 * number + 1}"
        sizes = {"q": width, "k": TEXT_WIDTH, "v": TEXT_WIDTH, "out": width}
        for part, into in sizes.items():
            found[f"{key}.to_{part}_lora.down.weight"] = drawn(RANK, into)
            found[f"{key}.to_{part}_lora.up.weight"] = drawn(width, RANK)
        for part in "kv":
            found[f"{key}.to_{part}_face.weight"] = drawn(width, TEXT_WIDTH)
    return found


class PublishedResampler(nn.Module):
    """The resampler of ID-Animator, written from its formula."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self._weights = weights

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scale, shift = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        centred = x - x.mean(-1, keepdim=True)
        return centred / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * scale + shift

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self._weights[f"{name}.weight"].T + self._weights.get(
            f"{name}.bias", torch.zeros(())
        )

    def forward(self, states: Tensor) -> Tensor:
        """Return the tokens of the image encoder's states (images, patches, width)."""
        seen = self._linear(states, "proj_in")
        tokens = self._weights["latents"].expand(len(states), -1, -1)
        for layer in range(4):
            attention, forward = f"layers.{layer}.0", f"layers.{layer}.1"
            image = self._norm(seen, f"{attention}.norm1")
            own = self._norm(tokens, f"{attention}.norm2")
            query = self._linear(own, f"{attention}.to_q")
            both = self._linear(torch.cat([image, own], 1), f"{attention}.to_kv")
            key, value = both.chunk(2, -1)
            scores = (query @ key.transpose(1, 2) / HEAD**0.5).softmax(-1)
            tokens = self._linear(scores @ value, f"{attention}.to_out") + tokens
            hidden = self._linear(self._norm(tokens, f"{forward}.0"), f"{forward}.1")
            hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
            tokens = self._linear(hidden, f"{forward}.3") + tokens
        return self._norm(self._linear(tokens, "proj_out"), "norm_out")


ID_WIDTH, STATE_WIDTH, SCALES = 8, 6, 5
"""Width of face embeddings and hidden states of the small ConsisID, and the number of states."""


def save_consisid(folder: Path) -> None:
    """Write a random pipeline of ConsisID with one narrow block."""
    torch.manual_seed(3)
    text: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    transformer = ConsisIDTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=16,
        num_layers=2,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        use_rotary_positional_embeddings=True,
        is_train_face=True,
        is_kps=True,
        cross_attn_interval=1,
        cross_attn_dim_head=8,
        cross_attn_num_heads=2,
        LFE_id_dim=ID_WIDTH,
        LFE_vit_dim=STATE_WIDTH,
        LFE_depth=SCALES,
        LFE_dim_head=8,
        LFE_num_heads=2,
        LFE_num_id_token=2,
        LFE_num_querie=2,
        LFE_output_dim=21,  # two thirds of the width, as in the published model
        LFE_ff_mult=1,
        LFE_num_scale=SCALES,
    )
    for name, weight in transformer.named_parameters():
        if "perceiver_cross_attention" in name and weight.ndim == 2:
            weight.data *= 5  # a random face has little effect
    levels: dict[str, Any] = {
        "block_out_channels": (8, 8, 8, 8),
        "down_block_types": ("CogVideoXDownBlock3D",) * 4,
        "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    }
    vae = AutoencoderKLCogVideoX(latent_channels=4, layers_per_block=1, norm_num_groups=2, **levels)
    parts: dict[str, Any] = {
        "tokenizer": t5_tokenizer(),
        "text_encoder": T5EncoderModel(
            T5Config(vocab_size=64, pad_token_id=0, eos_token_id=1, **text)
        ),
        "scheduler": CogVideoXDPMScheduler(),
    }
    ConsisIDPipeline(vae=vae, transformer=transformer, **parts).save_pretrained(folder)


def use_random_faces(patch: pytest.MonkeyPatch) -> None:
    """Let ConsisID run without its face models."""

    def load(*_: object) -> RandomFaces:
        return RandomFaces()

    patch.setattr(consisid_faces, "load_face_encoder", load)


class RandomFaces:
    """`FaceEncoder` with random conditions, drawn from the colours of the photo."""

    def encode(self, name: str, photo: Image.Image) -> FaceConditions:
        seed = sum(photo.resize((2, 2)).tobytes())
        generator = torch.Generator().manual_seed(seed)
        states = [torch.randn(1, 5, STATE_WIDTH, generator=generator) for _ in range(SCALES)]
        landmarks = np.array([(9, 9), (23, 9), (16, 16), (11, 22), (21, 22)])
        identity = torch.randn(1, ID_WIDTH, generator=generator)
        return FaceConditions(identity, states, photo.resize((32, 32)), landmarks)
