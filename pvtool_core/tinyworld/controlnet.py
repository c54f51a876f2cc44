"""Stage "control": train a ControlNet that follows poses, for the generator of the saved preset.

As for Stable Diffusion, it is a copy of the encoder of the UNet for single pictures, trained on
single pictures with half of the prompts left empty (Zhang et al. 2023, section 3.3), and applies to
the UNet with motion modules frame by frame. The UNet is frozen.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from PIL import Image
from torch import Generator

from pvtool_core.tinyworld.autoencoder import encode, face_mask
from pvtool_core.tinyworld.generator import FACE_WEIGHT, FRAMES, new_unet
from pvtool_core.tinyworld.image_text import tokenized
from pvtool_core.tinyworld.training import Losses, fit
from pvtool_core.tinyworld.world import (
    ACTIONS,
    Scenes,
    captions,
    draw_people,
    draw_scenes,
    pose,
    still,
)

BATCH = 16
UNPROMPTED = 0.5
LEVELS = (16, 32, 64)
"""Channels of the layers that reduce a control image to the size of the latents, a quarter."""
FRAMES_SEED = 9_800_000


def train_control(preset: Path, work: Path, steps: int) -> None:
    """Train or resume a ControlNet for the generator in `preset`.

    Writes `work/controlnet`, and control images to try it with in `work/control-frames/ACTION`.
    """
    pipeline: Any = AnimateDiffPipeline.from_pretrained(
        preset / "animatediff", dtype=torch.float32, local_files_only=True
    )
    scheduler, unet = pipeline.scheduler, spatial_unet(pipeline.unet)
    net: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=LEVELS)
    for part in (unet, pipeline.vae, pipeline.text_encoder):
        part.eval().requires_grad_(False)

    def losses(generator: Generator) -> Losses:
        people, scenes = draw_people(BATCH, generator), draw_scenes(BATCH, generator)
        frame = torch.randint(FRAMES, (BATCH,), generator=generator)
        pictures, landmarks = still(people, scenes, frame)
        prompts = captions(people, scenes, generator)
        kept = torch.rand(BATCH, generator=generator) >= UNPROMPTED
        said = [prompt if keep else "" for prompt, keep in zip(prompts, kept, strict=True)]
        words = pipeline.text_encoder(tokenized(pipeline.tokenizer, said)).last_hidden_state
        clean = encode(pipeline.vae, pictures)
        t = torch.randint(1000, (BATCH,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = scheduler.add_noise(clean, noise, t)
        down, middle = net(
            noisy, t, words, controlnet_cond=pose(scenes, frame)[0], return_dict=False
        )
        predicted = unet(
            noisy,
            t,
            words,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        error = predicted - scheduler.get_velocity(clean, noise, t)
        weights = 1 + FACE_WEIGHT * face_mask(landmarks / 4, 16)
        return {"velocity": (weights * error.square()).mean()}

    fit("control", work, net, losses, steps=steps, learning_rate=1e-3, ema=0.998)
    net.half().save_pretrained(work / "controlnet")
    for action in range(len(ACTIONS)):
        scene = draw_scenes(1, Generator().manual_seed(FRAMES_SEED + action))
        scene.action.fill_(action)
        save_control_frames(work / "control-frames" / ACTIONS[action].replace(" ", "-"), scene)


def spatial_unet(motion: UNetMotionModel) -> UNet2DConditionModel:
    """Return the UNet for single pictures, without the motion modules."""
    unet = new_unet()
    weights = {name: motion.get_parameter(name) for name in unet.state_dict()}
    unet.load_state_dict(weights)
    return unet


def save_control_frames(folder: Path, scene: Scenes, frames: int = FRAMES) -> None:
    """Write the poses of one scene as `00.png`, `01.png`, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for frame in range(frames):
        ((picture,), _) = pose(scene, frame, frames)
        pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(folder / f"{frame:02}.png")
