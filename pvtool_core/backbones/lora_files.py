"""LoRA files: their tensors by layer and part, and the trained strength of each layer.

Alpha is in one of these places, searched in this order; without any it is the rank:

* a tensor of the layer, such as `NAME.alpha`: kohya-ss, musubi-tuner, LyCORIS, ComfyUI
* `lora_adapter_metadata` or `network_alphas` in the file's metadata: diffusers
* `adapter_config.json` beside `adapter_model.safetensors`: PEFT
* `lora_alpha` or `network_alpha` in the metadata, and in kohya-ss's files `ss_network_alpha`
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pvtool_core.errors import InputRefused
from pvtool_core.models.fingerprints import peft_config_beside
from pvtool_core.models.integrity import problem_of

Part = Literal["down", "up", "up bias", "alpha", "magnitude", "dora_scale", "diff", "bias diff"]

_ADAPTER = r"(?:\.(?!(?:weight|bias)$)[^.]+)?"
_PARTS: Sequence[tuple[Part, re.Pattern[str]]] = (
    ("down", re.compile(rf"\.lora_(?:down|A){_ADAPTER}(?:\.weight)?$")),
    ("down", re.compile(r"[._]lora(?:_linear_layer)?\.down\.weight$")),
    ("up", re.compile(rf"\.lora_(?:up|B){_ADAPTER}(?:\.weight)?$")),
    ("up", re.compile(r"[._]lora(?:_linear_layer)?\.up\.weight$")),
    ("up bias", re.compile(rf"\.lora_(?:up|B){_ADAPTER}\.bias$")),
    ("up bias", re.compile(r"[._]lora(?:_linear_layer)?\.up\.bias$")),
    ("magnitude", re.compile(rf"\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?$")),
    ("dora_scale", re.compile(r"\.dora_scale$")),
    ("diff", re.compile(r"\.(?:diff|w_norm)$")),
    ("bias diff", re.compile(r"\.(?:diff_b|b_norm)$")),
    (
        "alpha",
        re.compile(r"(?:[._]lora(?:_linear_layer|_A|_B|_down|_up)?)?\.(?:lora_|network_)?alpha$"),
    ),
)
_LYCORIS: Sequence[tuple[str, re.Pattern[str]]] = (
    ("a LoHa", re.compile(r"\.hada_")),
    ("a LoKr", re.compile(r"\.lokr_")),
    ("a LoCon with Tucker decomposition (lora_mid)", re.compile(r"\.lora_mid\b|\.lora\.mid\b")),
    ("an OFT", re.compile(r"\.b?oft_")),
    ("a GLoRA", re.compile(r"\.[ab][12]\.weight$")),
    ("an (IA)³", re.compile(r"\.on_input$")),
)
_FLOATS = {
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
}
_NUMBERS = {*_FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
_TRAINED_FROM_OTHER_WEIGHTS = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Piece:
    """One tensor of a file: the layer name as written there, and the part of the layer."""

    key: str
    layer: str
    part: Part
    tensor: Tensor


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file: its content, and the names of empty marker tensors."""

    path: Path
    metadata: Mapping[str, str]
    pieces: tuple[Piece, ...]
    markers: tuple[str, ...] = ()


def read_lora(path: Path) -> LoraFile:
    """Read a LoRA file.

    Raises InputRefused if it is damaged, contains no LoRA, an unsupported LyCORIS kind, other
    tensors, or values that are not finite.
    """
    tensors, metadata = _load(path)
    for kind, pattern in _LYCORIS:
        if any(map(pattern.search, tensors)):
            raise InputRefused(
                f"The LoRA {path} is {kind}, a kind of LyCORIS that cannot be merged.",
                "Use a plain LoRA, LoCon or DoRA.",
            )
    pieces = tuple(piece for key, tensor in tensors.items() if (piece := piece_of(key, tensor)))
    read = {piece.key for piece in pieces}
    # a marker such as `v_pred`, whose name is its content
    markers = tuple(
        key for key, tensor in tensors.items() if key not in read and not tensor.numel()
    )
    if not any(piece.part != "alpha" for piece in pieces):
        raise InputRefused(
            f"{path} is not a LoRA.", "Use a LoRA file; set another base model with --base-model."
        )
    if unknown := [key for key in tensors if key not in read and key not in markers]:
        raise InputRefused(
            f"The LoRA {path} contains unknown tensors ({len(unknown)} of {len(tensors)}), "
            f"for example {shown(unknown[0])}.",
            "Use a plain LoRA, LoCon or DoRA.",
        )
    for piece in pieces:
        if piece.tensor.dtype not in (_NUMBERS if piece.part == "alpha" else _FLOATS):
            kind = str(piece.tensor.dtype).removeprefix("torch.")
            raise InputRefused(
                f"The LoRA {path} holds {kind} in {shown(piece.key)}, which cannot be merged.",
                "Save the LoRA in float32, float16, bfloat16 or float8.",
            )
        if not torch.isfinite(piece.tensor.float()).all():
            raise InputRefused(
                f"The LoRA {path} holds values that are not finite numbers, in {shown(piece.key)}.",
                "Use another LoRA; this one was damaged in training.",
            )
    return LoraFile(path, metadata, pieces, markers)


def piece_of(key: str, tensor: Tensor) -> Piece | None:
    """Split a tensor name into layer name and part; return None for other tensors."""
    for part, pattern in _PARTS:
        if (found := pattern.search(key)) and found.start():
            return Piece(key, key[: found.start()].replace(".processor.", "."), part, tensor)
    return None


def shown(name: str) -> str:
    """Format a name from a file for messages: without control characters, and truncated."""
    return repr(name if len(name) <= 120 else f"{name[:117]}…")


def _load(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    hint = "Download it again; pickled files are refused."
    try:
        if problem := problem_of(path):
            raise InputRefused(f"The LoRA {path} {problem}.", hint)
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a mapping
    except (
        SafetensorError,
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
    ) as error:
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputRefused(f"The LoRA {path} cannot be read: {shown(words)}.", hint) from error


# Strength of layers in training


@dataclass(frozen=True)
class Training:
    """A layer, as the rules for its strength need it."""

    names: Sequence[str]
    """Names in the file and in our model."""
    component: str
    rank: int
    is_3x3: bool


Scale = Callable[[Training], float | None]


def scale_of(
    file: LoraFile, named: Callable[[str], str]
) -> Callable[[Training, Tensor | None], float]:
    """Return a function that gives the scale, alpha / rank, of a layer and its alpha tensor.

    `named` removes prefixes from a layer name. Raises InputRefused for invalid settings in the
    file.
    """
    rules = [
        rule
        for rule in (_of_peft(file), _of_network_alphas(file, named), _of_one_number(file))
        if rule
    ]

    def scale(layer: Training, alpha: Tensor | None) -> float:
        if alpha is not None:
            if alpha.numel() != 1:
                raise _bad(file, f"alpha of {shown(layer.names[0])}", f"{alpha.numel()} numbers")
            return float(alpha) / layer.rank
        return next((found for rule in rules if (found := rule(layer)) is not None), 1.0)

    return scale


def _of_peft(file: LoraFile) -> Scale | None:
    """Return the scale by PEFT's configuration.

    It is in the metadata, per file or component, or beside the file.
    """
    beside = peft_config_beside(file.path)
    where, text = "lora_adapter_metadata", file.metadata.get("lora_adapter_metadata", "")
    if not text and beside:
        where, text = beside.name, beside.read_text("utf-8", "replace")
    if not text:
        return None
    config = _table(file, where, text)
    if (start := config.get("init_lora_weights")) and str(start).lower().startswith(
        _TRAINED_FROM_OTHER_WEIGHTS
    ):
        raise InputRefused(
            f"The LoRA {file.path} was trained from changed base weights "
            f"(init_lora_weights {start}).",
            "Convert it to a plain LoRA with PEFT first.",
        )

    def scale(layer: Training) -> float | None:
        def of(key: str) -> Any:
            return config.get(f"{layer.component}.{key}", config.get(key))

        patterns = of("alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise _bad(file, f"alpha_pattern in {where}", repr(patterns))
        alpha = of("lora_alpha")
        for pattern, own in cast("dict[str, Any]", patterns).items():
            if any(_matches(file, pattern, name) for name in layer.names):
                alpha = own
                break
        if alpha is None:
            return None
        divisor = math.sqrt(layer.rank) if of("use_rslora") is True else layer.rank
        return _number(file, f"lora_alpha in {where}", alpha) / divisor

    return scale


_PLAIN = re.compile(r"[\w.\\^$-]*")
_SIMPLE = re.compile(r"(?:[\w.\\^$|-]|\[[\w-]+\]|[*+](?![*+?{]))*")


def _matches(file: LoraFile, pattern: str, name: str) -> bool:
    """Return whether a layer matches a key of alpha_pattern, like PEFT.

    Regular expressions that might not terminate are refused.
    """
    simple = _PLAIN.fullmatch(pattern) or (
        _SIMPLE.fullmatch(pattern) and len(re.findall("[*+]", pattern)) <= 2
    )
    if not simple or len(pattern) > 300:
        raise _bad(file, "alpha_pattern", pattern)
    try:
        return bool(re.match(rf"(.*\.)?({pattern})$", name))
    except re.error:
        raise _bad(file, "alpha_pattern", pattern) from None


def _of_network_alphas(file: LoraFile, named: Callable[[str], str]) -> Scale | None:
    """Return the scale by `network_alphas`, one alpha per layer, in diffusers' metadata."""
    text = file.metadata.get("network_alphas", "")
    if not text:
        return None
    alphas: dict[str, float] = {}
    for key, alpha in _table(file, "network_alphas", text).items():
        layer = key.removesuffix(".alpha")
        found = piece_of(layer, torch.empty(0)) or piece_of(key, torch.empty(0))
        alphas[named(found.layer if found else layer)] = _number(
            file, f"network_alphas of {key}", alpha
        )

    def scale(layer: Training) -> float | None:
        alpha = next((alphas[name] for name in layer.names if name in alphas), None)
        return None if alpha is None else alpha / layer.rank

    return scale


def _of_one_number(file: LoraFile) -> Scale | None:
    """Return the scale by one alpha for the whole file, which trainers write into the metadata.

    That of kohya-ss is used only for files with its names and without any alpha tensor: converters
    to other names multiply it in and keep the metadata.
    """
    metadata = file.metadata
    text = next((metadata[key] for key in ("lora_alpha", "network_alpha") if key in metadata), None)
    of_kohya = not any(piece.part == "alpha" for piece in file.pieces) and all(
        piece.layer.startswith(("lora_unet_", "lora_te")) for piece in file.pieces
    )
    of_3x3: float | None = None
    if text is None and of_kohya and metadata.get("ss_network_alpha", "None") != "None":
        text = metadata["ss_network_alpha"]
        settings = _table(file, "ss_network_args", metadata.get("ss_network_args") or "{}")
        if "conv_dim" in settings:
            of_3x3 = _number(file, "conv_alpha in ss_network_args", settings.get("conv_alpha") or 1)
    if text is None:
        return None
    alpha = _number(file, "alpha in the metadata", text)
    return lambda layer: (of_3x3 if layer.is_3x3 and of_3x3 is not None else alpha) / layer.rank


def _table(file: LoraFile, where: str, text: str) -> dict[str, Any]:
    try:
        table: Any = json.loads(text)
    except (ValueError, RecursionError):
        table = None
    if table is None and text.strip() in {"null", "None"}:
        return {}
    if not isinstance(table, dict):
        raise _bad(file, where, text)
    return cast("dict[str, Any]", table)


def _number(file: LoraFile, what: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise _bad(file, what, str(value))
    return number


def _bad(file: LoraFile, what: str, value: str) -> InputRefused:
    return InputRefused(
        f"The LoRA {file.path} cannot be merged at its strength: invalid {what}, {shown(value)}.",
        "Save the LoRA again with the tool that it was trained with.",
    )
