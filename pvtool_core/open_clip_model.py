"""Load open_clip models from tensors only, and refuse weights of other models.

HPSv2 is one: its checkpoints, `{"state_dict": …}` of ViT-H-14 in float16, have open_clip's names
and shapes.
"""

import errno
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from pvtool_core.errors import InputRefused
from pvtool_core.settings.schema import SemanticRewardConfig

FOLDER_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_SETTINGS = "Set semantic_reward.checkpoint to another file, or semantic_reward.model to its model."

Weights = Mapping[str, Tensor]


class ImageText:
    """Unit features of images and texts in float32, regardless of the model's number format.

    Images are encoded on the device of the model, in float16 unless that is the CPU. Texts are
    encoded on the CPU, in float32 and once each: they are few, and the text encoder would take GPU
    memory.
    """

    def __init__(
        self, config: SemanticRewardConfig, device: torch.device, dtype: torch.dtype | None = None
    ) -> None:
        """Load the model. Raises InputRefused if it does not exist or its weights do not fit."""
        name = f"local-dir:{config.model}" if Path(config.model).is_dir() else config.model
        self.device, self.dtype = (
            device,
            dtype or (torch.float32 if device.type == "cpu" else torch.float16),
        )
        file = weights_file(config)
        weights = read_weights(file)  # before the large model, which takes time to create
        self._model: Any = new_model(name)
        fill(self._model, weights, file)
        self._model.eval().requires_grad_(False).visual.to(device, self.dtype)
        self._tokenizer = open_clip.get_tokenizer(name)
        self._texts: dict[str, Tensor] = {}
        self.preparation: dict[str, Any] = open_clip.get_model_preprocess_cfg(self._model)

    @property
    def side(self) -> int:
        """Side of the square input images in pixels."""
        size = self.preparation["size"]
        return size if isinstance(size, int) else size[0]  # a folder's settings may have one number

    def of_pictures(self, pictures: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n width"]:
        """Return features of normalised images; differentiable."""
        pictures = pictures.to(self.device).view_as(pictures)
        features = self._model.encode_image(pictures.to(self.dtype)).float()
        if self.dtype == torch.float16 and features.requires_grad:
            keep_in_range(pictures, features)
        return functional.normalize(features, dim=-1)

    @torch.no_grad()
    def of_text(self, text: str) -> Float[Tensor, " width"]:
        if text not in self._texts:
            features = self._model.encode_text(self._tokenizer([text]))
            self._texts[text] = functional.normalize(features, dim=-1)[0].to(self.device)
        return self._texts[text]

    def cuts(self, text: str) -> bool:
        """Return whether a text is longer than the model's context, which truncates it."""
        read: Tensor = self._tokenizer([text])[0]
        room = len(read) + 4 * len(text.encode())  # for the whole text with padding
        whole: Tensor = self._tokenizer([text], context_length=room)[0]
        beyond = whole[len(read) :]
        return not torch.equal(whole[: len(read)], read) or bool((beyond != beyond[-1]).any())


def keep_in_range(start: Tensor, end: Tensor) -> None:
    """Pass gradients from `end` to `start` without underflow in the float16 part between.

    Both are float32. The gradients are scaled to a largest element of 1 on entry, and scaled back
    on exit.
    """
    largest: list[Tensor] = []

    def enter(gradient: Tensor) -> Tensor:
        largest.append(gradient.abs().amax().clamp_min(torch.finfo(torch.float32).tiny))
        return gradient / largest[-1]

    def leave(gradient: Tensor) -> Tensor:
        return gradient * largest.pop()

    end.register_hook(enter)
    start.register_hook(leave)


NOT_A_MODEL = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""Errors that open_clip raises for an invalid model configuration."""


def not_a_folder(folder: str) -> InputRefused:
    """Return the error about a folder that open_clip cannot use."""
    hint = "Use a folder with open_clip_config.json, weights and tokenizer, as open_clip writes it."
    return InputRefused(f"{folder} is not an open_clip model folder.", hint)


def new_model(name: str) -> Any:
    """Create an open_clip model without weights. Raises InputRefused."""
    folder = name.removeprefix("local-dir:")
    if folder == name and open_clip.get_model_config(name) is None:
        hint = (
            "Set semantic_reward.model to a folder or an open_clip model name; HPSv2 is ViT-H-14."
        )
        raise InputRefused(f"Unknown open_clip model {name!r}.", hint)
    logging.disable(logging.WARNING)  # it would warn of random weights, which are replaced below
    try:
        return open_clip.create_model(name, load_weights=False, pretrained_text=False)
    except NOT_A_MODEL as error:
        raise not_a_folder(folder) from error
    finally:
        logging.disable(logging.NOTSET)


def weights_file(config: SemanticRewardConfig) -> Path:
    """Return the weights file: of the model's folder, or the checkpoint for a model name."""
    folder = Path(config.model)
    if folder.is_dir():
        found = [folder / name for name in FOLDER_WEIGHTS if (folder / name).is_file()]
        if not found:
            raise InputRefused(f"No weights in {folder}.", f"Put {FOLDER_WEIGHTS[0]} there.")
        return found[0]
    if not Path(config.checkpoint).is_file():
        hint = "Set semantic_reward.checkpoint to a file; that of ViT-H-14 is "
        hint += "models:hpsv2.1/HPS_v2.1_compressed.pt."
        raise InputRefused(f"No checkpoint {config.checkpoint!r} for {config.model}.", hint)
    return Path(config.checkpoint)


def fill(model: Any, weights: Weights, file: Path) -> None:
    """Load the weights of the file into the model. Raises InputRefused unless all of them fit."""
    if misfit := why_not(weights, model.state_dict()):
        raise InputRefused(
            f"{file.name} does not contain the weights of semantic_reward.model: {misfit}.",
            _SETTINGS,
        )
    model.load_state_dict(weights)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by open_clip's names, without running code of the file.

    Raises InputRefused.
    """
    try:
        loaded: Any = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except UnpicklingError as error:
        if not (code := re.search(r"GLOBAL (\S+)", str(error))):
            raise _no_checkpoint(file) from error
        hint = (
            "Use a checkpoint that contains tensors only: loading a pickle can run arbitrary code."
        )
        raise InputRefused(
            f"{file.name} contains code ({code[1]}) besides tensors.", hint
        ) from error
    except (
        SafetensorError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        OverflowError,
    ) as error:
        raise _no_checkpoint(file) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # torch's error for a truncated zip archive
            raise
        raise _no_checkpoint(file) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    weights = {
        str(key).removeprefix("module."): value
        for key, value in state.items()
        if isinstance(value, Tensor)
    }
    if not weights:
        raise InputRefused(f"No tensors in {file.name}.", _SETTINGS)
    return weights


def _no_checkpoint(file: Path) -> InputRefused:
    hint = "Download it again, and compare its size."
    return InputRefused(f"{file.name} is not a complete checkpoint.", hint)


def why_not(weights: Weights, expected: Weights) -> str:
    """Return why the weights do not fit, as a phrase; empty if they do."""
    lacking = [name for name in expected if name not in weights]
    needless = [name for name in weights if name not in expected]
    if any("lora" in name.lower() for name in needless):
        return "it is a LoRA"
    if any(
        name.startswith(("model.diffusion_model.", "down_blocks.", "transformer_blocks."))
        for name in needless
    ):
        return "it is a diffusion model"
    for names, verb in ((lacking, "lacks"), (needless, "also has")):
        if names:
            return f"it {verb} {names[0]}" + (
                f" and {len(names) - 1} more" if len(names) > 1 else ""
            )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            return f"its {name} is {_size(tensor)} and not {_size(expected[name])}"
    return ""


def _size(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "a number"
