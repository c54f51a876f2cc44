"""Random matrices of LoRA layers."""

from collections.abc import Iterable

import torch

from pvtool_core.adapter import LoraPair


def random_pairs(names: Iterable[str], seed: int = 0) -> dict[str, LoraPair]:
    """Return matrices of rank 2 for layers (8, 8), by their names."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: LoraPair(torch.randn(2, 8, generator=draw), torch.randn(8, 2, generator=draw))
        for name in names
    }
