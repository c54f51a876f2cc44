"""Read weights from tensors only, and write tensors with metadata."""

import errno
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pvtool_core.adapter_files.metadata_order import sort_metadata
from pvtool_core.errors import InputRefused

Weights = Mapping[str, Tensor]
_WITHIN = ("state_dict", "model", "module")
"""Keys of the tensors in checkpoints that also have other content."""
_UNUSED = ".num_batches_tracked"
"""A counter of batch norm for training; converted files lack it."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to `path`: equal content gives equal bytes."""
    save_file(dict(tensors), path, metadata=dict(metadata))
    sort_metadata(path)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, without running code of the file.

    The tensors can be in a `state_dict`, `model` or `module`, and their names can begin with
    `module.`. Raises InputRefused.
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
    state = loaded if isinstance(loaded, dict) else {}
    state = next((state[key] for key in _WITHIN if isinstance(state.get(key), dict)), state)
    weights = {
        str(key).removeprefix("module."): value
        for key, value in state.items()
        if isinstance(value, Tensor)
    }
    if not weights:
        raise InputRefused(f"No tensors in {file.name}.", "Use a file that contains weights.")
    return weights


def _no_checkpoint(file: Path) -> InputRefused:
    hint = "Download it again, and compare its size."
    return InputRefused(f"{file.name} is not a complete checkpoint.", hint)


def fill(model: nn.Module, weights: Weights, file: Path, owner: str, hint: str) -> None:
    """Load the weights of `file` into the model of `owner`.

    Raises InputRefused with the hint unless all of them fit.
    """
    if misfit := why_not(weights, model.state_dict()):
        raise InputRefused(f"{file.name} does not contain the weights of {owner}: {misfit}.", hint)
    model.load_state_dict(dict(weights))


def why_not(weights: Weights, expected: Weights) -> str:
    """Return why the weights do not fit, as a phrase; empty if they do."""
    lacking = [name for name in expected if name not in weights and not name.endswith(_UNUSED)]
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
