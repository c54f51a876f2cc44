"""The table of model families: one row each, with all that the rest of the program knows of it.

It imports no torch: classes and functions are named as `module:name`, and imported at their use.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of video models.

    Attributes:
        name: Value of `model.family`, name of its default preset, and folder in
            presets/architectures.
        backbone: Class that fulfils the protocol `Backbone`, as `module:name`; empty for models of
            encoder methods, which are not trained.
        pipelines: Pipeline classes in the model_index.json of its diffusers folders.
        image_pipelines: Those of `pipelines` that generate images, and need `model.motion_adapter`.
        parts: Folders that a complete model has.
        prompt_limits: Function from a model folder to the token limits of its text encoders, as
            `module:name`.
        options: Settings that not all families support, and this one does.
        size_multiple: Width and height are multiples of it.
        frames_multiple: The number of frames is one more than a multiple of it.
        input_latents: Number of latents that enter the denoiser together, stacked by channels.
        blocks: Lists of the denoiser's transformer blocks, to which `model.storage` and
            `model.offload` apply.
        joint_attention: Whether text and image share one attention, which has no cross-attention.
        lora_base: Base model that style LoRAs for the family name.
        lora_names: Parts that style LoRAs are merged into, each with the function for its layer
            names in the original code, as `module:name`; empty without any.
    """

    name: str
    backbone: str = ""
    pipelines: tuple[str, ...]
    image_pipelines: tuple[str, ...] = ()
    parts: tuple[str, ...]
    prompt_limits: str
    options: frozenset[str] = field(default_factory=frozenset[str])
    size_multiple: int = 8
    frames_multiple: int = 1
    input_latents: int = 1
    blocks: tuple[str, ...] = ()
    joint_attention: bool = False
    lora_base: str
    lora_names: Mapping[str, str]
    comfyui: str = ""


_LIMITS = "pvtool_core.models.prompt_limits"
_LORA_NAMES = "pvtool_core.backbones.lora_names"
_COMFYUI = "pvtool_core.comfyui.workflow"
_LARGE = frozenset({"model.storage", "model.offload", "sampler.shift"})

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="animatediff",
            backbone="pvtool_core.backbones.animatediff:AnimateDiff",
            pipelines=("AnimateDiffPipeline", "StableDiffusionPipeline"),
            image_pipelines=("StableDiffusionPipeline",),
            parts=("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
            prompt_limits=f"{_LIMITS}:clip_limits",
            options=frozenset({"model.control", "model.motion_adapter", "sampler.negative_prompt"}),
            lora_base="Stable Diffusion 1.x",
            lora_names={
                "unet": f"{_LORA_NAMES}:unet_names",
                "text_encoder": f"{_LORA_NAMES}:clip_names",
            },
            comfyui=f"{_COMFYUI}:animatediff",
        ),
        Family(
            name="hunyuan-video",
            backbone="pvtool_core.backbones.hunyuan_video:HunyuanVideo",
            pipelines=("HunyuanVideoPipeline",),
            parts=(
                *("transformer", "vae", "text_encoder", "tokenizer"),
                *("text_encoder_2", "tokenizer_2", "scheduler"),
            ),
            prompt_limits=f"{_LIMITS}:llama_limits",
            options=_LARGE | {"model.trim_prompt"},
            size_multiple=16,
            frames_multiple=4,
            blocks=("transformer_blocks", "single_transformer_blocks"),
            joint_attention=True,
            lora_base="HunyuanVideo",
            lora_names={"transformer": f"{_LORA_NAMES}:hunyuan_video_names"},
            comfyui=f"{_COMFYUI}:hunyuan_video",
        ),
        Family(
            name="wan",
            backbone="pvtool_core.backbones.wan:Wan",
            pipelines=("WanPipeline",),
            parts=("transformer", "vae", "text_encoder", "tokenizer", "scheduler"),
            prompt_limits=f"{_LIMITS}:umt5_limits",
            options=_LARGE | {"sampler.negative_prompt"},
            size_multiple=16,
            frames_multiple=4,
            blocks=("blocks",),
            lora_base="Wan",
            lora_names={"transformer": f"{_LORA_NAMES}:wan_names"},
            comfyui=f"{_COMFYUI}:wan",
        ),
        Family(
            name="consisid",
            pipelines=("ConsisIDPipeline",),
            parts=("transformer", "vae", "text_encoder", "tokenizer", "scheduler"),
            prompt_limits=f"{_LIMITS}:t5_limits",
            options=frozenset({"model.storage", "model.offload", "sampler.negative_prompt"}),
            size_multiple=16,
            frames_multiple=4,
            input_latents=2,  # the second are those of the photo
            blocks=("transformer_blocks",),
            lora_base="CogVideoX",
            lora_names={},
        ),
    )
}
"""All families, by name."""
DEFAULT_FAMILY = "animatediff"
SINGLE_FILE = FAMILIES["animatediff"]
"""The family of a Stable Diffusion checkpoint in a single file."""


def family_of_pipeline(pipeline: str) -> Family | None:
    """Return the family of a pipeline class; None for an unknown one."""
    return next((each for each in FAMILIES.values() if pipeline in each.pipelines), None)


def known_pipelines() -> list[str]:
    """Return the pipeline classes of all families."""
    return [pipeline for family in FAMILIES.values() for pipeline in family.pipelines]


def supporting(option: str) -> list[str]:
    """Return the names of the families that support an option."""
    return [family.name for family in FAMILIES.values() if option in family.options]


def only(option: str) -> str:
    """Return for help texts which families support an option."""
    return f"{', '.join(supporting(option))} only"
