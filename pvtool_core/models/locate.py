"""Presets and the weights that they name: what can be trained on, and where it lies on this machine."""

import dataclasses
from pathlib import Path

from pvtool_core.errors import InputRefused, PvError, WeightsMissing
from pvtool_core.models.base_models import (
    FAMILIES,
    check_base_model,
    check_config_folder,
    check_controlnet,
    check_motion_adapter,
    check_single_file,
)
from pvtool_core.models.fingerprints import with_fingerprints
from pvtool_core.models.installed import missing_models
from pvtool_core.models.integrity import problem_of, read_table
from pvtool_core.models.onnx_files import missing_external
from pvtool_core.models.registry import Registry, is_hub_id, model_folder, model_name
from pvtool_core.paths import check_utf8, exists, models_dir, presets_dir
from pvtool_core.settings.schema import ModelConfig, Settings


def resolve(name: str) -> Path:
    """The file or folder that a setting names.

    `preset:tiny/faces` lies in the shipped presets, `models:NAME` among the fetched weights; anything else is a path,
    or a repository of the hub that was fetched. Raises WeightsMissing if nothing is there, UsageError if its path is
    not UTF-8.
    """
    scheme, colon, rest = name.partition(":")
    roots = {"preset": presets_dir(), "models": models_dir()}
    path = roots[scheme] / rest if colon and scheme in roots else Path(name).expanduser().absolute()
    check_utf8(path)
    if not exists(path) and is_hub_id(name):
        path = model_folder(name)
    if not exists(path):
        raise WeightsMissing(name, how_to_get(name, path))
    return path


def how_to_get(name: str, path: Path) -> str:
    """What brings the weights that a setting names, or should lie at `path`."""
    model = name.removeprefix("models:").split("/")[0] if name.startswith("models:") else name
    if path.is_relative_to(models_dir()) and path != models_dir():
        model = model_name(path.relative_to(models_dir()).parts[0])
    if is_hub_id(model) or model in Registry().names():
        return (
            f"`pv models fetch {model}` brings them; `pv models add {model}` takes what you have."
        )
    return f"Put them at {path}, or name another folder."


def locate_weights(settings: Settings) -> Settings:
    """The settings with every path absolute.

    Raises WeightsMissing for the first that is not on this machine, InputRefused if the base model is something else.
    """
    model_files, semantic = locate_model(settings.model), settings.semantic_reward
    model = _resolve_if_path(semantic.model)
    checkpoint = (
        "" if Path(model).is_dir() else _resolve_if_path(semantic.checkpoint)
    )  # a folder has its own weights
    return dataclasses.replace(
        locate_faces(settings),
        model=model_files,
        semantic_reward=dataclasses.replace(semantic, model=model, checkpoint=checkpoint),
    )


def locate_faces(settings: Settings) -> Settings:
    """The settings with the face models' path absolute: all that a photo needs. Raises WeightsMissing."""
    rewards = settings.identity_reward
    package = resolve(rewards.package)
    for file in (rewards.detector, rewards.recognizer, settings.evaluation.recognizer):
        if not (package / file).is_file():
            raise WeightsMissing(f"{rewards.package}/{file}", how_to_get(rewards.package, package))
        if missing := missing_external(package / file):
            raise WeightsMissing(
                f"{rewards.package}/{missing[0]}", f"{file} keeps its weights there; put it beside."
            )
    return dataclasses.replace(
        settings, identity_reward=dataclasses.replace(rewards, package=str(package))
    )


def locate_model(model: ModelConfig) -> ModelConfig:
    """Every part of the base model with its absolute path. Raises WeightsMissing, or InputRefused for another thing."""
    base = resolve(model.base_model)
    if (family := family_of(base)) != model.family:
        raise InputRefused(
            f"{base} is a model of the family {family}, not {model.family}.", "Set model.family."
        )
    needed = {"motion_adapter": _is_still(base), "config": base.is_file()}
    if any(needs and not getattr(model, part) for part, needs in needed.items()):
        raise InputRefused(
            f"{base} holds Stable Diffusion alone.",
            f"Set {' and '.join(f'model.{part}' for part, needs in needed.items() if needs)}.",
        )
    _check_tensors(base)
    check_base_model(base)
    parts = {
        part: str(resolve(getattr(model, part))) if needs else "" for part, needs in needed.items()
    }
    if config := parts["config"]:
        check_config_folder(Path(config))
    if motion := parts["motion_adapter"]:
        _check_tensors(Path(motion))
        check_motion_adapter(Path(motion), Path(config or base))
    return dataclasses.replace(locate_style(model), base_model=str(base), **parts)


def locate_style(model: ModelConfig) -> ModelConfig:
    """Style LoRAs and the ControlNet with absolute paths. Raises WeightsMissing, or InputRefused for other files."""
    loras = tuple(dataclasses.replace(lora, file=str(resolve(lora.file))) for lora in model.loras)
    for lora in loras:
        if not lora.file.endswith(".safetensors"):
            raise InputRefused(
                f"The LoRA {lora.file} is no .safetensors file.", "Pickled files are refused."
            )
        if not Path(lora.file).is_file():  # a folder, or a pipe that would be waited for
            raise InputRefused(
                f"The LoRA {lora.file} is not a regular file.", "Give a .safetensors file."
            )
        _check_tensors(Path(lora.file))
    control = model.control
    if control.model:
        control = dataclasses.replace(
            control, model=str(resolve(control.model)), frames=str(resolve(control.frames))
        )
        _check_tensors(Path(control.model))
        check_controlnet(Path(control.model), _unet_folder(model))
    return dataclasses.replace(model, loras=loras, control=control)


def _unet_folder(model: ModelConfig) -> Path:
    """The folder with the configuration of the base model's UNet: its own, or beside a single file's weights."""
    base = resolve(model.base_model)
    return resolve(model.config) if base.is_file() and model.config else base


def _check_tensors(given: Path) -> None:
    """Raises InputRefused for a .safetensors file, or one in a folder, whose header says that it is not whole."""
    files = [given] if given.is_file() else sorted(given.rglob("*.safetensors"))
    for file in files:
        if problem := problem_of(file):
            raise InputRefused(f"{file} {problem}.", "Get it again from where it came.")


_STILL = "StableDiffusionPipeline"


def family_of(base_model: Path) -> str:
    """The family of a diffusers folder, or of a Stable Diffusion in one file. Raises InputRefused for anything else."""
    if base_model.is_file():
        check_single_file(base_model)
        return FAMILIES[_STILL]
    pipeline = _pipeline_of(base_model)
    if pipeline not in FAMILIES:
        known = f"holds a {pipeline}" if pipeline else "is no diffusers folder"
        raise InputRefused(
            f"{base_model} {known}.", f"Give a folder that holds one of {', '.join(FAMILIES)}."
        )
    return FAMILIES[pipeline]


def _is_still(base_model: Path) -> bool:
    """Whether it makes pictures only, so that the motion modules come from elsewhere."""
    return base_model.is_file() or _pipeline_of(base_model) == _STILL


def _pipeline_of(folder: Path) -> str:
    """The class that a diffusers folder names, or nothing if it is none. Raises InputRefused for a broken index."""
    index = folder / "model_index.json"
    if not index.is_file():
        return ""
    try:
        return str(read_table(index).get("_class_name", ""))
    except (OSError, ValueError) as error:
        raise InputRefused(
            f"{index} cannot be used: it {error}.", "Get it again from where it came."
        ) from error


def resolve_settings(settings: Settings) -> Settings:
    """As `locate_weights`, with the fingerprints of all that makes pixels: what a job's config.toml holds."""
    located = locate_weights(settings)
    return dataclasses.replace(located, model=with_fingerprints(located.model))


def _resolve_if_path(name: str) -> str:
    """open_clip also knows models by bare names such as ViT-H-14, which stay as they are."""
    return str(resolve(name)) if ":" in name or "/" in name else name


HERE = "here"


def weights_here(settings: Settings) -> str:
    """`here`, or what is missing and the command that brings it, or why the weights cannot be used."""
    try:
        if missing := missing_models(settings):
            return (
                f"missing: {', '.join(missing)}; `pv models fetch {' '.join(missing)}` brings them"
            )
        locate_weights(settings)
    except WeightsMissing as error:
        return f"{error.message} {error.hint}"
    except PvError as error:
        return f"cannot be used: {error.message}"
    return HERE
