"""AnimateDiff's prompt, clip and weight names for tests."""

import re
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from pvtool_core.backbones import load_backbone
from pvtool_core.sampling import denoise
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.schema import ModelConfig

PROMPT = "a <V> woman waving"


def clip(model: ModelConfig, job: TrainJob) -> Tensor:
    """Return the final latents of a clip rendered with this model."""
    backbone = load_backbone(model, job.sampler, [PROMPT])
    return denoise(
        backbone,
        backbone.initial_latents(7),
        backbone.prompt_embeds(PROMPT),
        range(backbone.num_steps),
    )


def original_names(folder: Path) -> dict[str, Tensor]:
    """Convert a diffusers folder to a single file with the original names and shapes."""
    tensors = load_file(folder / "text_encoder/model.safetensors")
    found = {
        f"cond_stage_model.transformer.text_model.{name}": tensor
        for name, tensor in tensors.items()
    }
    for name, tensor in load_file(folder / "unet/diffusion_pytorch_model.safetensors").items():
        found[f"model.diffusion_model.{original_unet_name(name)}"] = tensor
    for name, tensor in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        convolved = "attentions" in name and name.endswith("weight") and tensor.ndim == 2
        found[f"first_stage_model.{original_vae_name(name)}"] = (
            tensor[..., None, None] if convolved else tensor
        )
    return {name: tensor.contiguous() for name, tensor in found.items()}


def original_unet_name(name: str) -> str:
    """Return the original name, for one layer per block and the small model's attention blocks.

    The first down block and the last up block have attention.
    """
    for plain, original in (
        ("norm1", "in_layers.0"),
        ("conv1", "in_layers.2"),
        ("time_emb_proj", "emb_layers.1"),
        ("norm2", "out_layers.0"),
        ("conv2", "out_layers.3"),
        ("conv_shortcut", "skip_connection"),
    ):
        name = re.sub(rf"(resnets\.\d+)\.{plain}\.", rf"\1.{original}.", name)
    for plain, original in (
        (r"time_embedding\.linear_1", "time_embed.0"),
        (r"time_embedding\.linear_2", "time_embed.2"),
        (r"conv_in", "input_blocks.0.0"),
        (r"conv_norm_out", "out.0"),
        (r"conv_out", "out.2"),
        (r"mid_block\.resnets\.0", "middle_block.0"),
        (r"mid_block\.attentions\.0", "middle_block.1"),
        (r"mid_block\.resnets\.1", "middle_block.2"),
        (r"down_blocks\.0\.resnets\.0", "input_blocks.1.0"),
        (r"down_blocks\.0\.attentions\.0", "input_blocks.1.1"),
        (r"down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.2.0.op"),
        (r"down_blocks\.1\.resnets\.0", "input_blocks.3.0"),
        (r"up_blocks\.0\.resnets\.(\d)", r"output_blocks.\1.0"),
        (r"up_blocks\.0\.upsamplers\.0\.conv", "output_blocks.1.1.conv"),
        (r"up_blocks\.1\.resnets\.0", "output_blocks.2.0"),
        (r"up_blocks\.1\.resnets\.1", "output_blocks.3.0"),
        (r"up_blocks\.1\.attentions\.0", "output_blocks.2.1"),
        (r"up_blocks\.1\.attentions\.1", "output_blocks.3.1"),
    ):
        name = re.sub(rf"^{plain}\.", f"{original}.", name)
    return name


def original_vae_name(name: str) -> str:
    for plain, original in (
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
        (r"group_norm", "norm"),
        (r"to_([qkv])", r"\1"),
        (r"to_out\.0", "proj_out"),
    ):
        name = re.sub(rf"\.{plain}\.", f".{original}.", name)
    for kind, original in (("resnets", "block"), (r"upsamplers\.0", "upsample")):
        name = re.sub(
            rf"up_blocks\.(\d)\.{kind}",
            lambda found, to=original: f"up.{2 - int(found[1])}.{to}",
            name,
        )
    return name
