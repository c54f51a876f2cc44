"""Locate the weights in settings on this machine."""

import dataclasses
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pvtool_core.errors import InputRefused, PvError, WeightsMissing
from pvtool_core.models.base_models import (
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
from pvtool_core.paths import check_utf8, exists, models_dir, presets_dir, user_path
from pvtool_core.settings.families import SINGLE_FILE, family_of_pipeline, known_pipelines
from pvtool_core.settings.schema import (
    EvaluationConfig,
    MethodConfig,
    ModelConfig,
    Settings,
    is_path,
    named_weights,
)


def resolve(name: str) -> Path:
    """Return the file or folder of a setting.

    `preset:tiny/faces` is in the shipped presets, `models:NAME` among the downloaded models;
    anything else is a path, or a downloaded repository of the hub. Raises WeightsMissing if it does
    not exist, UsageError if its path is not UTF-8.
    """
    scheme, colon, rest = name.partition(":")
    roots = {"preset": presets_dir(), "models": models_dir()}
    path = roots[scheme] / rest if colon and scheme in roots else user_path(name).absolute()
    check_utf8(path)
    if not exists(path) and is_hub_id(name):
        path = model_folder(name)
    if not exists(path):
        raise WeightsMissing(name, how_to_get(name, path))
    return path


def how_to_get(name: str, path: Path) -> str:
    """Return a hint how to get the weights of a setting, or those expected at `path`."""
    model = name.removeprefix("models:").split("/")[0] if name.startswith("models:") else name
    if path.is_relative_to(models_dir()) and path != models_dir():
        model = model_name(path.relative_to(models_dir()).parts[0])
    if is_hub_id(model) or model in Registry().names():
        return (
            f"Download them with `pv models fetch {model}`, or add your own with "
            f"`pv models add {model}`."
        )
    return f"Put them at {path}, or set another folder."


def locate_weights(settings: Settings) -> Settings:
    """Return the settings with absolute paths.

    Those of rewards that training does not use may be missing. Raises WeightsMissing for the first
    missing weights, InputRefused for an unsuitable base model.
    """
    model, method = locate_model(settings.model), locate_method(settings.method)
    located = dataclasses.replace(settings, model=model, method=method)
    unused = settings.unused_rewards()
    for section, locate in (
        ("semantic_reward", locate_semantic),
        ("identity_reward", locate_faces),
    ):
        try:
            located = locate(located)
        except WeightsMissing:
            if section not in unused:
                raise
    return located


def locate_rewards(settings: Settings) -> Settings:
    """Return the settings with the absolute paths of the rewards' models, to evaluate clips.

    Raises WeightsMissing.
    """
    return locate_faces(locate_semantic(settings))


def locate_semantic(settings: Settings) -> Settings:
    """Return the settings with the absolute paths of the semantic reward's model.

    Raises WeightsMissing.
    """
    semantic = settings.semantic_reward
    model = _resolve_if_path(semantic.model)
    checkpoint = (
        "" if Path(model).is_dir() else _resolve_if_path(semantic.checkpoint)
    )  # a folder has its own weights
    located = dataclasses.replace(semantic, model=model, checkpoint=checkpoint)
    return dataclasses.replace(settings, semantic_reward=located)


def locate_faces(settings: Settings) -> Settings:
    """Return the settings with the absolute path of the face models, which enrolment needs.

    Raises WeightsMissing.
    """
    rewards = settings.identity_reward
    files = (rewards.detector, rewards.recognizer, settings.evaluation.recognizer)
    package = locate_package(rewards.package, files)
    return dataclasses.replace(
        settings, identity_reward=dataclasses.replace(rewards, package=str(package))
    )


def locate_package(name: str, files: Iterable[str]) -> Path:
    """Return the folder of a package of face models that has these files.

    Raises WeightsMissing.
    """
    package = resolve(name)
    for file in files:
        if not (package / file).is_file():
            raise WeightsMissing(f"{name}/{file}", how_to_get(name, package))
        if missing := missing_external(package / file):
            raise WeightsMissing(
                f"{name}/{missing[0]}", f"Put this file with weights beside {file}."
            )
    return package


def locate_model(model: ModelConfig) -> ModelConfig:
    """Return the absolute paths of all parts of the base model, style LoRAs and ControlNet.

    Raises WeightsMissing, or InputRefused if unsuitable.
    """
    return locate_style(locate_base(model))


def locate_method(method: MethodConfig) -> MethodConfig:
    """Return the absolute paths of the weights of an encoder method. Raises WeightsMissing."""
    named = [field.name for field in dataclasses.fields(method) if field.metadata["weights"]]
    paths = {name: str(resolve(path)) for name in named if (path := getattr(method, name))}
    return dataclasses.replace(method, **paths)


def locate_base(model: ModelConfig) -> ModelConfig:
    """Return `locate_model` without style LoRAs and ControlNet."""
    base = resolve(model.base_model)
    if (family := family_of(base)) != model.family:
        raise InputRefused(
            f"{base} is a model of the family {family}, not {model.family}.", "Set model.family."
        )
    needed = {"motion_adapter": _is_still(base), "config": base.is_file()}
    if any(needs and not getattr(model, part) for part, needs in needed.items()):
        raise InputRefused(
            f"{base} is Stable Diffusion without motion modules.",
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
    return dataclasses.replace(model, base_model=str(base), **parts)


def with_base_model(model: ModelConfig, base_model: str) -> ModelConfig:
    """Return the settings with another base model of the same family, located.

    Separate motion modules remain; a single file gets its configurations from the previous base
    model, unless `model.config` is set. The fingerprint is that of no model. Raises WeightsMissing,
    or InputRefused for a model of another family or without motion.
    """
    path = resolve(base_model)
    if (family := family_of(path)) != model.family:
        raise InputRefused(
            f"{path} is a model of the family {family}, not {model.family} as that of the run.",
            "Use a base model of the same family.",
        )
    if _is_still(path) and not model.motion_adapter:
        raise InputRefused(
            f"{path} is Stable Diffusion without motion modules, and the base model of the run "
            "contains its own.",
            "Save it with motion modules, as diffusers' AnimateDiffPipeline.",
        )
    config = model.config or (model.base_model if Path(model.base_model).is_dir() else "")
    changed = dataclasses.replace(model, base_model=base_model, config=config, fingerprint="")
    return locate_base(changed)


def locate_style(model: ModelConfig) -> ModelConfig:
    """Return style LoRAs and ControlNet with absolute paths.

    Raises WeightsMissing, or InputRefused for other files.
    """
    loras = tuple(dataclasses.replace(lora, file=str(resolve(lora.file))) for lora in model.loras)
    for lora in loras:
        if not lora.file.endswith(".safetensors"):
            raise InputRefused(
                f"The LoRA {lora.file} is not a .safetensors file.", "Pickled files are refused."
            )
        if not Path(lora.file).is_file():  # a folder, or a pipe, which would block
            raise InputRefused(
                f"The LoRA {lora.file} is not a regular file.", "Use a .safetensors file."
            )
        _check_tensors(Path(lora.file))
    control = model.control
    if control.model:
        control = dataclasses.replace(
            control, model=str(resolve(control.model)), frames=str(resolve(control.frames))
        )
        if not Path(control.frames).is_file() and not Path(control.frames).is_dir():
            raise InputRefused(
                f"{control.frames} is not a regular file.", "Use a video or a folder of pictures."
            )
        _check_tensors(Path(control.model))
        check_controlnet(Path(control.model), _unet_folder(model))
    return dataclasses.replace(model, loras=loras, control=control)


def _unet_folder(model: ModelConfig) -> Path:
    """Return the folder with the configuration of the base model's UNet, also for a single file."""
    base = resolve(model.base_model)
    return resolve(model.config) if base.is_file() and model.config else base


def _check_tensors(given: Path) -> None:
    """Raise InputRefused for .safetensors files that are incomplete by their header."""
    files = [given] if given.is_file() else sorted(given.rglob("*.safetensors"))
    for file in files:
        if problem := problem_of(file):
            raise InputRefused(f"{file} {problem}.", "Download it again.")


def family_of(base_model: Path) -> str:
    """Return the name of the family of a diffusers folder or a single-file checkpoint.

    Raises InputRefused for anything else.
    """
    if base_model.is_file():
        check_single_file(base_model)
        return SINGLE_FILE.name
    pipeline = _pipeline_of(base_model)
    family = family_of_pipeline(pipeline)
    if family is None:
        known = f"holds a {pipeline}" if pipeline else "is not a diffusers folder"
        raise InputRefused(
            f"{base_model} {known}.",
            f"Use a folder that holds one of {', '.join(known_pipelines())}.",
        )
    return family.name


def _is_still(base_model: Path) -> bool:
    """Return whether it generates images only, so that the motion modules are separate."""
    if base_model.is_file():
        return True
    family = family_of_pipeline(_pipeline_of(base_model))
    return family is not None and _pipeline_of(base_model) in family.image_pipelines


def _pipeline_of(folder: Path) -> str:
    """Return the pipeline class of a diffusers folder, or "".

    Raises InputRefused for an invalid index.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        return ""
    try:
        return str(read_table(index).get("_class_name", ""))
    except (OSError, ValueError) as error:
        raise InputRefused(f"{index} cannot be used: it {error}.", "Download it again.") from error


def resolve_settings(settings: Settings) -> Settings:
    """Return `locate_weights` with fingerprints of everything that affects pixels.

    The result is written to config.toml.
    """
    located = locate_weights(settings)
    return dataclasses.replace(located, model=with_fingerprints(located.model))


def _resolve_if_path(name: str) -> str:
    """Resolve a path; names of open_clip models such as ViT-H-14 are returned unchanged."""
    return str(resolve(name)) if is_path(name) else name


def locate_judges(evaluation: EvaluationConfig) -> EvaluationConfig:
    """Return the settings with absolute paths of the optional weights that are installed.

    The names of missing ones are unchanged.
    """
    found: dict[str, str] = {}
    for field in dataclasses.fields(evaluation):
        name = getattr(evaluation, field.name)
        if field.metadata.get("optional") and name:
            with suppress(WeightsMissing):
                found[field.name] = str(resolve(name))
    return dataclasses.replace(evaluation, **found)


def missing_weights(settings: Settings) -> list[WeightsMissing]:
    """Return all missing weights of the settings, each with a hint how to get it."""
    missing: list[WeightsMissing] = []
    for name in named_weights(settings):
        try:
            resolve(name)
        except WeightsMissing as error:
            missing.append(error)
    return missing


HERE = "here"


def weights_here(settings: Settings) -> str:
    """Return `here`, or the missing models with a command, or the reason of their refusal."""
    try:
        if missing := missing_models(settings):
            return f"missing: {', '.join(missing)}; run `pv models fetch {' '.join(missing)}`"
        locate_weights(settings)
    except WeightsMissing as error:
        return f"{error.message} {error.hint}"
    except PvError as error:
        return f"cannot be used: {error.message}"
    return HERE
