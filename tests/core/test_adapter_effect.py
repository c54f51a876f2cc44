"""The effect of an adapter: the rms of B·A by kind of layer, without computing the product."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pvtool_core.adapter import LoraLayout
from pvtool_core.adapter_files.effect import NEGLIGIBLE, read_effect
from pvtool_core.backbones.animatediff import KohyaLayout
from pvtool_core.backbones.hunyuan_video import FusedLayout
from pvtool_core.backbones.wan import WanLayout
from tests.support.adapter_files import small_adapter
from tests.support.lora_pairs import random_pairs

LAYOUTS = {
    "animatediff": (KohyaLayout(), "blocks.{}.attn1.to_{}", ("",)),
    "wan": (WanLayout(), "blocks.{}.attn1.to_{}", ("",)),
    "hunyuan-video": (
        FusedLayout(mlp_width=5),
        "transformer_blocks.{}.attn.to_{}",
        ("double ", "single "),
    ),
}


def kinds_of(pattern: str, blocks: tuple[str, ...]) -> dict[str, str]:
    """Return the kind of each layer of three blocks of each kind, by its name."""
    return {
        ("single_" if block == "single " else "") + pattern.format(number, projection): (
            f"{block}{projection}"
        )
        for block in blocks
        for number in range(3)
        for projection in "qkv"
    }


@pytest.mark.parametrize("family", LAYOUTS)
def test_effect_is_the_median_rms_of_the_products(family: str, tmp_path: Path) -> None:
    layout, pattern, blocks = LAYOUTS[family]
    assert isinstance(layout, LoraLayout)
    kinds = kinds_of(pattern, blocks)
    layers = random_pairs(kinds)
    packed = layout.pack(layers)
    save_file({key: each.contiguous() for key, each in packed.items()}, tmp_path / "file")
    expected: dict[str, list[float]] = {}
    for name, (down, up) in layers.items():
        expected.setdefault(kinds[name], []).append(float((up @ down).square().mean().sqrt()))
    effect = read_effect(tmp_path / "file")
    assert effect
    assert list(effect.rms) == [f"{block}{projection}" for block in blocks for projection in "qkv"]
    for kind, values in expected.items():
        assert effect.rms[kind] == pytest.approx(np.median(values), rel=1e-5)
    assert not effect.negligible


@pytest.mark.parametrize("scale", [0.0, NEGLIGIBLE / 100])
def test_untrained_adapter_has_a_negligible_effect(scale: float, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(small_adapter(scale=scale))
    effect = read_effect(tmp_path / "file")
    assert effect
    assert effect.negligible
    assert (max(effect.rms.values()) == 0) == (scale == 0)


def test_other_files_have_no_effect(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("weights")
    (tmp_path / "cut").write_bytes(small_adapter()[:-1])
    (tmp_path / "not finite").write_bytes(small_adapter(scale=float("nan")))
    (tmp_path / "link").symlink_to(tmp_path / "text")
    save_file({"a.lora_A.weight": torch.ones(2, 3)}, tmp_path / "half")
    save_file({"weight": torch.ones(2, 3)}, tmp_path / "no LoRA")
    names = [path.name for path in tmp_path.iterdir()]
    assert [name for name in [*names, "missing"] if read_effect(tmp_path / name)] == []
