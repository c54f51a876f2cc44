"""Stages "latents", "images" and "motion": train an AnimateDiff model as its paper describes.

A UNet2DConditionModel is trained on single pictures, then motion modules on clips with all spatial
layers frozen. Both predict velocity. The schedule ends at zero signal and has about a quarter of
the signal left where the last quarter of the steps begins: at this noise level, large models at
their own size still determine hair and skin colour.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Generator, Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from pvtool_core.tinyworld.autoencoder import encode, face_mask
from pvtool_core.tinyworld.image_text import REWARD, sprinkled, tokenized
from pvtool_core.tinyworld.pictures import draw_stills
from pvtool_core.tinyworld.styles import PLAIN, Style
from pvtool_core.tinyworld.training import Losses, fit
from pvtool_core.tinyworld.world import captions, clip, draw_people, draw_scenes

FRAMES = 8
SHARD = 1024
FRAME_SHARDS = 6
"""Number of clip shards whose frames also serve as single pictures."""
IMAGE_BATCH, CLIP_BATCH = 48, 6
UNPROMPTED = 0.1
"""Fraction of empty training prompts, for classifier-free guidance."""
FACE_WEIGHT = 1.5
SEEDS = {"images": 1, "clips": 2, "poster": 4}
"""Millions of the seeds of each kind of training data."""


@dataclass(frozen=True)
class Latents:
    """Encoded pictures `(n, frames, 8, 16, 16)` in float16, their prompts and loss weights.

    The weights are per latent pixel.
    """

    latents: Tensor
    weights: Tensor
    prompts: list[str]


def encode_shards(
    work: Path, vae: AutoencoderKL, kind: str, shards: Sequence[int], style: Style = PLAIN
) -> None:
    """Draw and encode missing shards of 1024 clips (`clips`) or single pictures (other kinds)."""
    for index in shards:
        path = work / f"{kind}-{index:03}.pt"
        if not path.is_file():
            partial = path.with_suffix(".partial")
            torch.save(_encoded(vae, kind, index, style), partial)
            partial.replace(path)


@torch.no_grad()
def _encoded(vae: AutoencoderKL, kind: str, index: int, style: Style) -> dict[str, Any]:
    generator = Generator().manual_seed(SEEDS[kind] * 1_000_000 + index)
    latents: list[Tensor] = []
    weights: list[Tensor] = []
    prompts: list[str] = []
    frames = FRAMES if kind == "clips" else 1
    for _ in range(frames * SHARD // 128):
        if frames == 1:
            people, scenes, pictures, landmarks = draw_stills(128, generator, style=style)
        else:
            people, scenes = (
                draw_people(128 // frames, generator),
                draw_scenes(128 // frames, generator),
            )
            drawn, points = clip(people, scenes, style=style)
            pictures, landmarks = drawn.flatten(0, 1), points.flatten(0, 1)
        latents.append(encode(vae, pictures).half().unflatten(0, (-1, frames)))
        weights.append(
            (1 + FACE_WEIGHT * face_mask(landmarks / 4, 16)).half().unflatten(0, (-1, frames))
        )
        prompts += sprinkled(captions(people, scenes, generator), generator, share=0.15)
    return {"latents": torch.cat(latents), "weights": torch.cat(weights), "prompts": prompts}


def load_shards(work: Path, kind: str, most: int | None = None) -> Latents:
    """Load and join all shards of a kind, or the first ones."""
    parts = [
        torch.load(path, weights_only=True) for path in sorted(work.glob(f"{kind}-*.pt"))[:most]
    ]
    joined = {key: torch.cat([part[key] for part in parts]) for key in ("latents", "weights")}
    return Latents(**joined, prompts=[prompt for part in parts for prompt in part["prompts"]])


def single_pictures(work: Path) -> Latents:
    """Load the single pictures, and the frames of the first clips as pictures."""
    images, clips = load_shards(work, "images"), load_shards(work, "clips", FRAME_SHARDS)
    latents, weights = (each.flatten(0, 1).unsqueeze(1) for each in (clips.latents, clips.weights))
    prompts = images.prompts + [prompt for prompt in clips.prompts for _ in range(FRAMES)]
    return Latents(
        torch.cat([images.latents, latents]), torch.cat([images.weights, weights]), prompts
    )


def new_scheduler() -> DDIMScheduler:
    """Return a linear schedule shifted towards noise, with 0.27 of the signal left at t = 249.

    The last quarter of the steps begins at t = 249.
    """
    return DDIMScheduler(
        beta_start=0.0045,
        beta_end=0.0085,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 96),
        layers_per_block=1,
        cross_attention_dim=REWARD.text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_motion_adapter() -> MotionAdapter:
    return MotionAdapter(
        block_out_channels=(64, 96),
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_norm_num_groups=16,
        motion_num_attention_heads=4,
        motion_max_seq_length=32,
    )


def train_images(
    work: Path, data: Latents, text: CLIPTextModel, tokenizer: CLIPTokenizer, steps: int
) -> UNet2DConditionModel:
    """Train text to image: the weights to which the adapter is later applied."""
    unet = new_unet()
    losses = image_losses(unet, data, text, tokenizer, IMAGE_BATCH)
    fit("images", work, unet, losses, steps=steps, learning_rate=1e-3, ema=0.999)
    return unet


def image_losses(
    unet: Any, data: Latents, text: CLIPTextModel, tokenizer: CLIPTokenizer, batch: int
) -> Callable[[Generator], Losses]:
    """Return the loss of `batch` single pictures, as a function of the random generator."""
    scheduler, states = new_scheduler(), _TextStates(text, tokenizer, data.prompts)

    def losses(generator: Generator) -> Losses:
        chosen = torch.randint(len(data.latents), (batch,), generator=generator)
        frame = torch.randint(data.latents.shape[1], (batch,), generator=generator)
        clean, weights = data.latents[chosen, frame].float(), data.weights[chosen, frame].float()
        noisy, t, velocity = _noised(scheduler, clean, batch, generator)
        predicted = unet(noisy, t, encoder_hidden_states=states.of(chosen, generator)).sample
        return {"velocity": (weights * (predicted - velocity).square()).mean()}

    return losses


def train_motion(
    work: Path,
    unet: UNet2DConditionModel,
    data: Latents,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    steps: int,
) -> UNetMotionModel:
    """Train text to video: motion modules between the frozen spatial layers."""
    model: Any = UNetMotionModel.from_unet2d(unet, new_motion_adapter())
    model.freeze_unet2d_params()
    scheduler, states = new_scheduler(), _TextStates(text, tokenizer, data.prompts)

    def losses(generator: Generator) -> Losses:
        chosen = torch.randint(len(data.latents), (CLIP_BATCH,), generator=generator)
        clean, weights = (
            each[chosen].float().transpose(1, 2) for each in (data.latents, data.weights)
        )
        noisy, t, velocity = _noised(scheduler, clean, CLIP_BATCH, generator)
        words = states.of(chosen, generator).repeat_interleave(FRAMES, 0)
        predicted = model(noisy, t, encoder_hidden_states=words).sample
        return {"velocity": (weights * (predicted - velocity).square()).mean()}

    fit("motion", work, model, losses, steps=steps, learning_rate=1e-3, ema=0.998)
    return model


def _noised(
    scheduler: DDIMScheduler, clean: Tensor, count: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.randint(1000, (count,), generator=generator)
    noise: Any = torch.randn(clean.shape, generator=generator)
    return scheduler.add_noise(clean, noise, t), t, scheduler.get_velocity(clean, noise, t)  # pyright: ignore[reportArgumentType]


class _TextStates:
    """Hidden states of all prompts, computed once; some are replaced by the empty prompt."""

    @torch.no_grad()
    def __init__(
        self, text: CLIPTextModel, tokenizer: CLIPTokenizer, prompts: Sequence[str]
    ) -> None:
        tokens = tokenized(tokenizer, prompts)
        self.states = torch.cat([text(part).last_hidden_state.half() for part in tokens.split(512)])
        self.empty = text(tokenized(tokenizer, [""])).last_hidden_state

    def of(self, chosen: Tensor, generator: Generator) -> Tensor:
        left_out = torch.rand(len(chosen), 1, 1, generator=generator) < UNPROMPTED
        return torch.where(left_out, self.empty, self.states[chosen].float())


def save_pipeline(
    folder: Path,
    vae: AutoencoderKL,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    model: UNetMotionModel,
) -> None:
    """Write the diffusers folder that `AnimateDiffPipeline.from_pretrained` loads, in float16."""
    parts: list[nn.Module] = [vae, text, model]
    for part in parts:
        part.half()
    pipeline = AnimateDiffPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=model,
        motion_adapter=None,  # pyright: ignore[reportArgumentType]
        scheduler=new_scheduler(),
    )
    pipeline.save_pretrained(folder)
    for part in parts:
        part.float()
