"""The networks of the judges in full size, each with random weights once.

Each test states what it costs on one core, so that the sum stays in view.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models.optical_flow import raft_large

from pvtool_core.errors import InputRefused
from pvtool_core.evaluation.optical_flow import OpticalFlow
from pvtool_core.media.decode import Pixels

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
    """Compares two pairs of three frames kept from five, padded from 130 × 133. Costs 5 s."""
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
