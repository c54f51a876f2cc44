"""Settings with their descriptions and limits, as frozen dataclasses.

They are checked when they are read, and all mistakes are reported together, each with its key and
the nearest known key. The defaults are the paper's for AnimateDiff (PersonalVideo, section 7) or,
if it does not state them, our own.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, cast

from pvtool_core.errors import Mistake
from pvtool_core.settings.families import DEFAULT_FAMILY, FAMILIES, only, supporting
from pvtool_core.settings.methods import METHODS
from pvtool_core.settings.objectives import DEFAULT_OBJECTIVE, OBJECTIVES

LAYERS = ("self", "cross", "self+cross")
"""Attention layers that an adapter can have."""
MAX_RANK = 1024
"""Largest rank of an adapter."""
DEVICES = re.compile(r"auto|cpu|mps|(cuda|xpu)(:(0|[1-9]\d{0,3}))?")


def setting(
    help: str,
    default: Any = MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Collection[str] = (),
    multiple_of: int = 1,
    omit_default: bool = False,
    weights: Callable[[Any], bool] | None = None,
    optional: bool = False,
) -> Any:
    """Define a field with its description, and its range (inclusive) or allowed values.

    With `omit_default`, files omit the field if it has its default. `weights` marks a setting that
    names model weights, and returns for its section whether they are used; `optional` ones can be
    missing, which disables some metrics only.
    """
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "choices": choices,
        "multiple_of": multiple_of,
        "omit_default": omit_default,
        "weights": weights,
        "optional": optional,
    }
    return dataclasses.field(default=default, metadata=metadata)


def always(_: Any) -> bool:
    """Return True, for weights that are used wherever they are named."""
    return True


def is_path(name: str) -> bool:
    """Return whether a model is named by a path or by `models:…`, not by its open_clip name."""
    return ":" in name or "/" in name


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """A style LoRA: part of the model in all steps, with and without the adapter."""

    file: str = setting("safetensors file in kohya, Civitai or diffusers format", weights=always)
    weight: float = setting("strength", 1.0, low=-10.0, high=10.0)
    fingerprint: str = setting("hash of the file; set when a job is created", "")


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """A ControlNet and its control images; none if `model` is empty."""

    model: str = setting(
        "diffusers folder of a ControlNet for the same Stable Diffusion", "", weights=always
    )
    frames: str = setting("control images: a folder or a video, one image per frame", "")
    weight: float = setting("strength", 1.0, low=0.0, high=10.0)
    fingerprint: str = setting("hash of model and frames; set when a job is created", "")


_NO_CONTROL = ControlConfig()


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    family: str = setting("model family", DEFAULT_FAMILY, choices=FAMILIES)
    base_model: str = setting(
        "diffusers folder or .safetensors file; preset:… (shipped), models:… or ORG/NAME (fetched)",
        weights=always,
    )
    motion_adapter: str = setting(
        "AnimateDiff motion modules, for a base model without them", "", weights=always
    )
    config: str = setting(
        "diffusers folder with configurations and tokenizer, for a single-file base model",
        "",
        weights=lambda model: model.base_model.endswith(".safetensors"),
    )
    fingerprint: str = setting("hash of the base model's files; set when a job is created", "")
    loras: tuple[LoraConfig, ...] = setting("style LoRAs, each {file = …, weight = …}", ())
    control: ControlConfig = setting(f"ControlNet; {only('model.control')}", _NO_CONTROL)  # noqa: RUF009 - frozen
    width: int = setting("pixels", 512, low=16, high=8192, multiple_of=8)
    height: int = setting("pixels", 512, low=16, high=8192, multiple_of=8)
    num_frames: int = setting("number of frames of a clip", 16, low=1, high=1024)
    fps: int = setting("frames per second of clips", 8, low=1, high=120)
    dtype: str = setting(
        "number format of the model", "float32", choices=("float32", "bfloat16", "float16")
    )
    device: str = setting(
        "auto (accelerator if available, otherwise CPU), cpu, cuda, cuda:1 or mps",
        "auto",
    )
    threads: int = setting("CPU threads; 0 uses torch's default", 0, low=0, high=1024)
    storage: str = setting(
        "storage of the frozen denoiser: float8 halves bfloat16, int8 and nf4 use bitsandbytes",
        "dtype",
        choices=("dtype", "float8", "int8", "nf4"),
    )
    offload: bool = setting(
        "keep the denoiser's blocks in CPU memory and load each when it runs", False
    )
    vae_tiling: bool = setting("decode in overlapping tiles: less memory, seams blended", False)
    trim_prompt: bool = setting(
        "omit the prompt's padding to enable flash attention: equal up to rounding; "
        + only("model.trim_prompt"),
        False,
    )


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """An encoder method that renders identities from their photos; none if `name` is empty."""

    name: str = setting(
        "encoder method, which renders without training", "", choices=("", *METHODS)
    )
    weights: str = setting(
        "id-animator: its checkpoint; consisid: folder of its face detector and parser",
        "",
        weights=always,
    )
    image_encoder: str = setting(
        "id-animator: folder of CLIP's image encoder; consisid: weights of EVA-CLIP",
        "",
        weights=always,
    )
    detector: str = setting("consisid: ONNX file of antelopev2's detector", "", weights=always)
    recognizer: str = setting("consisid: ONNX file of antelopev2's recogniser", "", weights=always)
    scale: float = setting("id-animator: weight of the photos", 1.0, low=0.0, high=2.0)
    fingerprint: str = setting("hash of the method's files; set when a job is created", "")


NO_METHOD = MethodConfig()


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    num_inference_steps: int = setting("denoising steps", 50, low=1, high=1000)
    guidance_scale: float = setting("classifier-free guidance", 7.5, low=1.0, high=100.0)
    negative_prompt: str = setting("negative prompt", "")
    shift: float = setting(
        "shift of the flow-matching schedule towards noise; 0 uses the base model's",
        0.0,
        low=0.0,
        high=100.0,
    )


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    rank: int = setting("rank of the adapter's matrices", 32, low=1, high=MAX_RANK)
    alpha: int = setting(
        "must equal rank: other ratios reload at the wrong scale in several tools",
        32,
        low=1,
        high=1024,
    )
    start: float = setting(
        "fraction of the denoising steps after which the adapter is active",
        0.75,
        low=0.0,
        high=0.999,
    )
    layers: str = setting(
        "attention layers of the adapter: spatial self-attention, cross-attention, or both",
        "self",
        choices=LAYERS,
        omit_default=True,
    )


@dataclass(frozen=True, kw_only=True)
class IdentityRewardConfig:
    package: str = setting("folder of an insightface model package, or preset:…", weights=always)
    recognizer: str = setting(
        "ONNX file of the recogniser for the reward, in this folder", "glintr100.onnx"
    )
    detector: str = setting(
        "ONNX file of the detector with five landmarks, in this folder", "scrfd_10g_bnkps.onnx"
    )
    detection_size: int = setting(
        "side of the detector's square input in pixels", 640, low=32, high=4096, multiple_of=32
    )
    detection_threshold: float = setting(
        "smallest detection score of a face", 0.5, low=0.0, high=1.0
    )
    frames: int = setting(
        "frames whose faces are compared in an iteration; one in the paper", 1, low=1, high=1024
    )
    views: int = setting(
        "crops of each face that are compared; several are moved randomly",
        1,
        low=1,
        high=64,
    )
    augment: bool = setting(
        "random colours of crops and references, and random positions of several crops; without "
        "it, one crop is compared",
        True,
        omit_default=True,
    )
    weight: float = setting("weight of this reward in the loss", 1.0, low=0.0, high=1000.0)
    held_out_photos: int = setting(
        "number of the newest photos that training does not use, to evaluate copying",
        0,
        low=0,
        high=1000,
        omit_default=True,
    )


@dataclass(frozen=True, kw_only=True)
class SemanticRewardConfig:
    model: str = setting(
        "name of an open_clip model, folder, or preset:…",
        "ViT-H-14",
        weights=lambda reward: is_path(reward.model),
    )
    checkpoint: str = setting(
        "weights of a model given by name",
        "",
        weights=lambda reward: is_path(reward.checkpoint) and not is_path(reward.model),
    )
    frames: int = setting("frames compared in an iteration (M of eq. 3)", 4, low=1, high=1024)
    temperature: float = setting(
        "factor of the scores before the softmax over frames", 100.0, low=0.0, high=10000.0
    )
    weight: float = setting("weight of this reward in the loss", 1.0, low=0.0, high=1000.0)
    level_weight: float = setting(
        "weight of the penalty on a drop of the mean score, which eq. 4 does not depend on",
        0.0,
        low=0.0,
        high=1000.0,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    iterations: int = setting("optimiser steps", 800, low=1, high=10_000_000)
    learning_rate: float = setting("of AdamW", 1e-4, low=0.0, high=10.0)
    beta1: float = setting("of AdamW", 0.9, low=0.0, high=0.999999)
    beta2: float = setting("of AdamW", 0.999, low=0.0, high=0.999999)
    epsilon: float = setting("of AdamW", 1e-8, low=0.0, high=1.0)
    weight_decay: float = setting("of AdamW", 1e-2, low=0.0, high=10.0)
    warmup: int = setting(
        "iterations over which the learning rate rises from zero", 10, low=0, high=1_000_000
    )
    decay_from: float = setting(
        "fraction of the iterations after which it falls linearly to zero", 1.0, low=0.0, high=1.0
    )
    max_grad_norm: float = setting(
        "maximum gradient norm; larger gradients are scaled down", 1.0, low=0.0, high=1_000_000.0
    )
    gradient: str = setting(
        "full keeps the graph of all steps in memory, replay needs the memory of one step, "
        "drtune is cheaper and biased",
        "full",
        choices=("full", "replay", "drtune"),
    )
    gradient_steps: int = setting(
        "number of random steps of drtune; 0 uses all", 0, low=0, high=1000
    )
    recompute: bool = setting(
        "recompute activations in the backward pass: slower, with a tenth of the memory", False
    )
    seeds_per_prompt: int = setting(
        "number of seeds for each prompt of the bank", 4, low=1, high=10_000
    )
    cached_pairs: int = setting(
        "number of prompt and seed pairs; 0 uses all", 0, low=0, high=1_000_000
    )
    base_kl_weight: float = setting(
        "weight of the penalty on the distance to the base model's prediction",
        0.0,
        low=0.0,
        high=1000.0,
    )
    base_kl_face: float = setting(
        "fraction of this weight within the base model's face", 1.0, low=0.0, high=1.0
    )
    checkpoint_every: int = setting("iterations", 50, low=1, high=1_000_000)
    keep_checkpoints: int = setting(
        "number of newest checkpoints to keep, besides the best", 3, low=1, high=1_000_000
    )
    sample_every: int = setting(
        "iterations between samples; 0 renders none", 50, low=0, high=1_000_000
    )
    sample_prompts: int = setting("number of prompts of each sample", 2, low=1, high=1000)
    score_samples: bool = setting(
        "score samples by the held-out models of evaluation, and keep the best checkpoint",
        True,
        omit_default=True,
    )
    patience: int = setting(
        "regular samples without a higher held-out likeness after which training ends; 0: never",
        0,
        low=0,
        high=1_000_000,
        omit_default=True,
    )
    seed: int = setting("random seed", 0, low=0, high=2**63 - 1)
    objective: str = setting(
        "training objective", DEFAULT_OBJECTIVE, choices=OBJECTIVES, omit_default=True
    )
    image_model: bool = setting(
        "apply the rewards to single frames of the image model: without motion modules, or clips "
        "of one frame",
        False,
        omit_default=True,
    )


@dataclass(frozen=True, kw_only=True)
class DreamBoothConfig:
    prior_weight: float = setting(
        "weight of prior preservation: the reconstruction of images of the class; 0 uses none",
        0.0,
        low=0.0,
        high=1000.0,
    )
    prior_images: int = setting(
        "number of these images, which the model generates once", 100, low=1, high=100_000
    )


_DREAMBOOTH = DreamBoothConfig()


@dataclass(frozen=True, kw_only=True)
class TextualInversionConfig:
    vectors: int = setting("number of vectors that stand for the keyword", 4, low=1, high=64)
    batch_size: int = setting("photos of an iteration, drawn with replacement", 4, low=1, high=1024)
    unmasked: float = setting(
        "fraction of the draws whose loss covers the whole photo, not only the head",
        0.05,
        low=0.0,
        high=1.0,
    )
    noise_offset: float = setting(
        "standard deviation of a noise that all positions of a channel share",
        0.1,
        low=0.0,
        high=10.0,
    )
    augment: bool = setting("flip half of the photos, and rotate 30 % of them by up to 10°", True)


_TEXTUAL_INVERSION = TextualInversionConfig()


def _judge(help: str, default: str) -> Any:
    return setting(help, default, weights=always, optional=True, omit_default=True)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    recognizer: str = setting("ONNX file of the held-out recogniser, in the identity package")
    second_recognizer: str = _judge(
        "ONNX file of another held-out recogniser; none if empty",
        "models:adaface-ir101/adaface_ir_101.onnx",
    )
    text_model: str = _judge(
        "open_clip folder of the image-text model that scores prompts; none if empty",
        "models:clip-vit-l-14",
    )
    second_text_model: str = _judge(
        "open_clip folder of another image-text model; none if empty", "models:clip-vit-b-32"
    )
    optical_flow: str = _judge(
        "weights of torchvision's raft_large; none if empty",
        "models:raft-large/raft_large_C_T_V1-22a6c225.pth",
    )
    video_model: str = _judge(
        "weights of I3D on Kinetics-400, for FVD; none if empty",
        "models:i3d-kinetics-400/i3d_pretrained_400.pt",
    )
    seeds: tuple[int, ...] = setting("seeds of the evaluated clips", (1000, 1001))
    prompts: str = setting("bank of the evaluation prompts", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings; the content of a preset, and part of every job."""

    model: ModelConfig
    method: MethodConfig = setting("encoder method", NO_METHOD, omit_default=True)  # noqa: RUF009 - frozen
    sampler: SamplerConfig = SamplerConfig()
    adapter: AdapterConfig = AdapterConfig()
    identity_reward: IdentityRewardConfig
    semantic_reward: SemanticRewardConfig = SemanticRewardConfig()
    training: TrainingConfig = TrainingConfig()
    dreambooth: DreamBoothConfig = setting("of the objective", _DREAMBOOTH, omit_default=True)  # noqa: RUF009 - frozen
    textual_inversion: TextualInversionConfig = setting(  # noqa: RUF009 - frozen
        "of the objective", _TEXTUAL_INVERSION, omit_default=True
    )
    evaluation: EvaluationConfig

    @property
    def keyword_vectors(self) -> int:
        """The number of vectors that stand for the keyword in prompts; 0 for a LoRA."""
        learned = OBJECTIVES[self.training.objective].learns_vectors
        return self.textual_inversion.vectors if learned else 0

    def check(self) -> Iterable[Mistake]:
        """Yield settings that are valid separately, but not together."""
        yield from check_model(self.model, self.sampler)
        yield from check_method(self.model, self.method)
        yield from _contradictions(self)

    def unused_rewards(self) -> frozenset[str]:
        """Return the sections of rewards whose models training does not load."""
        semantic = self.semantic_reward
        if OBJECTIVES[self.training.objective].reconstructs:
            return frozenset({"identity_reward", "semantic_reward"})
        if semantic.weight or semantic.level_weight:
            return frozenset()
        return frozenset({"semantic_reward"})

    def trains_images(self) -> bool:
        """Return whether the image model is trained: single frames, without motion modules."""
        return self.training.image_model or OBJECTIVES[self.training.objective].reconstructs

    def sections(self) -> dict[str, Any]:
        """Return the sections of settings only, to create another job with them."""
        return {field.name: getattr(self, field.name) for field in fields(Settings)}


def named_weights(value: Any, optional: bool = False) -> Iterator[str]:
    """Yield the names of all weights that settings, or a part of them, use.

    They are those of the settings marked with `weights`, in the order of the settings, without
    those of unused rewards; `optional` selects those that can be missing instead of those that are
    required.
    """
    if is_dataclass(value) and not isinstance(value, type):
        unused = value.unused_rewards() if isinstance(value, Settings) else ()
        for field in fields(value):
            used, inner = field.metadata.get("weights"), getattr(value, field.name)
            if field.name in unused:
                continue
            if used is None:
                yield from named_weights(inner, optional)
            elif inner and used(value) and field.metadata["optional"] == optional:
                yield inner
    elif isinstance(value, tuple):
        for item in cast("tuple[Any, ...]", value):
            yield from named_weights(item, optional)


def _contradictions(settings: Settings) -> Iterable[Mistake]:
    """Yield settings that are valid separately, but not together."""
    if settings.adapter.alpha != settings.adapter.rank:
        yield Mistake(
            "adapter.alpha",
            f"is {settings.adapter.alpha}, but must equal adapter.rank = {settings.adapter.rank}",
        )
    family = FAMILIES[settings.model.family]
    if family.joint_attention and settings.adapter.layers != "self":
        yield Mistake(
            "adapter.layers",
            f"is {settings.adapter.layers!r}, but text and image share one attention in "
            f"{family.name}: use self",
        )
    if settings.model.offload and not settings.training.recompute:
        yield Mistake(
            "training.recompute",
            "must be true with model.offload, or the gradient keeps every block on the device",
        )
    if settings.training.patience:
        if not settings.training.sample_every:
            yield Mistake("training.patience", "needs samples: set training.sample_every above 0")
        if not settings.training.score_samples:
            yield Mistake("training.patience", "needs training.score_samples = true")
    objective, family = settings.training.objective, settings.model.family
    if (families := OBJECTIVES[objective].families) and family not in families:
        yield Mistake(
            "training.objective",
            f"is {objective}, which is not for {family}, only for {', '.join(families)}",
        )
    semantic = "semantic_reward" not in settings.unused_rewards()
    if semantic and settings.semantic_reward.frames > settings.model.num_frames:
        frames = settings.model.num_frames
        yield Mistake(
            "semantic_reward.frames",
            f"is {settings.semantic_reward.frames}, but a clip has {frames} frames",
        )
    if (
        not settings.evaluation.recognizer
        or settings.evaluation.recognizer == settings.identity_reward.recognizer
    ):
        yield Mistake(
            "evaluation.recognizer",
            "must differ from identity_reward.recognizer, which is used in training",
        )


def check_model(model: ModelConfig, sampler: SamplerConfig) -> Iterable[Mistake]:
    """Yield settings with which a model family cannot render."""
    if not DEVICES.fullmatch(model.device):
        yield Mistake(
            "model.device", f"is {model.device!r}; expected auto, cpu, cuda, cuda:1 or mps"
        )
    family = FAMILIES[model.family]
    for key in sorted({key for each in FAMILIES.values() for key in each.options}):
        if key not in family.options and not _is_unused(key, model=model, sampler=sampler):
            names = ", ".join(supporting(key))
            yield Mistake(key, f"is not supported by {family.name}, only by {names}")
    if "model.offload" in family.options and model.offload and model.storage in {"int8", "nf4"}:
        yield Mistake(
            "model.offload", f"is not for {model.storage}, which bitsandbytes keeps on the device"
        )
    for key in ("width", "height"):
        if (size := getattr(model, key)) % family.size_multiple:
            yield Mistake(f"model.{key}", f"is {size}, not a multiple of {family.size_multiple}")
    if (model.num_frames - 1) % family.frames_multiple:
        yield Mistake(
            "model.num_frames",
            f"is {model.num_frames}, not one more than a multiple of {family.frames_multiple}",
        )


def check_method(model: ModelConfig, method: MethodConfig) -> Iterable[Mistake]:
    """Yield why a model family cannot render with an encoder method, or without one."""
    if method.name and (family := METHODS[method.name].family) != model.family:
        yield Mistake("model.family", f"is {model.family!r}; {method.name} renders {family}")
    if not method.name and not FAMILIES[model.family].backbone:
        names = ", ".join(each.name for each in METHODS.values() if each.family == model.family)
        yield Mistake("method.name", f"is missing: {model.family} renders with {names} only")


def check_trained(method: MethodConfig) -> Iterable[Mistake]:
    """Yield why settings are not for training: an encoder method needs none."""
    if method.name:
        yield Mistake(
            "method.name",
            f"is {method.name!r}, which needs no training: use `pv render --method {method.name}`",
        )


def _is_unused(key: str, **sections: ModelConfig | SamplerConfig) -> bool:
    """Return whether the setting `section.name` has no effect.

    A ControlNet without model has none.
    """
    section, _, name = key.partition(".")
    value = getattr(sections[section], name)
    if isinstance(value, ControlConfig):
        return not value.model
    (default,) = (field.default for field in fields(sections[section]) if field.name == name)
    return value == default


def shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
