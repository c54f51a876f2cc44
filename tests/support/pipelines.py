"""Pipeline folders of random weights."""

import json

from tests.support.weight_files import safetensors


def pipeline() -> dict[str, bytes]:
    """Write a diffusers folder with variants, pickles, pictures and one-file checkpoints."""
    index = {
        "_class_name": "Pipeline",
        "unet": ["diffusers", "UNet"],
        "safety_checker": [None, None],
    }
    return {
        "model_index.json": json.dumps(index).encode(),
        "README.md": b"words",
        "all-in-one.safetensors": safetensors(bytes(64)),
        "unet/config.json": b"{}",
        "unet/model.safetensors": safetensors(bytes(64)),
        "unet/model.fp16.safetensors": safetensors(bytes(64)),
        "unet/model.bin": b"pickle",
        "unet/picture.png": b"picture",
    }
