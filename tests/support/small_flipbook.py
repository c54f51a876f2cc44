"""A small flip book, and a pipeline for it that the backbone is compared with."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from tests.support.families import (
    ANIMATEDIFF,
    IN_TWO_PASSES,
    Family,
    decode_one_by_one,
    encode_one_by_one,
)


class FlipbookPipeline(StableDiffusionPipeline):
    """Stable Diffusion's pipeline with the arguments and the result of a video pipeline."""

    def __call__(  # type: ignore[override]
        self,
        *,
        num_frames: int,
        output_type: str,
        callback_on_step_end: Callable[..., Any] | None = None,
        **given: Any,
    ) -> Any:
        def as_clip(latents: Tensor) -> Tensor:
            return latents.transpose(0, 1)[None]

        def after_step(_: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
            if callback_on_step_end is not None:
                callback_on_step_end(self, step, time, {"latents": as_clip(values["latents"])})
            return values

        draw: Any = super().__call__
        made = draw(
            **given,
            num_images_per_prompt=num_frames,
            output_type="latent",
            callback_on_step_end=after_step,
        )
        if output_type == "latent":
            return SimpleNamespace(frames=as_clip(made.images))
        parts: Any = self
        decoded = parts.vae.decode(made.images / parts.vae.config.scaling_factor).sample.float()
        frames = parts.image_processor.postprocess(decoded.detach(), output_type=output_type)
        return SimpleNamespace(frames=frames[None])


def save_flipbook(folder: Path) -> None:
    """Save the small Stable Diffusion beside it as a flip book."""
    pipeline: Any = FlipbookPipeline.from_pretrained(folder.parent / "still")
    pipeline.save_pretrained(folder)


def one_step_sampler(own: Any) -> Any:
    """Return the sampler that the backbone uses instead of the folder's own."""
    return DDIMScheduler.from_config(own.config, clip_sample=False)


FLIPBOOK = Family(
    name="flipbook",
    save=save_flipbook,
    pipeline=FlipbookPipeline,
    adapted=ANIMATEDIFF.adapted,
    size={"num_frames": 4},
    guidance=IN_TWO_PASSES,
    saving={},
    sampler=one_step_sampler,
    decoder=decode_one_by_one,
    encoder=encode_one_by_one,
    frame_error=1e-6,  # images in a batch are rounded differently than single ones
)
