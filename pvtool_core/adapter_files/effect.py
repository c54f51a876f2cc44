"""How much an adapter changes the model: the rms of B·A, its addition to the weights of a layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from pvtool_core.adapter_files.layers import Pair, adapter_layers
from pvtool_core.untrusted import is_file

NEGLIGIBLE = 1e-4
"""Effect below which a clip looks like that of the base model.

Measured on the preset tiny, whose trained adapters have 0.025. Scaled to 0.8e-4, the adapter
changes a clip by 0.05 of 255 in the mean and by 3 at most; scaled to 2.6e-4, by 0.17 and 10.
Adapters of the large presets have more than 1e-3, as estimated from learning rate and iterations.
Phosphene warns below 2e-4, for LoRAs of other models that act in all steps.
"""
_MOST_BYTES = 1 << 32


@dataclass(frozen=True)
class Effect:
    """Median rms of B·A by kind of layer (see `AdapterLayer.kind`)."""

    rms: Mapping[str, float]

    def record(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"rms": dict(self.rms), "negligible": self.negligible}

    @property
    def negligible(self) -> bool:
        """Return whether the adapter changes the clips by nothing that can be seen."""
        return max(self.rms.values()) < NEGLIGIBLE


def read_effect(file: Path) -> Effect | None:
    """Return the effect of an adapter file; None if it is not a valid adapter."""
    try:
        if not is_file(file) or file.stat().st_size > _MOST_BYTES:
            return None
        rms = _read(file)
    except (SafetensorError, OSError, ValueError, TypeError, MemoryError):
        return None
    return Effect(rms) if all(map(isfinite, rms.values())) else None


def _read(file: Path) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    with safe_open(file, "np") as opened:
        slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 - not a mapping
        for layer in adapter_layers({key: tuple(each.get_shape()) for key, each in slices.items()}):
            found.setdefault(layer.kind, []).append(rms_of_product(layer.read(opened)))
    return {kind: median(found[kind]) for kind in sorted(found, key=_in_order)}


def _in_order(kind: str) -> tuple[str, int]:
    """Return a sort key: q, k, v of each kind of block."""
    block, _, projection = kind.rpartition(" ")
    return block, "qkv".find(projection) % 4


def rms_of_product(pair: Pair) -> float:
    """Return the rms of the entries of B·A (out, in), which is not computed.

    Its squared Frobenius norm is the trace of (Bᵀ B) (A Aᵀ), a product of matrices (rank, rank).
    """
    down, up = (matrix.astype(np.float64) for matrix in pair)
    squares = float(np.sum((up.T @ up) * (down @ down.T)))
    return float(np.sqrt(max(squares, 0.0) / (up.shape[0] * down.shape[1])))
