"""Minimal valid files of each format."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def safetensors(content: bytes) -> bytes:
    """Return a file of one tensor."""
    tensor = {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}
    header = json.dumps({"weight": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + content


def onnx(size: int = 64) -> bytes:
    """Return a minimal ONNX file: its version, and a graph of `size` bytes, at most 127."""
    return bytes([0x08, 8, 0x3A, size]) + b"g" * size


def checkpoint(path: Path, shapes: Mapping[str, Sequence[int]], **metadata: str) -> Path:
    """Write a .safetensors file of float16 zeros with these shapes.

    Dots in the metadata's keys are written as `__`.
    """
    header: dict[str, Any] = {
        "__metadata__": {key.replace("__", "."): value for key, value in metadata.items()}
    }
    reached = 0
    for name, shape in shapes.items():
        end = reached + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [reached, end]}
        reached = end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(reached))
    return path


def pipeline_folder(path: Path, kind: str = "StableDiffusionPipeline") -> Path:
    """Write a minimal complete pipeline: configurations, and one tensor per component."""
    encoder, tokens = ["transformers", "CLIPTextModel"], ["transformers", "CLIPTokenizer"]
    parts = {"vae": ["diffusers", "AutoencoderKL"], "text_encoder": encoder, "tokenizer": tokens}
    parts |= {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    files: dict[str, Any] = {"model_index.json": {"_class_name": kind, **parts}}
    files["unet/config.json"] = {
        "in_channels": 4,
        "cross_attention_dim": 768,
        "block_out_channels": [320, 640],
    }
    files["vae/config.json"] = {"latent_channels": 4}
    files["text_encoder/config.json"] = {"hidden_size": 768}
    files |= {"tokenizer/vocab.json": {}, "scheduler/scheduler_config.json": {}}
    for name, table in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(table))
    for name in (
        "unet/diffusion_pytorch_model",
        "vae/diffusion_pytorch_model",
        "text_encoder/model",
    ):
        (path / f"{name}.safetensors").write_bytes(safetensors(b"weights"))
    return path
