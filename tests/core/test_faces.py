"""Faces in torch are the faces of insightface: same crops, same embeddings, and a gradient that reaches the pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pvtool_core.faces import TEMPLATE, align, align_differentiable, load_recognizer, within_crop


def smooth_picture(height: int, width: int, seed: int = 0) -> Tensor:
    """A picture (3, height, width) in [0, 1] without detail finer than a few pixels, as photos are."""
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]


def landmarks_at(scale: float, angle: float, x: float, y: float) -> Tensor:
    """The template's five points (5, 2), turned, scaled, moved, and each a little off."""
    points = torch.tensor(TEMPLATE) - 56
    turn = torch.tensor([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], dtype=torch.float32)
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)) * scale
    return points @ turn * scale + torch.tensor([x, y]) + noise


def pixels(picture: Tensor) -> np.ndarray:
    return (picture.permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.mark.parametrize(
    ("size", "scale", "angle", "x", "y"),
    [
        ((64, 64), 0.3, 0.1, 32, 30),  # a face in a small clip, scaled up
        ((64, 64), 0.5, -0.4, 10, 20),  # reaching out of the picture
        ((300, 400), 1.0, 0.3, 200, 150),
        ((512, 512), 2.5, -0.2, 256, 256),
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


def test_each_frame_is_aligned_by_its_own_landmarks() -> None:
    frames = torch.stack([smooth_picture(64, 64, seed) for seed in (0, 1)])
    points = torch.stack([landmarks_at(0.3, 0.0, 32, 30), landmarks_at(0.4, 0.2, 28, 34)])
    together = align_differentiable(frames, points)
    alone = torch.cat([align_differentiable(frames[i : i + 1], points[i : i + 1]) for i in (0, 1)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=0.05)


class SmallRecognizer(nn.Module):
    """The layers of ArcFace's iresnet, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, padding=1),
            nn.BatchNorm2d(8),
            nn.PReLU(8),
            nn.Conv2d(8, 16, 3, stride=4, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.Flatten(),
            nn.Linear(16 * 49, 32),
            nn.BatchNorm1d(32),
        )

    def forward(self, crops: Tensor) -> Tensor:
        return self.layers(crops)


def test_what_lies_within_a_crop_is_what_the_crop_shows() -> None:
    landmarks = torch.stack([landmarks_at(0.4, 0.3, 20, 10), landmarks_at(0.5, -0.2, 30, 25)])
    seen = within_crop(landmarks, 70, 90)
    assert seen.shape == (2, 70, 90)
    frames = torch.ones(2, 3, 70, 90, requires_grad=True)
    align_differentiable(frames, landmarks).sum().backward()
    assert frames.grad is not None
    shown = frames.grad[:, 0] > 0.5  # a pixel at the edge of the crop counts for a part of one
    assert (seen == shown).float().mean() > 0.97
    assert 0.05 < seen.float().mean() < 0.5


@pytest.fixture
def recognizer_onnx(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = SmallRecognizer()
    for _ in range(20):  # so that the batch norms have statistics of their own
        model(torch.randn(16, 3, 112, 112))
    path = tmp_path / "rec.onnx"
    options: dict[str, Any] = {"input_names": ["input"], "output_names": ["embedding"], "dynamo": False}
    options["dynamic_axes"] = {"input": {0: "batch"}, "embedding": {0: "batch"}}
    torch.onnx.export(model.eval(), (torch.zeros(1, 3, 112, 112),), str(path), **options)
    return path


def test_a_recogniser_in_torch_sees_what_the_one_in_onnxruntime_sees(recognizer_onnx: Path) -> None:
    import onnxruntime

    crops = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(recognizer_onnx, providers=["CPUExecutionProvider"])
    theirs = torch.from_numpy(session.run(None, {"input": ((crops - 0.5) / 0.5).numpy()})[0])
    ours = load_recognizer(recognizer_onnx)((crops - 0.5) / 0.5)
    assert torch.cosine_similarity(ours, theirs).min() > 1 - 1e-4


def test_a_recogniser_in_torch_is_frozen_and_lets_gradients_through_to_the_pixels(recognizer_onnx: Path) -> None:
    recognizer = load_recognizer(recognizer_onnx)
    assert not recognizer.training
    assert not any(parameter.requires_grad for parameter in recognizer.parameters())
    frames = smooth_picture(64, 64)[None].requires_grad_()
    crops = align_differentiable(frames, landmarks_at(0.3, 0.1, 32, 30)[None])
    recognizer((crops - 0.5) / 0.5)[0, 0].backward()
    assert frames.grad is not None
    assert frames.grad.abs().sum() > 0
