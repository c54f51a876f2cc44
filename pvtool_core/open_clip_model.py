"""Load open_clip models from tensors only, and refuse weights of other models.

HPSv2 is one: its checkpoints, `{"state_dict": …}` of ViT-H-14 in float16, have open_clip's names
and shapes.
"""

import logging
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pvtool_core.errors import InputRefused
from pvtool_core.settings.schema import SemanticRewardConfig
from pvtool_core.tensor_files import fill, read_weights

FOLDER_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_SETTINGS = "Set semantic_reward.checkpoint to another file, or semantic_reward.model to its model."


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
        fill(self._model, weights, file, "semantic_reward.model", _SETTINGS)
        self._model.eval().requires_grad_(False).visual.to(device, self.dtype)
        self._tokenizer = open_clip.get_tokenizer(name)
        self._texts: dict[str, Tensor] = {}
        self._parked = False
        self.preparation: dict[str, Any] = open_clip.get_model_preprocess_cfg(self._model)

    @property
    def side(self) -> int:
        """Side of the square input images in pixels."""
        size = self.preparation["size"]
        return size if isinstance(size, int) else size[0]  # a folder's settings may have one number

    def of_pictures(self, pictures: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n width"]:
        """Return features of normalised images; differentiable."""
        if self._parked:
            self._model.visual.to(self.device)
            self._parked = False
        pictures = pictures.to(self.device).view_as(pictures)
        features = self._model.encode_image(pictures.to(self.dtype)).float()
        if self.dtype == torch.float16 and features.requires_grad:
            keep_in_range(pictures, features)
        return functional.normalize(features, dim=-1)

    def park(self) -> None:
        """Move the image encoder to CPU memory until `of_pictures` needs it again."""
        self._model.visual.to("cpu")
        self._parked = True

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
