"""The mean of adapter files: the best approximation of the mean of B·A, in the same layout."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pvtool_core.adapter_files.average import mean_adapter, mean_pair
from pvtool_core.adapter_files.layers import Pair
from pvtool_core.backbones.hunyuan_video import FusedLayout
from pvtool_core.errors import InputRefused
from tests.support.adapter_files import METADATA
from tests.support.lora_pairs import random_pairs


def pairs_of(count: int, rank: int, shape: tuple[int, int]) -> list[Pair]:
    draw = np.random.default_rng(0).standard_normal
    return [Pair(draw((rank, shape[1])), draw((shape[0], rank))) for _ in range(count)]


@pytest.mark.parametrize("shape", [(9, 7), (2, 7), (9, 2)])
def test_mean_is_the_best_approximation_of_its_rank(shape: tuple[int, int]) -> None:
    pairs = pairs_of(3, 3, shape)
    exact = sum(pair.up @ pair.down for pair in pairs) / 3
    mean, lost, squares = mean_pair(pairs)
    u, values, v = np.linalg.svd(exact, full_matrices=False)
    best = u[:, :3] * values[:3] @ v[:3]
    np.testing.assert_allclose(mean.up @ mean.down, best, atol=1e-12)
    assert (mean.down.shape, mean.up.shape) == (pairs[0].down.shape, pairs[0].up.shape)
    assert lost == pytest.approx(np.sum((exact - best) ** 2), abs=1e-12)
    assert squares == pytest.approx(np.sum(exact**2))


def test_integers_are_refused(tmp_path: Path) -> None:
    pairs = {"q.lora_A.weight": torch.ones(1, 4), "q.lora_B.weight": torch.ones(4, 1)}
    save_file({key: each.long() for key, each in pairs.items()}, tmp_path / "a", METADATA)
    with pytest.raises(InputRefused, match="is not supported"):
        mean_adapter([tmp_path / "a", tmp_path / "a"])


def test_mean_of_fused_layers_keeps_their_layout(tmp_path: Path) -> None:
    layout = FusedLayout(mlp_width=5)
    names = [f"{kind}transformer_blocks.0.attn.to_{q}" for kind in ("", "single_") for q in "qkv"]
    files = [tmp_path / "a", tmp_path / "b"]
    layers = [random_pairs(names, seed) for seed in range(2)]
    for file, pairs in zip(files, layers, strict=True):
        packed = {key: each.contiguous() for key, each in layout.pack(pairs).items()}
        save_file(packed, file, {**METADATA, "rank": "2"})
    tensors, metadata, error = mean_adapter(files)
    assert 0 < error < 1
    assert metadata["rank"] == "2"
    found = layout.unpack({key: torch.from_numpy(each) for key, each in tensors.items()}, names)
    packed = layout.pack(found)
    assert all(torch.equal(packed[key], torch.from_numpy(tensors[key])) for key in tensors)
    for name, pair in found.items():
        expected, _, _ = mean_pair([Pair(*(m.numpy() for m in each[name])) for each in layers])
        np.testing.assert_allclose(
            (pair.up @ pair.down).numpy(), expected.up @ expected.down, atol=1e-5
        )
