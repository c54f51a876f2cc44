"""The networks of the judges in full size, each with random weights once.

Each test states what it costs on one core, so that the sum stays in view.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.optical_flow import raft_large

from pvtool_core.errors import InputRefused
from pvtool_core.evaluation.i3d import VideoFeatures, i3d, pad_same
from pvtool_core.evaluation.optical_flow import OpticalFlow
from pvtool_core.media.decode import Pixels
from pvtool_core.open_clip_model import ImageText
from pvtool_core.settings.schema import SemanticRewardConfig

CPU = torch.device("cpu")


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def raft(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, OpticalFlow, Path]:
    """Return torchvision's network, ours with its weights, and their file."""
    torch.manual_seed(0)
    network = raft_large(weights=None).eval()
    path = tmp_path_factory.mktemp("raft") / "raft.pth"
    torch.save(network.state_dict(), path)
    return network, OpticalFlow(path, CPU), path


@torch.no_grad()
def flow_of(network: nn.Module, first: Pixels, second: Pixels) -> NDArray[np.float32]:
    """Return the flow (height, width, 2) of frames whose sides are multiples of 8."""
    pair = [torch.from_numpy(2 * (each / 255.0) - 1).float() for each in (first, second)]
    flows: Any = network(*(each.permute(2, 0, 1)[None] for each in pair), num_flow_updates=20)
    return flows[-1][0].permute(1, 2, 0).numpy()


def test_largest_motion_equals_numpy_on_the_flow_of_raft(raft: Any) -> None:
    """Compares two pairs of three frames kept from five, padded from 130 × 133. Costs 3 s."""
    network, ours, _ = raft
    frames = noise(5, 130, 133, 3)
    expected: list[float] = []
    for first, second in ((0, 2), (2, 4)):
        padded = np.pad(frames[[first, second]], ((0, 0), (3, 3), (1, 2), (0, 0)), mode="edge")
        flow = flow_of(network, *padded)[3:133, 1:134]
        lengths = sorted(np.hypot(flow[..., 0], flow[..., 1]).ravel(), reverse=True)
        expected.append(float(np.mean(lengths[: int(130 * 133 * 0.05)], dtype=np.float64)))
    motion = ours.largest_motion(frames, fps=16)
    assert motion == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0.1
    assert expected[0] != pytest.approx(expected[1], rel=1e-3)


def test_flow_of_small_frames_is_that_of_enlarged_ones(raft: Any) -> None:
    """Compares frames of 48 × 56 with those of 144 × 168. Costs 3 s."""
    network, ours, _ = raft
    frames = noise(2, 48, 56, 3)
    large = np.kron(frames, np.ones((1, 3, 3, 1), np.uint8))
    expected = flow_of(network, *large).reshape(48, 3, 56, 3, 2).mean((1, 3)) / 3
    flow = ours.flow(*frames)
    assert flow.shape == (48, 56, 2)
    assert np.allclose(flow, expected, atol=1e-4)
    assert np.abs(expected).max() > 0.1


def test_weights_of_another_network_are_refused_as_raft(raft: Any, tmp_path: Path) -> None:
    weights = dict(raft[0].state_dict())
    changed = {**weights, "update_block.extra": torch.zeros(1)}
    torch.save(changed, tmp_path / "raft.pth")
    problem = r"raft\.pth does not contain the weights of RAFT \(large\): it also has update_block"
    with pytest.raises(InputRefused, match=problem) as refusal:
        OpticalFlow(tmp_path / "raft.pth", CPU)
    assert "pv models fetch raft-large" in refusal.value.hint


def test_weights_without_counters_of_training_are_complete(raft: Any, tmp_path: Path) -> None:
    weights = raft[0].state_dict()
    kept = {name: value for name, value in weights.items() if "num_batches" not in name}
    assert len(kept) < len(weights)
    torch.save(kept, tmp_path / "raft.pth")
    OpticalFlow(tmp_path / "raft.pth", CPU)


MIXED = {  # inputs, and widths of the branches b0, b1a, b1b, b2a, b2b and b3b
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def i3d_convolutions() -> dict[str, tuple[int, int, int]]:
    """Return outputs, inputs and kernel side by name, from the public layout (pytorch-i3d)."""
    found = {"Conv3d_1a_7x7": (64, 3, 7), "Conv3d_2b_1x1": (64, 64, 1)}
    found["Conv3d_2c_3x3"] = (192, 64, 3)
    for name, (inputs, b0, b1a, b1b, b2a, b2b, b3b) in MIXED.items():
        branches = {"b0": (b0, inputs, 1), "b1a": (b1a, inputs, 1), "b1b": (b1b, b1a, 3)}
        branches |= {"b2a": (b2a, inputs, 1), "b2b": (b2b, b2a, 3), "b3b": (b3b, inputs, 1)}
        found |= {f"Mixed_{name}.{branch}": sizes for branch, sizes in branches.items()}
    return found


@pytest.fixture(scope="module")
def i3d_weights() -> dict[str, Tensor]:
    """Return random weights of the public layout: without counters, as the converted file."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}
    for name, (outputs, inputs, side) in i3d_convolutions().items():
        scale = math.sqrt(2 / (inputs * side**3))
        kernel = torch.randn(outputs, inputs, side, side, side, generator=generator)
        weights[f"{name}.conv3d.weight"] = scale * kernel
        for each in ("weight", "bias", "running_mean", "running_var"):
            shift = float(each in ("weight", "running_var"))
            noise = torch.rand(outputs, generator=generator)
            weights[f"{name}.bn.{each}"] = 0.5 * noise + 0.75 * shift
    weights["logits.conv3d.weight"] = torch.randn(400, 1024, 1, 1, 1, generator=generator)
    weights["logits.conv3d.bias"] = torch.randn(400, generator=generator)
    return weights


def test_i3d_has_the_names_and_shapes_of_the_public_file(i3d_weights: dict[str, Tensor]) -> None:
    state = {
        name: tensor.shape
        for name, tensor in i3d().state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert state == {name: tensor.shape for name, tensor in i3d_weights.items()}
    assert len(state) == 57 * 5 + 2
    assert sum(parameter.numel() for parameter in i3d().parameters()) == 12_697_264


def test_features_equal_a_second_implementation_of_i3d(
    i3d_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    """Compares a clip of 10 frames. Costs 3 s."""
    torch.save(i3d_weights, tmp_path / "i3d.pt")
    frames = noise(10, 40, 56, 3)
    features = VideoFeatures(tmp_path / "i3d.pt", CPU).features(frames)
    assert features.shape == (400,)
    scaled = 2 * torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255 - 1
    clip = functional.interpolate(scaled, (224, 224), mode="bilinear", align_corners=False)
    expected = logits_of(clip[None], i3d_weights)
    assert np.allclose(features, expected, atol=1e-3 * float(expected.std()))
    assert expected.std() > 0.1


@torch.no_grad()
def logits_of(clip: Tensor, weights: Mapping[str, Tensor]) -> NDArray[np.float32]:
    """Return I3D's logits (400,) of a clip (1, 3, frames, 224, 224), branch by branch."""

    def unit(name: str, maps: Tensor, step: int = 1) -> Tensor:
        kernel = weights[f"{name}.conv3d.weight"]
        maps = functional.conv3d(same(maps, [kernel.shape[-1]] * 3, [step] * 3), kernel, None, step)
        mean, variance, scale, shift = (
            weights[f"{name}.bn.{each}"][:, None, None, None]
            for each in ("running_mean", "running_var", "weight", "bias")
        )
        return ((maps - mean) / (variance + 1e-3).sqrt() * scale + shift).clamp(min=0)

    def pool(maps: Tensor, kernel: list[int], steps: list[int]) -> Tensor:
        return functional.max_pool3d(same(maps, kernel, steps), kernel, steps)

    maps = pool(unit("Conv3d_1a_7x7", clip, 2), [1, 3, 3], [1, 2, 2])
    maps = unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", maps))
    before = {"3b": ([1, 3, 3], [1, 2, 2]), "4b": ([3] * 3, [2] * 3), "5b": ([2] * 3, [2] * 3)}
    for each in MIXED:
        name = f"Mixed_{each}"
        maps = pool(maps, *before[each]) if each in before else maps
        third = unit(f"{name}.b2b", unit(f"{name}.b2a", maps))
        second = unit(f"{name}.b1b", unit(f"{name}.b1a", maps))
        fourth = unit(f"{name}.b3b", pool(maps, [3] * 3, [1] * 3))
        maps = torch.cat([unit(f"{name}.b0", maps), second, third, fourth], 1)
    times = maps[0].mean((-2, -1))  # each pair of neighbours is averaged, then all pairs
    pairs = (times[:, 1:] + times[:, :-1]) / 2
    classes = weights["logits.conv3d.weight"][..., 0, 0, 0]
    return (classes @ pairs.mean(1) + weights["logits.conv3d.bias"]).numpy()


def same(maps: Tensor, kernel: list[int], steps: list[int]) -> Tensor:
    """Pad as TensorFlow documents SAME."""
    for axis, (width, step) in enumerate(zip(kernel, steps, strict=True), 2):
        size = maps.shape[axis]
        total = max(width - (step if size % step == 0 else size % step), 0)
        ends = [list(maps.shape) for _ in range(2)]
        ends[0][axis], ends[1][axis] = total // 2, total - total // 2
        maps = torch.cat([torch.zeros(ends[0]), maps, torch.zeros(ends[1])], axis)
    return maps


def test_padding_of_an_even_and_an_odd_margin() -> None:
    """An axis of 5 with kernel 3 gets 1 and 1 at stride 2, and one of 6 gets 0 and 1."""
    maps = torch.ones(1, 1, 5, 6, 4)
    padded = pad_same(maps, (3, 3, 1), (2, 2, 2))
    assert padded.shape == (1, 1, 7, 7, 4)
    assert padded[0, 0, :, 0, 0].tolist() == [0, 1, 1, 1, 1, 1, 0]
    assert padded[0, 0, 1, :, 0].tolist() == [1, 1, 1, 1, 1, 1, 0]


def test_short_clips_have_no_features(i3d_weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(i3d_weights, tmp_path / "i3d.pt")
    with pytest.raises(InputRefused, match="I3D features of 9 frames") as refusal:
        VideoFeatures(tmp_path / "i3d.pt", CPU).features(noise(9, 16, 16, 3))
    assert refusal.value.hint == "Use clips of at least 10 frames."


def test_weights_of_another_network_are_refused_as_i3d(
    i3d_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    """600 classes, as those of Kinetics-600."""
    changed = {**i3d_weights, "logits.conv3d.weight": torch.zeros(600, 1024, 1, 1, 1)}
    torch.save(changed, tmp_path / "i3d.pt")
    problem = r"its logits\.conv3d\.weight is 600 × 1024 × 1 × 1 × 1 and not 400 × 1024"
    with pytest.raises(InputRefused, match=problem):
        VideoFeatures(tmp_path / "i3d.pt", CPU)


def test_clip_of_a_folder_equals_open_clip(tmp_path: Path) -> None:
    """Compares ViT-B-32 with QuickGELU, as registered. ViT-L-14 would cost 13 s, this costs 3 s."""
    torch.manual_seed(0)
    name = "ViT-B-32-quickgelu"
    reference: Any = open_clip.create_model(name, load_weights=False).eval()
    save_model(reference, str(tmp_path / "open_clip_model.safetensors"))
    preparation = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD}
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": preparation}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    reader = ImageText(SemanticRewardConfig(model=str(tmp_path)), CPU)
    pictures = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = functional.normalize(reference.encode_image(pictures), dim=-1)
        words = open_clip.get_tokenizer(name)(["a red coat"])
        text = functional.normalize(reference.encode_text(words), dim=-1)[0]
        assert torch.allclose(reader.of_pictures(pictures), expected, atol=1e-5)
    assert torch.allclose(reader.of_text("a red coat"), text, atol=1e-5)
    assert reader.side == 224
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)
