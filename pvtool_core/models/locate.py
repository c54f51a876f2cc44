"""Presets and the weights that they name: what can be trained on, and where it lies on this machine."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvtool_core.errors import InputRefused, Missing, Mistake, SettingsError, WeightsMissing
from pvtool_core.models.base_models import (
    FAMILIES,
    check_base_model,
    check_config_folder,
    check_controlnet,
    check_motion_adapter,
    check_single_file,
)
from pvtool_core.models.digests import sha256_remembered
from pvtool_core.models.integrity import problem_of, read_table
from pvtool_core.models.onnx_files import missing_external
from pvtool_core.models.registry import Registry, is_hub_id, model_folder, model_name
from pvtool_core.paths import check_name, check_utf8, config_dir, exists, models_dir, nearest, presets_dir
from pvtool_core.settings.schema import ModelConfig, Settings, Table, from_table, merge, read_toml

_MODEL_FILES = {".json", ".safetensors", ".onnx", ".txt", ".model", ".bin"}
_PRESET_KEYS = {"description", "prompts", "needs", "licence", "extends"}


@dataclass(frozen=True)
class Preset:
    """A named set of settings. `table` holds what the file sets; `prompts` names its bank."""

    name: str
    description: str
    prompts: str
    licence: str
    needs: str
    table: Table
    own: bool

    def settings(self, *overrides: Table) -> Settings:
        """The preset's settings with `overrides` over them. Raises SettingsError."""
        return from_table(Settings, merge(self.table, *overrides), f"preset {self.name}")


class Presets:
    """The shipped presets and the user's own; an own preset hides a shipped one of its name."""

    def __init__(self, shipped: Path | None = None, own: Path | None = None) -> None:
        self.shipped = shipped or presets_dir()
        self.own = own or config_dir() / "presets"

    def names(self) -> list[str]:
        return sorted({path.stem for folder in (self.shipped, self.own) for path in folder.glob("[!.]*.toml")})

    def get(self, name: str) -> Preset:
        """The preset of that name. Raises Missing, BadName, or SettingsError if its file is wrong."""
        file = check_name("a preset", name) + ".toml"
        for folder in (self.own, self.shipped):
            if (folder / file).is_file():
                return self._read(folder / file, own=folder is self.own)
        near = nearest(name, self.own) or nearest(name, self.shipped)
        raise Missing("preset", name, "`pv presets list` shows all there are.", near)

    def _read(self, path: Path, own: bool) -> Preset:
        """A preset's file, over that of the shipped preset that it `extends`."""
        table = read_toml(path)
        if parent := table.get("preset", {}).get("extends"):
            table = merge(self._parent(path, parent), table)
        words = _about(path, table.pop("preset", {}))
        words.pop("extends", None)
        return Preset(name=path.stem, table=table, own=own, **words)

    def _parent(self, path: Path, name: Any) -> Table:
        """What a preset extends: a shipped one that extends none. Raises SettingsError."""
        parent = self.shipped / f"{name}.toml"
        table = read_toml(parent) if parent.is_file() else {}
        if not table or "extends" in table.get("preset", {}):
            known = [
                file.stem for file in self.shipped.glob("[!.]*.toml") if "extends" not in read_toml(file)["preset"]
            ]
            raise SettingsError(
                [Mistake("preset.extends", f"is {name!r}, not one of {', '.join(sorted(known))}")], str(path)
            )
        return table


def _about(path: Path, about: Mapping[str, Any]) -> dict[str, str]:
    """A preset's own table. Raises SettingsError."""
    wrong = [Mistake(f"preset.{key}", "is no setting") for key in about if key not in _PRESET_KEYS]
    wrong += [Mistake(f"preset.{key}", "is not text") for key, value in about.items() if not isinstance(value, str)]
    if wrong:
        raise SettingsError(wrong, str(path))
    return {"description": "", "prompts": "default", "licence": "", "needs": "", **about}


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
        return f"`pv models fetch {model}` brings them; `pv models add {model}` takes what you have."
    return f"Put them at {path}, or name another folder."


def locate_weights(settings: Settings) -> Settings:
    """The settings with every path absolute.

    Raises WeightsMissing for the first that is not on this machine, InputRefused if the base model is something else.
    """
    model_files, semantic = locate_model(settings.model), settings.semantic_reward
    model = _resolve_if_path(semantic.model)
    checkpoint = "" if Path(model).is_dir() else _resolve_if_path(semantic.checkpoint)  # a folder has its own weights
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
            raise WeightsMissing(f"{rewards.package}/{missing[0]}", f"{file} keeps its weights there; put it beside.")
    return dataclasses.replace(settings, identity_reward=dataclasses.replace(rewards, package=str(package)))


def locate_model(model: ModelConfig) -> ModelConfig:
    """Every part of the base model with its absolute path. Raises WeightsMissing, or InputRefused for another thing."""
    base = resolve(model.base_model)
    if (family := family_of(base)) != model.family:
        raise InputRefused(f"{base} is a model of the family {family}, not {model.family}.", "Set model.family.")
    needed = {"motion_adapter": _is_still(base), "config": base.is_file()}
    if any(needs and not getattr(model, part) for part, needs in needed.items()):
        raise InputRefused(
            f"{base} holds Stable Diffusion alone.",
            f"Set {' and '.join(f'model.{part}' for part, needs in needed.items() if needs)}.",
        )
    _check_tensors(base)
    check_base_model(base)
    parts = {part: str(resolve(getattr(model, part))) if needs else "" for part, needs in needed.items()}
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
            raise InputRefused(f"The LoRA {lora.file} is no .safetensors file.", "Pickled files are refused.")
        if not Path(lora.file).is_file():  # a folder, or a pipe that would be waited for
            raise InputRefused(f"The LoRA {lora.file} is not a regular file.", "Give a .safetensors file.")
        _check_tensors(Path(lora.file))
    control = model.control
    if control.model:
        control = dataclasses.replace(control, model=str(resolve(control.model)), frames=str(resolve(control.frames)))
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
        raise InputRefused(f"{base_model} {known}.", f"Give a folder that holds one of {', '.join(FAMILIES)}.")
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
        raise InputRefused(f"{index} cannot be used: it {error}.", "Get it again from where it came.") from error


def resolve_settings(settings: Settings) -> Settings:
    """As `locate_weights`, with the fingerprints of all that makes pixels: what a job's config.toml holds."""
    located = locate_weights(settings)
    return dataclasses.replace(located, model=with_fingerprints(located.model))


def with_fingerprints(model: ModelConfig) -> ModelConfig:
    """The model's settings with the fingerprints of its LoRAs and ControlNet, and of its base unless that is known."""
    loras = tuple(dataclasses.replace(lora, fingerprint=_fingerprint_of_lora(Path(lora.file))) for lora in model.loras)
    control = model.control
    if control.model:
        digests = [fingerprint(Path(control.model)), frames_fingerprint(Path(control.frames))]
        control = dataclasses.replace(control, fingerprint=" ".join(digests))
    return dataclasses.replace(model, fingerprint=fingerprint_of(model), loras=loras, control=control)


def peft_config_beside(lora: Path) -> Path | None:
    """Return PEFT's settings of a LoRA, which hold its strength, if it lies in a folder as PEFT saves it."""
    config = lora.with_name("adapter_config.json")
    return config if lora.stem == "adapter_model" and config.is_file() else None


def _fingerprint_of_lora(path: Path) -> str:
    """The file's fingerprint; with settings beside it, one that changes with them, too."""
    config = peft_config_beside(path)
    parts = [fingerprint(each) for each in (path, config) if each]
    return parts[0] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _resolve_if_path(name: str) -> str:
    """open_clip also knows models by bare names such as ViT-H-14, which stay as they are."""
    return str(resolve(name)) if ":" in name or "/" in name else name


def fingerprint_of(model: ModelConfig) -> str:
    """What tells one base model from another: `fingerprint` of all its parts, unless the job knows it."""
    if model.fingerprint:
        return model.fingerprint
    parts = [fingerprint(Path(part)) for part in (model.base_model, model.motion_adapter, model.config) if part]
    return parts[0] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def fingerprint(path: Path, of: Collection[str] | None = _MODEL_FILES) -> str:
    """16 hex digits that change with any model file under `path`, and not with its place, its times or its read-me.

    `of` are the suffixes that count; None counts every file.
    """
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [file for file in found if file == path or of is None or file.suffix in of]
    index = [
        (str(file.relative_to(path)), file.stat().st_size, sha256_remembered(file)) for file in files if file.is_file()
    ]
    return hashlib.sha256(json.dumps(index).encode()).hexdigest()[:16]


_FRAMES_READ = 2  # to be raised when the same files are read as other pictures: clips and trajectories depend on it


def frames_fingerprint(path: Path) -> str:
    """16 hex digits of a video, or of a folder's pictures in their order; their names and other files do not count."""
    from pvtool_core.media.photos import pictures_in  # with Pillow, which most commands do not need

    files = pictures_in(path) if path.is_dir() else [path]
    index = [_FRAMES_READ, *(sha256_remembered(file) for file in files)]
    return hashlib.sha256(json.dumps(index).encode()).hexdigest()[:16]
