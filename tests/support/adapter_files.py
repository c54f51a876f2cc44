"""Small adapter files, written without torch."""

import numpy as np
from safetensors.numpy import save

METADATA = {
    "format": "pv adapter 1",
    "adapter_start": "0.75",
    "first_step": "6",
    "num_inference_steps": "8",
    "guidance_scale": "3.0",
    "negative_prompt": "",
    "keyword": "<V>",
    "sampler": "{}",
    "base_model_fingerprint": "base",
    "style_loras": "[]",
    "control": "{}",
}


def small_adapter(seed: int = 0, *, rank: int = 2, scale: float = 0.1, **metadata: str) -> bytes:
    """Return an adapter file with random matrices for q, k and v of one block of Wan."""
    draw = np.random.default_rng(seed).standard_normal
    tensors = {
        f"diffusion_model.blocks.0.self_attn.{projection}.lora_{part}.weight": (
            factor * draw(shape)
        ).astype(np.float32)
        for projection in "qkv"
        for part, shape, factor in (("A", (rank, 8), 1.0), ("B", (6, rank), scale))
    }
    return save(tensors, {**METADATA, "rank": str(rank), **metadata})
