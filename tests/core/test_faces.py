"""Face crops in torch equal insightface's, and gradients reach the pixels."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pvtool_core.faces.analyzer import TEMPLATE, align, align_differentiable, within_crop


def smooth_picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Return a picture (3, height, width) in [0, 1] without details of a few pixels."""
    coarse = torch.rand(
        1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed)
    )
    return nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]


def landmarks_at(scale: float, angle: float, x: float, y: float) -> Tensor:
    """Return the template's five points (5, 2), turned, scaled, moved, with small errors."""
    points = torch.tensor(TEMPLATE) - 56
    turn = torch.tensor(
        [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], dtype=torch.float32
    )
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)) * scale
    return points @ turn * scale + torch.tensor([x, y]) + noise


def pixels(picture: Tensor) -> np.ndarray:
    return (picture.permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.mark.parametrize("angle", [-0.4, 0.0, 0.3, 1.6, 3.0])
@pytest.mark.parametrize(
    ("size", "scale", "x", "y"),
    [
        ((64, 64), 0.3, 32, 30),  # a face in a small clip, enlarged
        ((64, 64), 0.5, 10, 20),  # partly outside the picture
        ((128, 96), 0.6, 48, 64),
        ((300, 400), 1.0, 200, 150),
        ((300, 400), 1.0, 395, 296),  # in a corner, mostly outside
        ((480, 832), 1.8, 30, 240),  # over the left border
        ((512, 512), 2.5, 256, 256),
        ((720, 640), 3.2, 320, 360),
        ((720, 640), 3.2, 600, 40),
    ],
)
def test_crops_with_a_gradient_equal_those_of_insightface(
    size: tuple[int, int], scale: float, angle: float, x: float, y: float
) -> None:
    picture = torch.from_numpy(pixels(smooth_picture(*size))).permute(2, 0, 1) / 255
    points = landmarks_at(scale, angle, x, y)
    theirs = align(pixels(picture), points.numpy()).astype(np.float32)
    ours = align_differentiable(picture[None], points[None])[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - theirs).mean() < 0.5
    assert np.abs(ours - theirs).max() < 8
    assert theirs.max() > 50, "the face is outside, so that nothing would be compared"


def test_each_frame_is_aligned_by_its_own_landmarks() -> None:
    frames = torch.stack([smooth_picture(64, 64, seed) for seed in (0, 1)])
    points = torch.stack([landmarks_at(0.3, 0.0, 32, 30), landmarks_at(0.4, 0.2, 28, 34)])
    together = align_differentiable(frames, points)
    alone = torch.cat([align_differentiable(frames[i : i + 1], points[i : i + 1]) for i in (0, 1)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=0.05)


def test_gradient_of_a_crop_is_limited_to_its_pixels() -> None:
    landmarks = torch.stack([landmarks_at(0.4, 0.3, 20, 10), landmarks_at(0.5, -0.2, 30, 25)])
    seen = within_crop(landmarks, 70, 90)
    assert seen.shape == (2, 70, 90)
    frames = torch.ones(2, 3, 70, 90, requires_grad=True)
    align_differentiable(frames, landmarks).sum().backward()
    assert frames.grad is not None
    shown = frames.grad[:, 0] > 0.5  # pixels at the edge of the crop have smaller weights
    assert (seen == shown).float().mean() > 0.97
    assert 0.05 < seen.float().mean() < 0.5
