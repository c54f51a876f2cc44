"""Settings: what there is to set, its ranges, and the way between TOML and frozen dataclasses.

Everything is checked at this border, and all mistakes are reported at once, each with its key and the nearest known
key; past it, settings are plain immutable values. A job's `config.toml` is one of the `…Job` classes, complete and
resolved. The defaults are the paper's for AnimateDiff (PersonalVideo, section 7) or, where it is silent, our own.
"""

import dataclasses
import difflib
import re
import reprlib
import tomllib
import types
import typing
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w

from pvtool_core.errors import BrokenRun, Mistake, RunFailed, SettingsError, UnsafeRun, UsageError, printable
from pvtool_core.paths import replace_file
from pvtool_core.untrusted import JOB_BYTES, SETTINGS_BYTES, Irregular, TooLarge, check_keys, read_regular

T = TypeVar("T")
Table = dict[str, Any]
Noun = Literal["man", "woman", "person"]
JobKind = Literal["train", "plan", "render", "evaluate", "identify"]
FAMILIES = ("animatediff", "hunyuan-video", "wan")
DEVICES = re.compile(r"auto|cpu|mps|(cuda|xpu)(:(0|[1-9]\d{0,3}))?")


def setting(
    help: str,
    default: Any = MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    multiple_of: int = 1,
) -> Any:
    """A field with its meaning, and the range (both ends included) or the words that it may hold."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "multiple_of": multiple_of}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """A style LoRA: part of the model in all steps, for the original and for the target alike."""

    file: str = setting("a safetensors file of kohya's, Civitai's or diffusers' kind")
    weight: float = setting("how strongly it acts", 1.0, low=-10.0, high=10.0)
    fingerprint: str = setting("hash of the file; filled in when a job is made", "")


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """A ControlNet and the pictures that lead it; none if `model` is empty."""

    model: str = setting("a ControlNet's diffusers folder, for the same Stable Diffusion", "")
    frames: str = setting("what it is shown: a folder of pictures or a video, one picture a frame", "")
    weight: float = setting("how strongly it leads", 1.0, low=0.0, high=10.0)
    fingerprint: str = setting("hash of model and frames; filled in when a job is made", "")


_NO_CONTROL = ControlConfig()


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    family: str = setting("which backbone drives the model", "animatediff", choices=FAMILIES)
    base_model: str = setting(
        "a diffusers folder or a .safetensors file; preset:… is shipped, models:… and ORG/NAME were fetched"
    )
    motion_adapter: str = setting("AnimateDiff's motion modules, for a base model that has none", "")
    config: str = setting("a diffusers folder with configurations and tokenizer, for a base model in one file", "")
    fingerprint: str = setting("hash of the base model's files; filled in when a job is made", "")
    loras: tuple[LoraConfig, ...] = setting("style LoRAs, each {file = …, weight = …}", ())
    control: ControlConfig = setting("ControlNet, {model, frames, weight}; animatediff only", _NO_CONTROL)  # noqa: RUF009 - frozen
    width: int = setting("pixels", 512, low=16, high=8192, multiple_of=8)
    height: int = setting("pixels", 512, low=16, high=8192, multiple_of=8)
    num_frames: int = setting("frames of a clip", 16, low=1, high=1024)
    fps: int = setting("frames a second in the written file", 8, low=1, high=120)
    dtype: str = setting("number format of the model", "float32", choices=("float32", "bfloat16", "float16"))
    device: str = setting("auto takes the accelerator if there is one, else the CPU; or cpu, cuda, cuda:1, mps", "auto")
    threads: int = setting("CPU threads; 0 leaves it to torch", 0, low=0, high=1024)
    storage: str = setting(
        "how the frozen denoiser is kept: float8 halves bfloat16, int8 and nf4 are quantised by bitsandbytes",
        "dtype",
        choices=("dtype", "float8", "int8", "nf4"),
    )
    offload: bool = setting(
        "keep the denoiser's blocks in the machine's memory, and bring each in as it is used", False
    )
    vae_tiling: bool = setting("decode in overlapping tiles: less memory, seams blended", False)
    trim_prompt: bool = setting(
        "leave out the prompt's padding, so that flash attention can be used: equal up to rounding; hunyuan-video only",
        False,
    )


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    num_inference_steps: int = setting("denoising steps", 50, low=1, high=1000)
    guidance_scale: float = setting("classifier-free guidance", 7.5, low=1.0, high=100.0)
    negative_prompt: str = setting("what guidance moves away from", "")
    shift: float = setting(
        "of a flow-matching schedule towards its noisy end; 0 is the base model's own", 0.0, low=0.0, high=100.0
    )


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    rank: int = setting("rank of the adapter's matrices", 32, low=1, high=1024)
    alpha: int = setting(
        "must equal rank: other ratios reload at the wrong scale in several tools", 32, low=1, high=1024
    )
    start: float = setting("fraction of the denoising steps after which the adapter acts", 0.75, low=0.0, high=0.999)


@dataclass(frozen=True, kw_only=True)
class IdentityRewardConfig:
    package: str = setting("folder of an insightface model package, or preset:…")
    recognizer: str = setting("ONNX file in it whose similarity is the reward", "glintr100.onnx")
    detector: str = setting("ONNX file in it that finds faces and their five landmarks", "scrfd_10g_bnkps.onnx")
    detection_size: int = setting("side of the square that the detector sees", 640, low=32, high=4096, multiple_of=32)
    detection_threshold: float = setting("score from which something is a face", 0.5, low=0.0, high=1.0)
    frames: int = setting("frames whose faces are compared in an iteration; the paper takes one", 1, low=1, high=1024)
    views: int = setting(
        "crops of each face that are compared; several are each a little off in place", 1, low=1, high=64
    )
    weight: float = setting("of this reward in the loss", 1.0, low=0.0, high=1000.0)


@dataclass(frozen=True, kw_only=True)
class SemanticRewardConfig:
    model: str = setting("an open_clip model's name, a folder, or preset:…", "ViT-H-14")
    checkpoint: str = setting("its weights, where the model is given by name", "")
    frames: int = setting("frames compared in an iteration (M of eq. 3)", 4, low=1, high=1024)
    temperature: float = setting("multiplies the scores before the softmax over frames", 100.0, low=0.0, high=10000.0)
    weight: float = setting("of this reward in the loss", 1.0, low=0.0, high=1000.0)
    level_weight: float = setting(
        "of a drop that all frames have in common, which eq. 4 is blind to", 0.0, low=0.0, high=1000.0
    )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    iterations: int = setting("optimiser steps", 800, low=1, high=10_000_000)
    learning_rate: float = setting("of AdamW", 1e-4, low=0.0, high=10.0)
    beta1: float = setting("of AdamW", 0.9, low=0.0, high=0.999999)
    beta2: float = setting("of AdamW", 0.999, low=0.0, high=0.999999)
    epsilon: float = setting("of AdamW", 1e-8, low=0.0, high=1.0)
    weight_decay: float = setting("of AdamW", 1e-2, low=0.0, high=10.0)
    warmup: int = setting("iterations over which the learning rate rises from zero", 10, low=0, high=1_000_000)
    decay_from: float = setting(
        "fraction of the iterations after which it falls linearly to zero", 1.0, low=0.0, high=1.0
    )
    max_grad_norm: float = setting("larger gradients are scaled down to this norm", 1.0, low=0.0, high=1_000_000.0)
    gradient: str = setting(
        "full keeps the chain of steps in memory, replay needs the memory of one step, drtune is cheaper and biased",
        "full",
        choices=("full", "replay", "drtune"),
    )
    gradient_steps: int = setting("steps that drtune draws; 0 takes all", 0, low=0, high=1000)
    recompute: bool = setting("keep few activations and compute them again: slower, in a tenth of the memory", False)
    seeds_per_prompt: int = setting("starting noises for each prompt of the bank", 4, low=1, high=10_000)
    cached_pairs: int = setting("prompt and seed pairs used; 0 is all of them", 0, low=0, high=1_000_000)
    base_kl_weight: float = setting("of staying near the base model's noise prediction", 0.0, low=0.0, high=1000.0)
    base_kl_face: float = setting("share of that weight within the crop of the original's face", 1.0, low=0.0, high=1.0)
    checkpoint_every: int = setting("iterations", 50, low=1, high=1_000_000)
    keep_checkpoints: int = setting("how many of the newest are kept", 3, low=1, high=1_000_000)
    sample_every: int = setting("iterations; 0 draws none", 50, low=0, high=1_000_000)
    sample_prompts: int = setting("prompts drawn each time", 2, low=1, high=1000)
    seed: int = setting("of everything drawn at random", 0, low=0, high=2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    recognizer: str = setting("ONNX file in the identity package that training never sees")
    seeds: tuple[int, ...] = setting("starting noises of the clips that are scored", (1000, 1001))
    prompts: str = setting("bank of the prompts that are scored", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set; what a preset holds, and a part of every job."""

    model: ModelConfig
    sampler: SamplerConfig = SamplerConfig()
    adapter: AdapterConfig = AdapterConfig()
    identity_reward: IdentityRewardConfig
    semantic_reward: SemanticRewardConfig = SemanticRewardConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig

    def sections(self) -> dict[str, Any]:
        """The settings alone, to make another job with the same ones."""
        return {field.name: getattr(self, field.name) for field in fields(Settings)}


@dataclass(frozen=True, kw_only=True)
class IdentityRef:
    """Who a job is about; `folder` is absolute. `fingerprint` tells people of one name apart."""

    name: str
    noun: str = setting("what prompts call them", "person", choices=typing.get_args(Noun))
    folder: str
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainJob(Settings):
    """`prompts` are resolved: `{noun}` is replaced, the keyword `<V>` is still in them.

    `licences` has a line for each model that pv knows the licence of: its name, the licence, who may use it.
    `created` is when the run was made, in ISO 8601 with a time zone; empty in runs of older versions.
    """

    kind: str = setting("of job", "train", choices=("train",))
    run: str
    preset: str = ""
    created: str = ""
    identity: IdentityRef
    prompts: tuple[str, ...]
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    licences: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlanJob(Settings):
    """Count what training with these settings takes, on shapes alone.

    `architecture` is a diffusers folder whose config files are read, `motion` that of AnimateDiff's motion modules
    where the folder has none.
    """

    kind: str = setting("of job", "plan", choices=("plan",))
    architecture: str
    motion: str = ""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One base model with its sampler, as clips are made by it; of the adapter only `start` matters."""

    model: ModelConfig
    sampler: SamplerConfig = SamplerConfig()
    adapter: AdapterConfig = AdapterConfig()


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """How frames become files. `formats` are file suffixes without the dot; png is a folder of frames."""

    formats: tuple[str, ...] = setting("kinds of files", ("mp4",), choices=("mp4", "gif", "webp", "png"))
    codec: str = setting("of mp4", "h264", choices=("h264", "h265", "av1"))
    loop: int = setting("how many times a gif or webp plays; 0 is for ever", 0, low=0, high=65535)
    upscale: int = setting("whole times that each pixel is repeated", 1, low=1, high=16)
    certificate: str = setting("PEM file with the chain that signs content credentials (C2PA); none if empty", "")
    key: str = setting("PEM file with the private key of that certificate", "")


@dataclass(frozen=True, kw_only=True)
class RenderItem:
    """One clip to make.

    `adapter` is a safetensors file, or empty for the base model; `clip` is the path of the clip without its suffix
    (see clips.py), so that the face can tell what exists without starting an engine. `setup` counts the job's setups.
    The widths are how many clips must go through the model together, before and after the switch, for the last bits to
    be those of an earlier clip; 0 is any number.
    """

    identity: str
    prompt: str
    seed: int
    adapter: str = ""
    adapter_sha256: str = ""
    run: str = ""
    step: int = 0
    setup: int = 0
    switch_width: int = 0
    tail_width: int = 0
    clip: str


@dataclass(frozen=True, kw_only=True)
class RenderJob:
    """Clips to make. Several engines, here and on other machines, may work at the same ones: see claims.py.

    `items` is a file with a RenderItem a line (see batches.py), `out` the folder that all clips lie in. `width` is how
    many clips go through the model at once: a number, or auto for as many as the memory holds.
    """

    kind: str = setting("of job", "render", choices=("render",))
    items: str
    setups: tuple[Setup, ...]
    out: str
    encoding: EncodingConfig = EncodingConfig()
    overwrite: bool = False
    sheet: str = setting("what contact sheets of all clips are called in `out`; none are written if empty", "")
    retries: int = setting("how often a clip that failed is tried again", 0, low=0, high=100)
    width: str = "auto"
    on: str = setting("where groups of clips are made: here, or by ray", "", choices=("", "ray"))
    address: str = setting("of the Ray cluster; empty starts one here", "")
    cache_gigabytes: float = setting("of trajectories kept; the least recently used go first", 20.0, low=0.0, high=1e6)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(Settings):
    """Score clips against the identities that they show.

    `sidecars` are the JSON files beside the clips; those without an adapter are the 'before' of those with one.
    `report` (JSON) and `sheet` (PNG) are the files to write; an empty path writes none.
    """

    kind: str = setting("of job", "evaluate", choices=("evaluate",))
    identities: tuple[IdentityRef, ...]
    sidecars: tuple[str, ...]
    report: str
    sheet: str = ""


@dataclass(frozen=True, kw_only=True)
class IdentifyJob(Settings):
    """Find and check the face of each picture; write faces, embeddings and identity.toml into `staging`.

    `face` counts faces from the left from 1; 0 expects exactly one face.
    """

    kind: str = setting("of job", "identify", choices=("identify",))
    identity: IdentityRef
    pictures: tuple[str, ...]
    face: int = setting("which face of each picture", 0, low=0, high=1000)
    consent: str = ""


Job = TrainJob | PlanJob | RenderJob | EvaluateJob | IdentifyJob
_JOBS: dict[str, type[Job]] = {
    "train": TrainJob,
    "plan": PlanJob,
    "render": RenderJob,
    "evaluate": EvaluateJob,
    "identify": IdentifyJob,
}


def read_job(path: Path, most: int = SETTINGS_BYTES) -> Job:
    """Read a job's config.toml, of at most that many bytes.

    Raises RunFailed without one, SettingsError if it is wrong, BrokenRun if it is too large or no regular file.
    """
    table = _parse_toml(path, most, follow=False)
    kind = table.get("kind")
    cls = _JOBS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise SettingsError([Mistake("kind", f"is {_told(kind)}, not one of {', '.join(_JOBS)}")], str(path))
    return from_table(cls, table, str(path))


def write_job(path: Path, job: Job) -> None:
    """Write `job` as TOML, whole or not at all.

    Raises UsageError for a text in it that is not valid UTF-8, or if it is larger than such a job may be.
    """
    most = SETTINGS_BYTES if isinstance(job, TrainJob) else JOB_BYTES
    try:
        content = tomli_w.dumps(to_table(job)).encode()
    except UnicodeEncodeError as error:
        text: str = error.object
        line = text[text.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
        hint = "Rename the file or folder, or give another text."
        raise UsageError(f"Cannot record {printable(line, whole=True)}: it is not valid UTF-8.", hint) from error
    if len(content) > most:
        raise UsageError(
            f"The settings of this job take {len(content) >> 10} KiB, and may take {most >> 10} KiB.",
            "Give fewer prompts, or fewer files at once.",
        )
    replace_file(path, content)


def read_toml(path: Path) -> Table:
    """Parse a TOML file. Raises RunFailed if it cannot be read, SettingsError if it is no TOML."""
    try:
        return _parse_toml(path, SETTINGS_BYTES, follow=True)
    except BrokenRun as error:
        raise RunFailed(error.message, error.hint) from error


def _parse_toml(path: Path, most: int, follow: bool) -> Table:
    try:
        text = read_regular(path, most, follow=follow).decode().replace("\r\n", "\n").replace("\r", "\n")
        check_keys(text)
        return tomllib.loads(text)
    except RecursionError as error:
        raise SettingsError([Mistake("syntax", "it is nested too deeply")], str(path)) from error
    except ValueError as error:
        raise SettingsError([Mistake("syntax", str(error))], str(path)) from error
    except Irregular as error:
        raise UnsafeRun(path, error.problem) from error
    except TooLarge as error:
        raise BrokenRun(path, f"it {error.problem}") from error
    except OSError as error:
        raise RunFailed(f"Cannot read {path}: {error.strerror}.", "See that it exists and is yours to read.") from error


def to_table(value: Any) -> Table:
    """A dataclass as nested TOML tables, fields in their order."""
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_table(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in typing.cast("tuple[Any, ...]", value)]
    if isinstance(value, Mapping):
        return dict(typing.cast("Mapping[str, Any]", value))
    return value


def from_table(cls: type[T], table: Table, source: str = "the settings") -> T:
    """Build the dataclass `cls` from TOML tables. Raises SettingsError with every mistake in them."""
    mistakes: list[Mistake] = []
    value = _read_dataclass(cls, table, "", mistakes)
    if not mistakes and isinstance(value, Settings | Setup | RenderJob):
        mistakes += _with_control_characters(value)
    if not mistakes and isinstance(value, Settings | Setup):
        mistakes += _unfit(value.model, value.sampler)
        mistakes += _contradictions(value) if isinstance(value, Settings) else []
    if mistakes:
        raise SettingsError(mistakes, source)
    return value


_WORDS_FOR_A_MODEL = {"prompts", "negative_prompt", "consent"}
_FILES_OF_A_JOB = {"folder", "pictures", "sidecars", "report", "sheet", "out"}  # pv itself fills these in
_FREE_TEXT = _WORDS_FOR_A_MODEL | _FILES_OF_A_JOB
"""What may hold any character, for people do give such names to their folders and photos."""


def _with_control_characters(value: Any, prefix: str = "") -> Iterable[Mistake]:
    """Names and paths with line ends or escapes in them, which would write lines of their own into logs."""
    if isinstance(value, str):
        if any(unicodedata.category(letter) in {"Cc", "Zl", "Zp"} for letter in value):
            yield Mistake(prefix, f"is {_told(value)}, which holds control characters")
    elif dataclasses.is_dataclass(value):
        for field in fields(value):
            if field.name not in _FREE_TEXT:
                yield from _with_control_characters(getattr(value, field.name), f"{prefix}.{field.name}".lstrip("."))
    elif isinstance(value, tuple):
        for number, item in enumerate(typing.cast("tuple[Any, ...]", value)):
            yield from _with_control_characters(item, f"{prefix}[{number}]")
    elif isinstance(value, Mapping):
        for key, item in typing.cast("Mapping[str, Any]", value).items():
            yield from _with_control_characters(f"{key}{item}", f"{prefix}.{key}")


def _contradictions(settings: Settings) -> Iterable[Mistake]:
    """Settings that are fine one by one, but not together."""
    if settings.adapter.alpha != settings.adapter.rank:
        yield Mistake(
            "adapter.alpha", f"is {settings.adapter.alpha}, but must equal adapter.rank = {settings.adapter.rank}"
        )
    if settings.model.offload and not settings.training.recompute:
        yield Mistake(
            "training.recompute", "must be true with model.offload, or the gradient keeps every block on the device"
        )
    if settings.semantic_reward.frames > settings.model.num_frames:
        frames = settings.model.num_frames
        yield Mistake("semantic_reward.frames", f"is {settings.semantic_reward.frames}, but a clip has {frames} frames")
    if not settings.evaluation.recognizer or settings.evaluation.recognizer == settings.identity_reward.recognizer:
        yield Mistake(
            "evaluation.recognizer", "must be another one than identity_reward.recognizer, which training sees"
        )
    if isinstance(settings, TrainJob) and settings.created and not _is_time(settings.created):
        yield Mistake("created", f"is {settings.created!r}, not a time such as 2026-11-27T12:00:00+00:00")


def _is_time(text: str) -> bool:
    try:
        time = datetime.fromisoformat(text)
        return time.tzinfo is not None and time.timestamp() >= 0
    except (ValueError, OverflowError):
        return False


def _unfit(model: ModelConfig, sampler: SamplerConfig) -> Iterable[Mistake]:
    """What a family of models cannot make clips with."""
    if not DEVICES.fullmatch(model.device):
        yield Mistake("model.device", f"is {model.device!r}; expected auto, cpu, cuda, cuda:1 or mps")
    yield from _misfits(model)
    if model.family == "animatediff" and sampler.shift:
        yield Mistake("sampler.shift", "is for flow matching, which animatediff does not do")
    if model.family == "hunyuan-video" and sampler.negative_prompt:
        yield Mistake("sampler.negative_prompt", "must be empty: the guidance of hunyuan-video is part of the model")


def _misfits(model: ModelConfig) -> Iterable[Mistake]:
    """Sizes and parts that a family of models does not have."""
    if model.trim_prompt and model.family != "hunyuan-video":
        yield Mistake("model.trim_prompt", "is for hunyuan-video only")
    if model.family == "animatediff":
        if model.storage != "dtype" or model.offload:
            yield Mistake("model.storage", "and model.offload are for the large transformers; this model is small")
        return
    if model.offload and model.storage in {"int8", "nf4"}:
        yield Mistake("model.offload", f"is not for {model.storage}, which bitsandbytes keeps on the device")
    for key in ("width", "height"):
        if getattr(model, key) % 16:
            yield Mistake(f"model.{key}", f"is {getattr(model, key)}, not a multiple of 16")
    if model.num_frames % 4 != 1:
        yield Mistake("model.num_frames", f"is {model.num_frames}, not one more than a multiple of 4")
    if model.control.model:
        yield Mistake("model.control", "is for animatediff only")
    if model.motion_adapter:
        yield Mistake("model.motion_adapter", "is for animatediff only")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _read_dataclass(cls: type[T], table: Table, prefix: str, mistakes: list[Mistake]) -> T:
    known = {field.name: field for field in fields(typing.cast(Any, cls))}
    strange = [key for key in table if key not in known]
    mistakes += [Mistake(prefix + key, _unknown(key, known)) for key in strange[:_SUGGESTED]]
    mistakes += [Mistake(prefix + key, "is no setting") for key in strange[_SUGGESTED:]]
    values: Table = {}
    for name, field in known.items():
        if name in table:
            values[name] = _read_value(_hints(cls)[name], table[name], prefix + name, field.metadata, mistakes)
        elif dataclasses.is_dataclass(_hints(cls)[name]) and field.default is MISSING:
            values[name] = _read_value(_hints(cls)[name], {}, prefix + name, field.metadata, mistakes)
        elif field.default is MISSING and field.default_factory is MISSING:
            mistakes.append(Mistake(prefix + name, "is missing"))
    return cls(**values) if not mistakes else typing.cast(T, None)


_SUGGESTED = 20  # looking for a near key takes a while


def _unknown(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"is no setting; did you mean {near[0]!r}?" if near else "is no setting"


_SHOWN = reprlib.Repr()
_SHOWN.maxlevel = 2
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 300


def _told(value: Any) -> str:
    """A wrong value as messages show it; the middle of a long one is left out."""
    try:
        return _SHOWN.repr(value)
    except ValueError:  # Python writes no number of so many digits
        return "a number that is too long to show"


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _read_value(hint: Any, value: Any, key: str, limits: Mapping[str, Any], mistakes: list[Mistake]) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, dict):
            return _read_dataclass(hint, typing.cast(Table, value), key + ".", mistakes)
        mistakes.append(Mistake(key, f"is {_told(value)}, not a table"))
    elif origin is tuple:
        if isinstance(value, list | tuple):
            item = typing.get_args(hint)[0]
            items = list(typing.cast("Iterable[Any]", value))
            return tuple(_read_value(item, each, f"{key}[{i}]", limits, mistakes) for i, each in enumerate(items))
        mistakes.append(Mistake(key, f"is {_told(value)}, not a list"))
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(value, dict) and all(isinstance(item, str) for item in typing.cast(Table, value).values()):
            return dict(typing.cast(Table, value))
        mistakes.append(Mistake(key, f"is {_told(value)}, not a table of texts"))
    else:
        return _read_scalar(typing.cast(type, hint), value, key, limits, mistakes)
    return None


def _read_scalar(hint: type, value: Any, key: str, limits: Mapping[str, Any], mistakes: list[Mistake]) -> Any:
    if hint is float and type(value) is int:
        with suppress(OverflowError):  # one that is too large stays what it is, and is refused as that
            value = float(value)
    if type(value) is not hint:
        mistakes.append(Mistake(key, f"is {_told(value)}, not {_WORDS[hint]}"))
    elif problem := _out_of_limits(value, limits):
        mistakes.append(Mistake(key, f"is {_told(value)}, {problem}"))
    return value


def _out_of_limits(value: Any, limits: Mapping[str, Any]) -> str | None:
    low, high, choices = limits.get("low"), limits.get("high"), limits.get("choices")
    if choices and value not in choices:
        return f"not one of {', '.join(choices)}"
    if low is not None and not low <= value <= high:  # also catches NaN
        return f"not between {low} and {high}"
    if isinstance(value, int) and value % limits.get("multiple_of", 1):
        return f"not a multiple of {limits['multiple_of']}"
    return None


def merge(*tables: Table) -> Table:
    """Nested tables over one another; the later ones win, key by key."""
    merged: Table = {}
    for table in tables:
        for key, value in table.items():
            below = merged.get(key)
            both = isinstance(below, dict) and isinstance(value, dict)
            merged[key] = merge(typing.cast(Table, below), typing.cast(Table, value)) if both else value
    return merged


def parse_overrides(assignments: Iterable[str]) -> Table:
    """Turn `section.key=value` words into nested tables, typed by the setting that they name.

    Raises SettingsError with every word that names no setting or holds no value that it can have.
    """
    table: Table = {}
    mistakes: list[Mistake] = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        section, _, name = key.strip().partition(".")
        hint, limits = _setting(section, name)
        if not equals:
            mistakes.append(Mistake(assignment, "is not of the form section.key=value"))
        elif hint is None:
            mistakes.append(Mistake(key.strip(), _unknown(key.strip(), setting_keys())))
        else:
            value = _parse_text(hint, text.strip(), key.strip(), mistakes)
            if value is not None:
                _read_value(hint, value, key.strip(), limits, mistakes)
            table.setdefault(section, {})[name] = value
    if mistakes:
        raise SettingsError(mistakes, "--set")
    return table


def setting_keys() -> list[str]:
    """Every `section.key` there is."""
    return [f"{section}.{name}" for section, cls in _hints(Settings).items() for name in _hints(cls)]


def setting_help() -> dict[str, str]:
    """What each `section.key` means, in a phrase."""
    sections: dict[str, Any] = _hints(Settings)
    return {
        f"{section}.{field.name}": field.metadata["help"] for section, cls in sections.items() for field in fields(cls)
    }


def _setting(section: str, name: str) -> tuple[Any, Mapping[str, Any]]:
    """Type and limits of a setting; no type if there is none of that name."""
    cls = _hints(Settings).get(section)
    metadata = {field.name: field.metadata for field in fields(cls)} if cls else {}
    return (_hints(cls)[name], metadata[name]) if name in metadata else (None, {})


def _parse_text(hint: Any, text: str, key: str, mistakes: list[Mistake]) -> Any:
    if hint is str:
        return text
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        wanted = "a list such as [1, 2]" if isinstance(hint, types.GenericAlias) else _WORDS.get(hint, "a value")
        mistakes.append(Mistake(key, f"is {text!r}, not {wanted}"))
        return None
    return value


def require(job: Job, cls: type[T]) -> T:
    """`job` as one of `cls`; for code that was handed the wrong folder. Raises UsageError."""
    if not isinstance(job, cls):
        raise UsageError(f"This folder holds a {job.kind} job.", "Give the folder of another kind of job.")
    return job
