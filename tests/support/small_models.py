"""Small models of the real classes, with random weights, and jobs for them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import open_clip
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pvtool_core.adapter import Adapter
from pvtool_core.settings.jobs import IdentityRef, TrainJob
from pvtool_core.settings.schema import (
    AdapterConfig,
    EvaluationConfig,
    IdentityRewardConfig,
    ModelConfig,
    SamplerConfig,
    SemanticRewardConfig,
    TrainingConfig,
)

SIDE, FRAMES, DETECTION_SIDE = 32, 4, 64


def save_models(root: Path) -> None:
    """Write every model and an identity to `root`."""
    torch.manual_seed(0)
    save_animatediff(root / "animatediff")
    (root / "faces").mkdir()
    save_recognizer(root / "faces" / "rec.onnx")
    save_recognizer(root / "faces" / "other.onnx")
    save_detector(root / "faces" / "det.onnx")
    save_clip(root / "clip")
    save_clip(root / "judge")
    save_identity(root / "identity")


def random_job(models: Path) -> TrainJob:
    """Return a training job on the small models: 8 steps, active steps 6 and 7."""
    return TrainJob(
        run="test",
        identity=IdentityRef(name="ann", noun="woman", folder=str(models / "identity")),
        prompts=("a <V> woman waving", "a <V> woman walking"),
        model=ModelConfig(
            base_model=str(models / "animatediff"),
            width=SIDE,
            height=SIDE,
            num_frames=FRAMES,
            device="cpu",
        ),
        sampler=SamplerConfig(num_inference_steps=8, guidance_scale=3.0),
        adapter=AdapterConfig(rank=2, alpha=2),
        identity_reward=IdentityRewardConfig(
            package=str(models / "faces"),
            recognizer="rec.onnx",
            detector="det.onnx",
            detection_size=DETECTION_SIDE,
        ),
        semantic_reward=SemanticRewardConfig(model=str(models / "clip"), frames=3),
        training=TrainingConfig(
            iterations=4,
            learning_rate=1e-2,
            warmup=0,
            seeds_per_prompt=2,
            checkpoint_every=2,
            sample_every=0,
            sample_prompts=1,
        ),
        evaluation=EvaluationConfig(
            recognizer="other.onnx", text_model=str(models / "judge"), second_text_model=""
        ),
    )


def with_settings(job: TrainJob, section: str, **changes: Any) -> TrainJob:
    """Return the job with some settings of one section changed."""
    return dataclasses.replace(
        job, **{section: dataclasses.replace(getattr(job, section), **changes)}
    )


def shake(adapter: Adapter) -> None:
    """Set random up projections, as after training."""
    generator = torch.Generator().manual_seed(1)
    for weight in adapter.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator)


def save_animatediff(folder: Path) -> None:
    """Write an AnimateDiff pipeline, and its parts `still` and `motion`.

    `still` is the Stable Diffusion model in it, `motion` the motion adapter.
    """
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **UNET_BLOCKS,
    )
    motion = MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_norm_num_groups=8,
        motion_num_attention_heads=2,
        motion_max_seq_length=8,
    )
    for module in motion.modules():  # motion modules are initialised with zeros, without effect
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1)
    levels: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 8, 8),
    }
    vae = AutoencoderKL(norm_num_groups=4, latent_channels=4, **levels)
    parts: dict[str, Any] = {
        "vae": vae,
        "text_encoder": text_encoder(),
        "tokenizer": tokenizer(folder.parent),
    }
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012}
    of_images: Any = PNDMScheduler(
        beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1, **betas
    )
    none: dict[str, Any] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    StableDiffusionPipeline(**parts, **none, unet=unet, scheduler=of_images).save_pretrained(
        folder.parent / "still"
    )
    motion.save_pretrained(folder.parent / "motion")
    scheduler = DDIMScheduler(
        beta_schedule="linear", clip_sample=False, timestep_spacing="trailing", **betas
    )
    both: Any = UNetMotionModel.from_unet2d(unet, motion)
    AnimateDiffPipeline(
        **parts, unet=both, motion_adapter=motion, scheduler=scheduler
    ).save_pretrained(folder)


LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789<>,.-'"
TOKENS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Return CLIP's tokenizer with letters as words.

    The end token has the highest id, since CLIP pools there.
    """
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(TOKENS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=40
    )


def text_encoder(positions: int = 40) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(TOKENS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=positions,
            bos_token_id=len(TOKENS) - 2,
            eos_token_id=len(TOKENS) - 1,
        )
    )


def save_recognizer(path: Path) -> None:
    """Write a small IResNet."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, padding=1),
        nn.BatchNorm2d(8),
        nn.PReLU(8),
        nn.Conv2d(8, 8, 3, stride=4, padding=1),
        nn.PReLU(8),
        nn.Flatten(),
        nn.Linear(8 * 49, 16),
    ).eval()
    names: dict[str, Any] = {
        "input_names": ["input"],
        "output_names": ["embedding"],
        "dynamo": False,
        "opset_version": 17,
    }
    names["dynamic_axes"] = {"input": {0: "batch"}, "embedding": {0: "batch"}}
    torch.onnx.export(model, (torch.zeros(1, 3, 112, 112),), str(path), **names)


def save_detector(path: Path) -> None:
    """Write a detector with SCRFD's nine outputs that finds one face in any picture."""
    face = (
        np.array([(38, 52), (74, 52), (56, 72), (42, 92), (71, 92)], np.float32) / 112 * 40 + 12
    ) / 8
    outputs: list[tuple[str, np.ndarray[Any, Any]]] = []
    for kind, width in (("score", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            cells = DETECTION_SIDE // stride
            values = np.zeros((cells * cells * 2, width), np.float32)
            if stride == 8:
                row = (4 * cells + 4) * 2  # the anchor at (32, 32)
                offsets = {"score": [0.9], "bbox": [2.5] * 4, "kps": (face - 4).ravel()}
                values[row] = offsets[kind]
            outputs.append((f"{kind}_{stride}", values))
    nodes = [helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0)]
    nodes += [helper.make_node("Mul", ["mean", "zero"], ["nothing"])]
    nodes += [helper.make_node("Add", [f"{name}_value", "nothing"], [name]) for name, _ in outputs]
    constants = [numpy_helper.from_array(values, f"{name}_value") for name, values in outputs]
    constants.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape)
            for name, values in outputs
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))


def save_clip(folder: Path) -> None:
    """Write an open_clip folder: a ViT on 16 × 16 pixels and a text tower with CLIP's words."""
    folder.mkdir()
    config: dict[str, Any] = {
        "embed_dim": 8,
        "vision_cfg": {
            "image_size": 16,
            "layers": 1,
            "width": 16,
            "head_width": 8,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 8,
            "heads": 1,
            "layers": 1,
        },
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    model = open_clip.CLIP(**config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def save_identity(folder: Path) -> None:
    (folder / "faces").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (112, 112, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "faces" / "000.png")


UNET_BLOCKS: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
