"""Checks of base models, motion adapters and ControlNets, for downloads, settings and engine.

Only headers and JSON files are read, so that an unusable model is refused before a run is created.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pvtool_core.adapter_files.vector_files import read_vector_file
from pvtool_core.errors import InputRefused, WeightsMissing
from pvtool_core.models.integrity import Header, missing_parts, read_header, read_table
from pvtool_core.settings.families import Family, family_of_pipeline, known_pipelines
from pvtool_core.settings.schema import ModelConfig
from pvtool_core.untrusted import parse_json

Files = Mapping[str, Path]
"""Files of a model by their path in its folder."""

VARIANTS = ("fp16", "bf16", "fp32", "non_ema", "ema")
"""Variants of weights that diffusers loads by name, in the order in which they are tried."""

_DENOISERS = ("unet", "transformer")
_ENCODERS = {"text_encoder": "text encoder", "text_encoder_2": "second text encoder"}
_WORDS = {"unet": "UNet", "vae": "VAE", "tokenizer_2": "second tokenizer", **_ENCODERS}
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")
_LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
_SHARD = re.compile(r"-\d+-of-\d+$")
_OTHER_TEXT = {1024: "Stable Diffusion 2", 2048: "SDXL"}
_OTHER_INPUT = {9: "is an inpainting model", 8: "is an image editing model", 5: "is a depth model"}
_GET = "Get a complete copy, or save the pipeline with diffusers' save_pretrained."
_ANOTHER = "Use a Stable Diffusion 1.5 text-to-image model."
_CONVERT = (
    "Save it as safetensors with diffusers: "
    "DiffusionPipeline.from_pretrained(FOLDER, use_safetensors=False).save_pretrained(NEW_FOLDER)."
)


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a folder and its direct subfolders: all parts of a pipeline."""
    found = (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}


def check_taken_in(files: Files, name: str, weights: bool = True) -> None:
    """Check a model that is fetched or added: a pipeline, or a Stable Diffusion in one file.

    `weights` is False for a folder of configurations alone. Raises InputRefused.
    """
    for path, file in files.items():
        if file.suffix == ".gguf":
            raise InputRefused(f"{name}/{path} is a GGUF file, which pv cannot load.", _NO_GGUF)
    if "model_index.json" in files:
        pipeline = _class_of(files["model_index.json"])
        if family_of_pipeline(pipeline):
            check_pipeline(files, name, weights)
        elif re.fullmatch(r"\w+Pipeline", pipeline):
            raise InputRefused(
                f"{name} holds a {pipeline}.",
                f"Give a folder that holds one of {', '.join(known_pipelines())}.",
            )
    elif len(files) == 1:
        (file,) = files.values()
        header = _header(file) if file.suffix == ".safetensors" else None
        if header and any(key.startswith(_ORIGINAL_UNET) for key in header.shapes):
            check_single_file(file)


_NO_GGUF = "Use the model's .safetensors file or its diffusers folder."


def check_base_model(base: Path) -> None:
    """Check a diffusers folder, or a Stable Diffusion in one file. Raises InputRefused."""
    if base.is_dir():
        check_pipeline(files_of(base), str(base))
    else:
        check_single_file(base)


def check_pipeline(files: Files, name: str, weights: bool = True) -> None:
    """Check that a pipeline of a known class is complete and generates video from text.

    Raises InputRefused.
    """
    index = _table(files["model_index.json"])
    family = family_of_pipeline(_class_of(files["model_index.json"]))
    assert family, "the caller has checked the class"
    if index.get("boundary_ratio") is not None:
        raise InputRefused(
            f"{name} is two transformers that take turns, which pv cannot train yet.",
            "Use Wan 2.1, or the dense model of Wan 2.2 (TI2V-5B).",
        )
    lacking = [part for part in family.parts if not _has_part(files, index, part)]
    if lacking:
        listed = ", ".join(f"{_WORDS.get(part, part)} ({part}/)" for part in lacking)
        raise InputRefused(f"{name} is incomplete: missing {listed}.", _GET)
    _check_configs(files, index, name)
    if weights:
        parts = [part for part in family.parts if part in (*_DENOISERS, "vae", *_ENCODERS)]
        for part in (*parts, *_others(index, parts)):
            _check_weights(files, f"{part}/", name, _stem(index, part))
        if shards := [path for path in missing_parts(files) if path.count("/") == 1]:
            raise InputRefused(f"{name} is incomplete: missing {', '.join(shards[:3])}.", _GET)
        variant_of(files, name)
    _check_shapes(files, name, family)


def _check_configs(files: Files, index: Mapping[str, Any], name: str) -> None:
    """Check that diffusers can load the libraries and configurations. Raises InputRefused."""
    for part, value in index.items():
        if _is_named(index, part) and value[0] not in _LIBRARIES:
            raise InputRefused(
                f"{name} has code of its own, {value[0]!r} for {part!r}, which pv does not run.",
                _GET,
            )
    for path, file in files.items():
        part, _, rest = path.partition("/")
        if rest.endswith("config.json") and _is_named(index, part):
            _table(file)


def _has_part(files: Files, index: Mapping[str, Any], part: str) -> bool:
    """Return whether the index names a part and the file needed to load it exists."""
    if not _is_named(index, part):
        return False
    if part == "scheduler":
        return f"{part}/scheduler_config.json" in files
    if part.startswith("tokenizer"):
        return any(f"{part}/{file}" in files for file in _TOKENIZERS)
    return f"{part}/config.json" in files


def _is_named(index: Mapping[str, Any], part: str) -> bool:
    """Return whether the index has library and class of a part; [null, null] omits the part."""
    value = index.get(part)
    return (
        isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value)
    )  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _others(index: Mapping[str, Any], parts: Iterable[str]) -> list[str]:
    """Return further models that the folder names and its pipeline loads."""
    return [part for part in ("motion_adapter",) if part not in parts and _is_named(index, part)]


def _stem(index: Mapping[str, Any], part: str) -> str:
    """Return the file name of a part's weights in diffusers or transformers, without its suffix."""
    return "model" if index[part][0] == "transformers" else "diffusion_pytorch_model"


def _check_weights(files: Files, prefix: str, name: str, stem: str) -> None:
    """Check that the weights of a model exist as safetensors with the expected name.

    Raises InputRefused.
    """
    if _forms(files, prefix, stem):
        return
    where = f"{name}/{prefix}".rstrip("/")
    inside = [
        path for path in files if path.startswith(prefix) and "/" not in path.removeprefix(prefix)
    ]
    if any(path.endswith(".safetensors") for path in inside):
        found = next(path for path in inside if path.endswith(".safetensors")).removeprefix(prefix)
        if _SHARD.search(found.removesuffix(".safetensors")):
            raise InputRefused(
                f"{where} has shards, but no {stem}.safetensors.index.json that lists them.", _GET
            )
        raise InputRefused(
            f"{where} has no {stem}.safetensors, only {found}.",
            "Rename the file, or get another copy.",
        )
    if any(path.endswith(_PICKLED) for path in inside):
        found = next(path for path in inside if path.endswith(_PICKLED)).removeprefix(prefix)
        raise InputRefused(
            f"{where} has only pickled weights ({found}), which pv does not load.", _CONVERT
        )
    raise InputRefused(f"{where} has no weights: missing {stem}.safetensors.", _GET)


def _forms(files: Files, prefix: str, stem: str) -> set[str]:
    """Return the variants of the weights; an empty string stands for the plain ones."""
    names = {"": (f"{stem}.safetensors", f"{stem}.safetensors.index.json")}
    names |= {
        each: (f"{stem}.{each}.safetensors", f"{stem}.safetensors.index.{each}.json")
        for each in VARIANTS
    }
    return {
        variant
        for variant, choices in names.items()
        if any(f"{prefix}{file}" in files for file in choices)
    }


def variant_of(files: Files, name: str) -> str | None:
    """Return the variant with which to load a pipeline, None for plain weights.

    It is that of the parts without plain weights. Raises InputRefused if no variant has all of
    them.
    """
    index = _table(files["model_index.json"])
    parts = [
        part
        for part in (*_DENOISERS, "vae", *_ENCODERS, "motion_adapter")
        if f"{part}/config.json" in files
    ]
    named = [part for part in parts if _is_named(index, part)]
    return _variant([_forms(files, f"{part}/", _stem(index, part)) for part in named], name)


def model_variant(folder: Path) -> str | None:
    """Return the variant for a single diffusers model, such as a motion adapter.

    None for plain weights.
    """
    return _variant([_forms(files_of(folder), "", "diffusion_pytorch_model")], str(folder))


def pipeline_variant(folder: Path) -> str | None:
    """Return the variant with which to load the pipeline in a folder; None for plain weights.

    Raises InputRefused.
    """
    return variant_of(files_of(folder), str(folder))


def _variant(forms: Iterable[set[str]], name: str) -> str | None:
    only = [form for form in forms if form and "" not in form]
    if not only:
        return None
    common = set[str].intersection(*only)
    if not common:
        listed = ", ".join(sorted(set[str].union(*only)))
        raise InputRefused(
            f"The parts of {name} have weights in different variants only: {listed}.", _GET
        )
    return next(variant for variant in VARIANTS if variant in common)


def _check_shapes(files: Files, name: str, family: Family) -> None:
    """Check the configurations: denoiser, VAE and text encoder must fit together.

    Raises InputRefused.
    """
    part = next(part for part in _DENOISERS if f"{part}/config.json" in files)
    denoiser, vae = _table(files[f"{part}/config.json"]), _table(files["vae/config.json"])
    latents = vae.get("latent_channels", vae.get("z_dim", 16 if part == "transformer" else 4))
    channels = denoiser.get("in_channels", 16 if part == "transformer" else 4)
    expected = latents * family.input_latents if isinstance(latents, int) else latents
    _check_input(name, channels, expected)
    if part == "unet":
        width = denoiser.get("cross_attention_dim", 1280)
        encoder = _table(files["text_encoder/config.json"]).get("hidden_size", width)
        _check_text(name, width)
        if encoder != width:
            raise InputRefused(
                f"The text encoder of {name} has width {encoder}, but its UNet expects {width}.",
                _GET,
            )


def _check_input(name: str, channels: Any, latents: Any) -> None:
    if channels != latents:
        what = (
            _OTHER_INPUT.get(channels, "needs more than a prompt")
            if isinstance(channels, int)
            else "is unknown"
        )
        raise InputRefused(
            f"{name} {what}: its denoiser has {channels} channels, but its latents {latents}.",
            "Use a text-to-image or text-to-video model.",
        )


def _check_text(name: str, width: Any) -> None:
    if isinstance(width, int) and width in _OTHER_TEXT:
        raise InputRefused(
            f"{name} is {_OTHER_TEXT[width]}, which AnimateDiff's motion modules do not fit.",
            _ANOTHER,
        )


def check_config_folder(folder: Path) -> None:
    """Check the configuration folder of a single-file Stable Diffusion checkpoint.

    Raises InputRefused.
    """
    files = files_of(folder) if folder.is_dir() else {}
    index = files.get("model_index.json")
    if index is None or not family_of_pipeline(_class_of(index)):
        raise InputRefused(
            f"{folder} is not a diffusers folder of Stable Diffusion.", "Set model.config."
        )
    check_pipeline(files, str(folder), weights=False)


def check_motion_adapter(folder: Path, base: Path) -> None:
    """Check that a motion adapter fits the UNet in the folder `base`. Raises InputRefused."""
    config = _model_config(folder, "MotionAdapter", "motion adapter")
    if config.get("conv_in_channels") not in (None, 4):
        raise InputRefused(
            f"{folder} is a motion adapter that takes pictures too.", "Use AnimateDiff v1-5-3."
        )
    widths, own = (
        _table(base / "unet/config.json").get("block_out_channels"),
        config.get("block_out_channels"),
    )
    if widths and own and widths != own:
        raise InputRefused(
            f"The motion adapter {folder} has blocks of {own} channels, and the UNet of the base "
            f"model {widths}.",
            "Use a motion adapter for Stable Diffusion 1.5.",
        )


def check_controlnet(folder: Path, base: Path) -> None:
    """Check a ControlNet, and that it is for the UNet in the folder `base`. Raises InputRefused."""
    config = _model_config(folder, "ControlNetModel", "ControlNet")
    if not (base / "unet/config.json").is_file():
        return
    unet = _table(base / "unet/config.json")
    width, text = config.get("cross_attention_dim", 1280), unet.get("cross_attention_dim", 1280)
    if width != text:
        raise InputRefused(
            f"{folder} is a ControlNet for another base model: its text embeddings have width "
            f"{width}, not {text}.",
            "Use one for Stable Diffusion 1.5.",
        )


def _model_config(folder: Path, kind: str, what: str) -> dict[str, Any]:
    """Return the configuration of a diffusers model after a check of its weights.

    Raises InputRefused.
    """
    files = files_of(folder) if folder.is_dir() else {}
    if "config.json" not in files:
        raise InputRefused(
            f"{folder} is not a {what}: missing config.json.",
            "Give the folder in diffusers' format.",
        )
    config = _table(files["config.json"])
    if config.get("_class_name", kind) != kind:
        raise InputRefused(
            f"{folder} holds a {config['_class_name']}, not a {what}.", f"Give a {what}'s folder."
        )
    _check_weights(files, "", str(folder), "diffusion_pytorch_model")
    if shards := missing_parts(files):
        raise InputRefused(f"{folder} is incomplete: missing {', '.join(shards[:3])}.", _GET)
    return config


# Stable Diffusion in one file

_ORIGINAL_UNET = "model.diffusion_model."
_ORIGINAL_PARTS = {
    "UNet": _ORIGINAL_UNET,
    "VAE": "first_stage_model.",
    "text encoder": "cond_stage_model.",
}


def check_single_file(file: Path) -> None:
    """Check a Stable Diffusion 1.5 in one file. Raises InputRefused."""
    if file.suffix == ".gguf":
        raise InputRefused(f"{file} is a GGUF file, which pv cannot load.", _NO_GGUF)
    if file.suffix in _PICKLED:
        raise InputRefused(
            f"{file} is a pickled checkpoint, which could run code.", "Use its .safetensors file."
        )
    if file.suffix != ".safetensors":
        raise InputRefused(
            f"{file} is not a .safetensors file.", "Give one, or a diffusers folder."
        )
    shapes = _header(file).shapes
    _check_kind(file, shapes)
    lacking = [
        part
        for part, prefix in _ORIGINAL_PARTS.items()
        if not any(key.startswith(prefix) for key in shapes)
    ]
    if len(lacking) == len(_ORIGINAL_PARTS):
        raise InputRefused(f"{file} does not hold a Stable Diffusion checkpoint.", _ANOTHER)
    if lacking:
        hint = "Get the full checkpoint, or a diffusers folder with all parts."
        raise InputRefused(f"{file} is incomplete: missing {' and '.join(lacking)}.", hint)
    first = shapes.get(f"{_ORIGINAL_UNET}input_blocks.0.0.weight", ())
    out = shapes.get(f"{_ORIGINAL_UNET}out.2.weight", ())
    if len(first) == 4 and len(out) == 4:
        _check_input(str(file), first[1], out[0])
    for key, shape in shapes.items():
        if key.startswith(_ORIGINAL_UNET) and key.endswith("attn2.to_k.weight"):
            _check_text(str(file), shape[-1])
    prediction_of(file)


def _check_kind(file: Path, shapes: Mapping[str, Any]) -> None:
    """Refuse files that are often mistaken for a base model, by their kind. Raises InputRefused."""
    if any(re.search(r"\.lora_(down|up|A|B)\.|\.lora\.(down|up)\.", key) for key in shapes):
        raise InputRefused(f"{file} is a LoRA, not a base model.", "Give it with --lora.")
    if any(
        key.startswith(("conditioner.embedders.", f"{_ORIGINAL_UNET}label_emb.")) for key in shapes
    ):
        _check_text(str(file), 2048)
    if any(key.startswith("cond_stage_model.model.") for key in shapes):
        _check_text(str(file), 1024)
    if any(key.startswith("control_model.") for key in shapes):
        raise InputRefused(
            f"{file} is a ControlNet, not a base model.", "Give it with --controlnet, as a folder."
        )
    if any("motion_modules." in key for key in shapes):
        raise InputRefused(
            f"{file} holds motion modules, not a base model.", "Set model.motion_adapter."
        )


@dataclass(frozen=True)
class Prediction:
    """Prediction type in a checkpoint; None and False if it is not recorded."""

    kind: str | None = None
    zero_terminal_snr: bool = False


_KINDS = {
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "epsilon": "epsilon",
    "eps": "epsilon",
}


def prediction_of(file: Path) -> Prediction:
    """Read the prediction type from the header of a checkpoint.

    It is in the keys `v_pred` and `ztsnr`, or in the metadata. Raises InputRefused for a type that
    the sampler of AnimateDiff does not support.
    """
    shapes, metadata = _header(file)
    said = metadata.get("modelspec.prediction_type", "").strip().lower().replace("-", "_")
    if said and said not in _KINDS:
        raise InputRefused(
            f"{file} has the unknown prediction type {said[:40]!r}.", "Use an epsilon or v model."
        )
    by_key = "v_prediction" if "v_pred" in shapes else None
    by_trainer = "v_prediction" if _is_true(metadata.get("ss_v_parameterization")) else None
    kind = by_key or _KINDS.get(said) or by_trainer
    zero = "ztsnr" in shapes or _is_true(metadata.get("ss_zero_terminal_snr"))
    if zero and kind == "epsilon":
        raise InputRefused(
            f"{file} has epsilon prediction and a zero terminal SNR, which exclude each other.",
            "Correct modelspec.prediction_type in its metadata.",
        )
    return Prediction(kind or ("v_prediction" if zero else None), zero)


def check_adapter_fits(adapter: Path, model: ModelConfig) -> None:
    """Check that an adapter file can act on a base model, by its widths and prediction type.

    Keyword vectors have the width of the text encoder.

    Only headers and configurations are read. Raises InputRefused, and WeightsMissing without the
    base model.
    """
    header, files = _header(adapter), files_of(Path(model.config or model.base_model))
    base, hint = model.base_model, "Use a base model of the architecture that the run used."
    if not files:
        raise WeightsMissing(base, "Restore it, or use another one with --base-model.")
    if vectors := read_vector_file(adapter):
        width = _table(files["text_encoder/config.json"]).get("hidden_size")
        if width != vectors.width:
            raise InputRefused(
                f"The text encoder of {base} has width {width}, but the keyword vectors of the run "
                f"have {vectors.width}.",
                hint,
            )
    widths = _attention_widths(files)
    inputs = {shape[-1] for key, shape in header.shapes.items() if _is_down(key) and shape}
    if widths and (wrong := sorted(inputs - set(widths))):
        raise InputRefused(
            f"{base} has layers of width {', '.join(map(str, widths))}, but the adapter of the run "
            f"has some of {', '.join(map(str, wrong))}.",
            hint,
        )
    trained = _trained_prediction(header)
    scheduler = files.get("scheduler/scheduler_config.json")
    kind = _table(scheduler).get("prediction_type", "epsilon") if scheduler else None
    if Path(base).is_file():
        kind = prediction_of(Path(base)).kind or kind
    if trained and kind and kind != trained:
        raise InputRefused(
            f"{base} predicts {kind}, but the adapter of the run was trained on a model that "
            f"predicts {trained}.",
            hint,
        )


def _attention_widths(files: Files) -> list[int]:
    """Return the widths of the layers that an adapter can change; empty if unknown."""
    if "unet/config.json" in files:
        widths: Any = _table(files["unet/config.json"]).get("block_out_channels")
    else:
        config = _table(files["transformer/config.json"])
        heads, size = config.get("num_attention_heads"), config.get("attention_head_dim")
        widths = [heads * size] if isinstance(heads, int) and isinstance(size, int) else []
    return [each for each in widths if type(each) is int] if isinstance(widths, list) else []


def _is_down(key: str) -> bool:
    return key.endswith((".lora_down.weight", ".lora_A.weight"))


def _trained_prediction(header: Header) -> str:
    """Return the prediction type in the metadata of an adapter file, or ""."""
    try:
        sampler = parse_json(header.metadata.get("sampler", "{}"))
    except ValueError:
        return ""
    return str(sampler.get("prediction_type", "")) if isinstance(sampler, dict) else ""  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]


def _is_true(value: str | None) -> bool:
    return (value or "").strip().lower() in {"true", "1"}


def _class_of(index: Path) -> str:
    return str(_table(index).get("_class_name", ""))


def _header(file: Path) -> Header:
    try:
        return read_header(file)
    except (ValueError, OSError) as error:
        raise InputRefused(
            f"{file} {_phrase(error)}.", "Get it again from where it came."
        ) from error


def _table(file: Path) -> dict[str, Any]:
    try:
        return read_table(file)
    except (ValueError, OSError) as error:
        named = PurePosixPath(file.parent.name, file.name)
        raise InputRefused(
            f"{file} {_phrase(error)}.", f"Get {named} again from where it came."
        ) from error


def _phrase(error: Exception) -> str:
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
