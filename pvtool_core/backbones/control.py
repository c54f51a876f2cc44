"""ControlNet for AnimateDiff: control images, one per frame, that determine the layout."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor

from pvtool_core.errors import BadPicture, InputRefused
from pvtool_core.media.decode import frames_of_any
from pvtool_core.media.ffmpeg import ClipBroken
from pvtool_core.media.photos import BLACK, pictures_in, read_picture
from pvtool_core.models.base_models import model_variant
from pvtool_core.settings.schema import ControlConfig, ModelConfig

_HINT = "Use a video, an animation, or a folder of pictures."


class ControlNet:
    """A frozen ControlNet with its control images, as in `AnimateDiffControlNetPipeline`.

    Raises InputRefused for too few images, or for a ControlNet of another base model.
    """

    def __init__(
        self, model: ModelConfig, unet: Any, device: torch.device, scale_factor: int
    ) -> None:
        config = model.control
        net: Any = ControlNetModel.from_pretrained(
            config.model,
            dtype=unet.dtype,
            variant=model_variant(Path(config.model)),
            local_files_only=True,
            use_safetensors=True,
        )
        if net.config.global_pool_conditions:
            raise InputRefused(
                f"{config.model} requires guess mode.", "Use a ControlNet that controls the layout."
            )
        if net.config.cross_attention_dim != unet.config.cross_attention_dim:
            raise InputRefused(
                f"{config.model} is a ControlNet for another base model: its text embeddings have "
                f"width {net.config.cross_attention_dim}, not {unet.config.cross_attention_dim}.",
                "Use one for Stable Diffusion 1.5.",
            )
        self.net = net.to(device).eval().requires_grad_(False)
        self._weight = config.weight
        processor = VideoProcessor(
            vae_scale_factor=scale_factor, do_convert_rgb=True, do_normalize=False
        )
        shown = read_frames(config, model.num_frames)
        video = processor.preprocess_video(shown, height=model.height, width=model.width).float()
        self._shown = video.permute(0, 2, 1, 3, 4).flatten(0, 1).to(device, unet.dtype)

    def residuals(self, latents: Tensor, t: Tensor, text: Tensor) -> dict[str, Any]:
        """Return the residuals for the UNet: latents (branches, channels, frames, height, width),
        one row of text for each.
        """
        branches = len(latents)
        pictures = latents.transpose(1, 2).flatten(0, 1)
        shown = torch.cat([self._shown] * branches)
        down, middle = self.net(
            pictures,
            t,
            encoder_hidden_states=text,
            controlnet_cond=shown,
            conditioning_scale=self._weight,
            return_dict=False,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def read_frames(config: ControlConfig, count: int) -> list[Image.Image]:
    """Return the first `count` images of a video, an animation or a folder, on black.

    A folder is read in natural order. Raises InputRefused for fewer images, BadPicture for an
    unreadable file.
    """
    source = Path(config.frames)
    try:
        pictures = _in_folder(source, count) if source.is_dir() else _in_file(source, count)
    except ClipBroken as error:
        raise BadPicture(source, f"cannot be read as a video: {error.problem}", _HINT) from error
    if len(pictures) < count:
        raise InputRefused(
            f"{source} has {len(pictures)} pictures for {count} frames.",
            "Use one for each frame, or set model.num_frames.",
        )
    return pictures


def _in_folder(folder: Path, count: int) -> list[Image.Image]:
    return [read_picture(file, background=BLACK) for file in pictures_in(folder)[:count]]


def _in_file(file: Path, count: int) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in frames_of_any(file, count)]
