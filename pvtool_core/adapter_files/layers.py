"""Layers of an adapter file, read with NumPy: the front end does not import torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvtool_core.settings.schema import MAX_RANK

Matrix = NDArray[np.floating]
_DOWN = re.compile(r"(?P<layer>.+)\.lora_(?P<part>down|A)\.weight")
_NUMBERS = frozenset({"F16", "F32", "F64"})
_UP = {"down": "up", "A": "B"}
_PROJECTION = re.compile(r"(?:^|[._])([qkv])$")
_CROSS = re.compile(r"[._](?:attn2|cross_attn)[._]")
_FUSED = re.compile(r"\b(double|single)_blocks\.\d+\.(?:img_attn_qkv|linear1)$")
"""Layers of HunyuanVideo's file that hold q, k and v: see `FusedLayout`."""


class Pair(NamedTuple):
    """The matrices of one layer: down (rank, in), up (out, rank)."""

    down: Matrix
    up: Matrix

    @classmethod
    def of(cls, layer: "AdapterLayer", tensors: Mapping[str, Any]) -> "Pair":
        """Return the matrices of a layer, as views of the tensors of its file."""
        return cls(tensors[layer.down][layer.rank], tensors[layer.up][layer.rows, layer.rank])


@dataclass(frozen=True)
class AdapterLayer:
    """Place of one layer in the tensors of an adapter file.

    `kind` is q, k, v or other, after `cross` for cross-attention and for HunyuanVideo after the
    kind of its block. `rank` are the rows of the tensor `down` and the columns of the tensor `up`,
    `rows` the rows of `up`.
    """

    kind: str
    down: str
    up: str
    rank: slice
    rows: slice

    def read(self, file: Any) -> Pair:
        """Return the matrices of the layer in an opened file.

        Raises ValueError if they are not of a floating-point type of NumPy.
        """
        down, up = file.get_slice(self.down), file.get_slice(self.up)
        if not {down.get_dtype(), up.get_dtype()} <= _NUMBERS:
            raise ValueError(f"the type of {self.down} is not supported")
        return Pair(down[self.rank], up[self.rows][:, self.rank])


def adapter_layers(shapes: Mapping[str, tuple[int, ...]]) -> list[AdapterLayer]:
    """Return the layers of a file, from the shapes of its tensors.

    Raises ValueError if it is not an adapter: without layers, or with matrices that do not fit.
    """
    layers: list[AdapterLayer] = []
    for key in sorted(shapes):
        if found := _DOWN.fullmatch(key):
            up = f"{found['layer']}.lora_{_UP[found['part']]}.weight"
            layers += _layers_of(found["layer"], key, up, shapes)
    if not layers:
        raise ValueError("the file has no LoRA layers")
    return layers


def _layers_of(
    layer: str, down: str, up: str, shapes: Mapping[str, tuple[int, ...]]
) -> list[AdapterLayer]:
    """Return the layer of two tensors, or q, k and v of fused ones, which keep the width."""
    (rank, width), (height, columns) = shapes[down], shapes.get(up, (0, 0))
    fused = _FUSED.search(layer)
    count = 3 if fused else 1
    fits = rank == columns and rank % count == 0 and 0 < rank // count <= MAX_RANK
    if not fits or height < (count * width if fused else 1):
        raise ValueError(f"the matrices of {layer} do not fit")
    if not fused:
        projection = _PROJECTION.search(layer)
        kind = projection[1] if projection else "other"
        kind = f"cross {kind}" if _CROSS.search(layer) else kind
        return [AdapterLayer(kind, down, up, slice(rank), slice(height))]
    own = rank // 3
    return [
        AdapterLayer(
            f"{fused[1]} {projection}",
            down,
            up,
            slice(own * number, own * (number + 1)),
            slice(width * number, width * (number + 1)),
        )
        for number, projection in enumerate("qkv")
    ]
