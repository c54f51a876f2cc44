"""ComfyUI workflows that apply an exported adapter in exactly its active steps.

Values are those of the training run, so that a clip differs from pv's only in the noise of its
seed and in rounding. docs/comfyui.md is the user's guide.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from pvtool_core.adapter_files.vector_files import read_vector_file
from pvtool_core.comfyui.graph import Graph, Output
from pvtool_core.errors import InputRefused, UsageError
from pvtool_core.models.integrity import read_header
from pvtool_core.settings.families import FAMILIES
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.references import load_named
from pvtool_core.untrusted import parse_json

_HUNYUAN = "https://huggingface.co/Comfy-Org/HunyuanVideo_repackaged/resolve/main/split_files"
_WAN = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"


@dataclass(frozen=True, kw_only=True)
class AdapterUse:
    """An exported adapter and the values of its training run, for a workflow.

    Attributes:
        adapter: File name of the adapter in ComfyUI's folder `models/loras`.
        first: First active step; steps count from 0.
        steps: Number of denoising steps.
        start_percent: Start of the keyframe that turns the adapter on; 0 for all steps.
        scheduler: Name of the scheduler in ComfyUI for which `start_percent` is valid.
        shift: Shift of the noise levels; None for Stable Diffusion.
        guidance: Guidance scale.
        prompt: Prompt with the keyword; `negative` is the negative prompt.
        style_loras: File name and weight of each style LoRA of the training run.
        checkpoint: File name of the base model if it is a single file, otherwise empty.
        width: Pixels; so is `height`.
        frames: Number of frames, shown at `fps` per second.
    """

    adapter: str
    first: int
    steps: int
    start_percent: float
    scheduler: str
    shift: float | None
    guidance: float
    prompt: str
    negative: str
    style_loras: tuple[tuple[str, float], ...]
    checkpoint: str
    width: int
    height: int
    frames: int
    fps: int

    @classmethod
    def of(cls, metadata: Mapping[str, str], job: TrainJob, adapter: str) -> "AdapterUse":
        """Return the values of an adapter file's metadata and of its run.

        Raises KeyError, TypeError, ValueError or OverflowError for invalid metadata.
        """
        model, base = job.model, Path(job.model.base_model)
        sampler: Any = parse_json(metadata["sampler"])
        styles: Any = parse_json(metadata["style_loras"])
        return cls(
            adapter=adapter,
            first=int(metadata["first_step"]),
            steps=int(metadata["num_inference_steps"]),
            start_percent=_finite(metadata["comfyui_start_percent"]),
            scheduler=metadata["comfyui_scheduler"],
            shift=_finite(sampler["shift"]) if "shift" in sampler else None,
            guidance=_finite(metadata["guidance_scale"]),
            prompt=job.prompts[0],
            negative=metadata["negative_prompt"],
            style_loras=tuple((str(lora["file"]), _finite(lora["weight"])) for lora in styles),
            checkpoint=base.name if base.suffix == ".safetensors" else "",
            width=model.width,
            height=model.height,
            frames=model.num_frames,
            fps=model.fps,
        )


def _finite(value: Any) -> float:
    """Return a number that JSON can represent."""
    if not isfinite(number := float(value)):
        raise ValueError(f"{number} is not finite")
    return number


def workflow_of(adapter: Path, job: TrainJob, name: str) -> dict[str, Any]:
    """Return the workflow of an adapter file and its run. `name` is the adapter's in ComfyUI.

    Raises UsageError for a family without workflow, InputRefused for invalid metadata or a run
    without prompts.
    """
    family = FAMILIES[job.model.family]
    if read_vector_file(adapter):
        raise UsageError(
            "No ComfyUI workflow for keyword vectors.",
            "Export without --comfyui; `how_to_use` in the file's metadata describes its use.",
        )
    if not family.comfyui:
        raise UsageError(
            f"No ComfyUI workflow for the model family {family.name}.",
            "Export without --comfyui.",
        )
    if not job.prompts:
        raise InputRefused("The run has no prompts.", "Add one to its config.toml.")
    try:
        use = AdapterUse.of(read_header(adapter).metadata, job, name)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputRefused(
            f"The adapter {adapter} has invalid metadata.",
            "Use a checkpoint of this version of pv.",
        ) from error
    return load_named(family.comfyui)(use)


# The graphs


def animatediff(use: AdapterUse) -> dict[str, Any]:
    """Return the workflow for Stable Diffusion 1.5 with ComfyUI-AnimateDiff-Evolved."""
    graph = Graph()
    file = use.checkpoint or "Realistic_Vision_V5.1_fp16-no-ema.safetensors"
    model, clip, vae = graph.add("CheckpointLoaderSimple", ckpt_name=file)
    model, clip = _with_styles(graph, use, model, clip)
    (model,) = graph.add(
        "ADE_AnimateDiffLoaderGen1",
        model=model,
        model_name="v3_sd15_mm.ckpt",
        beta_schedule="sqrt_linear (AnimateDiff)",  # linear betas in diffusers' words
    )
    (latent,) = graph.add(
        "EmptyLatentImage", width=use.width, height=use.height, batch_size=use.frames
    )
    positive, negative = _conditionings(graph, use, clip)
    return _sampled(graph, use, _Inputs(model, vae, latent, positive, negative), use.guidance)


def hunyuan_video(use: AdapterUse) -> dict[str, Any]:
    """Return the workflow for HunyuanVideo; its guidance scale is an input of the model."""
    graph = Graph()
    (model,) = graph.add(
        "UNETLoader",
        _models(f"{_HUNYUAN}/diffusion_models/hunyuan_video_t2v_720p_bf16.safetensors"),
        unet_name="hunyuan_video_t2v_720p_bf16.safetensors",
        weight_dtype="default",
    )
    (clip,) = graph.add(
        "DualCLIPLoader",
        _models(
            f"{_HUNYUAN}/text_encoders/clip_l.safetensors",
            f"{_HUNYUAN}/text_encoders/llava_llama3_fp16.safetensors",
        ),
        clip_name1="clip_l.safetensors",
        clip_name2="llava_llama3_fp16.safetensors",
        type="hunyuan_video",
        device="default",
    )
    (vae,) = graph.add(
        "VAELoader",
        _models(f"{_HUNYUAN}/vae/hunyuan_video_vae_bf16.safetensors"),
        vae_name="hunyuan_video_vae_bf16.safetensors",
    )
    model, latent, clip = _flow(graph, use, model, clip)
    positive, negative = _conditionings(graph, use, clip)
    (positive,) = graph.add("FluxGuidance", conditioning=positive, guidance=use.guidance)
    return _sampled(graph, use, _Inputs(model, vae, latent, positive, negative), cfg=1.0)


def wan(use: AdapterUse) -> dict[str, Any]:
    """Return the workflow for Wan 2.1."""
    graph = Graph()
    (model,) = graph.add(
        "UNETLoader",
        _models(f"{_WAN}/diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors"),
        unet_name="wan2.1_t2v_1.3B_fp16.safetensors",
        weight_dtype="default",
    )
    (clip,) = graph.add(
        "CLIPLoader",
        _models(f"{_WAN}/text_encoders/umt5_xxl_fp16.safetensors"),
        clip_name="umt5_xxl_fp16.safetensors",
        type="wan",
        device="default",
    )
    (vae,) = graph.add(
        "VAELoader",
        _models(f"{_WAN}/vae/wan_2.1_vae.safetensors"),
        vae_name="wan_2.1_vae.safetensors",
    )
    model, latent, clip = _flow(graph, use, model, clip)
    positive, negative = _conditionings(graph, use, clip)
    return _sampled(graph, use, _Inputs(model, vae, latent, positive, negative), use.guidance)


# Parts that the graphs share


class _Inputs(NamedTuple):
    model: Output
    vae: Output
    latent: Output
    positive: Output
    negative: Output


def _with_styles(
    graph: Graph, use: AdapterUse, model: Output, clip: Output
) -> tuple[Output, Output]:
    for file, weight in use.style_loras:
        strengths = {"strength_model": weight, "strength_clip": weight}
        model, clip = graph.add("LoraLoader", model=model, clip=clip, lora_name=file, **strengths)
    return model, clip


def _flow(
    graph: Graph, use: AdapterUse, model: Output, clip: Output
) -> tuple[Output, Output, Output]:
    """Return model and text encoder with style LoRAs and shift, and the empty latent of a video."""
    model, clip = _with_styles(graph, use, model, clip)
    (model,) = graph.add("ModelSamplingSD3", model=model, shift=use.shift)
    size = {"width": use.width, "height": use.height, "length": use.frames}
    (latent,) = graph.add("EmptyHunyuanLatentVideo", **size, batch_size=1)
    return model, latent, clip


def _conditionings(graph: Graph, use: AdapterUse, clip: Output) -> tuple[Output, Output]:
    """Return both conditionings, each with the hook that applies the adapter."""
    (positive,) = graph.add("CLIPTextEncode", clip=clip, text=_escaped(use.prompt))
    (negative,) = graph.add("CLIPTextEncode", clip=clip, text=_escaped(use.negative))
    (hook,) = graph.add("CreateHookLoraModelOnly", lora_name=use.adapter, strength_model=1.0)
    if use.start_percent:
        (off,) = graph.add("CreateHookKeyframe", strength_mult=0.0, start_percent=0.0)
        (on,) = graph.add(
            "CreateHookKeyframe",
            prev_hook_kf=off,
            strength_mult=1.0,
            start_percent=use.start_percent,
        )
        (hook,) = graph.add("SetHookKeyframes", hooks=hook, hook_kf=on)
    positive, negative = graph.add(
        "PairConditioningSetProperties",
        positive_NEW=positive,
        negative_NEW=negative,
        hooks=hook,
        strength=1.0,
        set_cond_area="default",
    )
    return positive, negative


def _escaped(text: str) -> str:
    """Return a prompt in which ComfyUI weights and replaces nothing."""
    return re.sub(r"([(){}])", r"\\\1", text)


def _sampled(graph: Graph, use: AdapterUse, inputs: _Inputs, cfg: float) -> dict[str, Any]:
    """Add sampler, decoder and video to a graph, and return its workflow."""
    (latent,) = graph.add(
        "KSampler",
        model=inputs.model,
        positive=inputs.positive,
        negative=inputs.negative,
        latent_image=inputs.latent,
        seed=0,
        control_after_generate="fixed",
        steps=use.steps,
        cfg=cfg,
        sampler_name="euler",
        scheduler=use.scheduler,
        denoise=1.0,
    )
    (images,) = graph.add("VAEDecode", samples=latent, vae=inputs.vae)
    (video,) = graph.add("CreateVideo", images=images, fps=use.fps)
    prefix = f"video/{Path(use.adapter).stem}"
    graph.add("SaveVideo", video=video, filename_prefix=prefix, format="auto", codec="auto")
    graph.add("Note", text=_note(use))
    return graph.workflow()


def _note(use: AdapterUse) -> str:
    return (
        f"{use.adapter} is active in steps {use.first} to {use.steps - 1} of {use.steps} (steps "
        f"count from 0).\n\nThe start percent {use.start_percent:g} is valid for scheduler "
        f"{use.scheduler} with {use.steps} steps only. Without the first keyframe, the adapter is "
        "active in all steps.\n\nLoad the base model of the training run."
    )


def _models(*urls: str) -> list[dict[str, str]]:
    """Return the files of a loader, which ComfyUI offers to download if they are missing."""
    return [
        {"name": url.rpartition("/")[2], "url": url, "directory": url.split("/")[-2]}
        for url in urls
    ]
