"""Stages "reward" and "metric": train two ArcFace recognisers, one of them held out.

They share no weights, layout or random numbers: one is the identity reward, the other is used for
evaluation only. Both have one more class for crops without a face, so that a washed-out head is
similar to no identity.
"""

import math
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from pvtool_core.faces.analyzer import align_differentiable
from pvtool_core.tinyworld.crowd import IDENTITIES, Crowd
from pvtool_core.tinyworld.pictures import damaged
from pvtool_core.tinyworld.training import Losses, fit
from pvtool_core.tinyworld.world import draw_people, draw_scenes, still

WIDTH = 128
BATCH, JUNK = 56, 8
MARGIN, SCALE = 0.25, 20.0
LANDMARK_NOISE = 0.012
"""Standard deviation of a detector's landmark error, as a fraction of the frame's side."""


class _Block(nn.Module):
    """IResNet block: batch norm first, PReLU between two convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.side = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, maps: Tensor) -> Tensor:
        return self.body(maps) + self.side(maps)


def new_recognizer(name: str) -> nn.Module:
    """Return a model from crops `(n, 3, 112, 112)` in [−1, 1] to embeddings `(n, 128)`.

    The embeddings are not normalised. `reward` is an IResNet with a fully connected last layer;
    `metric` is wider, with ReLU and average pooling.
    """
    if name == "reward":
        stem = [nn.Conv2d(3, 24, 5, 4, 2, bias=False), nn.BatchNorm2d(24), nn.PReLU(24)]
        blocks = [_Block(24, 32, 1), _Block(32, 48, 2), _Block(48, 96, 2)]
        end = [nn.BatchNorm2d(96), nn.Flatten(), nn.Linear(96 * 49, WIDTH), nn.BatchNorm1d(WIDTH)]
        return nn.Sequential(*stem, *blocks, *end)
    layers: list[nn.Module] = []
    widths = (
        (3, 16, 2),
        (16, 32, 2),
        (32, 48, 1),
        (48, 64, 2),
        (64, 64, 1),
        (64, 128, 2),
        (128, 192, 1),
    )
    for inputs, outputs, stride in widths:
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(
        *layers,
        nn.Conv2d(192, 48, 1),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48 * 49, WIDTH),
    )


class _Classifier(nn.Module):
    """ArcFace head: an angular margin between identities, and one more class for non-faces."""

    def __init__(self, recognizer: nn.Module) -> None:
        super().__init__()
        self.recognizer = recognizer
        self.centers = nn.Parameter(torch.randn(IDENTITIES + 1, WIDTH))

    def loss(self, crops: Tensor, labels: Tensor) -> Tensor:
        embeddings = functional.normalize(self.recognizer(crops * 2 - 1), dim=-1)
        cosine = (embeddings @ functional.normalize(self.centers, dim=-1).T).clamp(
            -1 + 1e-6, 1 - 1e-6
        )
        own = cosine.gather(1, labels[:, None])
        with_margin = own * math.cos(MARGIN) - (1 - own.square()).sqrt() * math.sin(MARGIN)
        logits = cosine.scatter(
            1,
            labels[:, None],
            torch.where(own > math.cos(math.pi - MARGIN), with_margin, own - MARGIN**2),
        )
        return functional.cross_entropy(SCALE * logits, labels)


def train_recognizer(name: str, work: Path, crowds: list[Crowd], steps: int) -> nn.Module:
    """Train or resume the recogniser `reward` or `metric`."""
    torch.manual_seed(len(name) * 17 + ord(name[0]))
    model = _Classifier(new_recognizer(name))

    def losses(generator: Generator) -> Losses:
        with torch.no_grad():
            crops, labels = _batch(crowds, generator)
        return {"arcface": model.loss(crops, labels)}

    fit(name, work, model, losses, steps=steps, learning_rate=2e-3, ema=0.995, weight_decay=5e-4)
    return model.recognizer


def export_recognizer(recognizer: nn.Module, path: Path) -> None:
    """Export to ONNX like insightface's ArcFace models: one 112 × 112 input, one embedding."""
    axes = {"input": {0: "batch"}, "embedding": {0: "batch"}}
    torch.onnx.export(
        recognizer.eval(),
        (torch.zeros(1, 3, 112, 112),),
        str(path),
        input_names=["input"],
        output_names=["embedding"],
        dynamic_axes=axes,
        dynamo=False,
        opset_version=17,
    )


def _batch(crowds: list[Crowd], generator: Generator) -> tuple[Tensor, Tensor]:
    crops: list[Tensor] = []
    labels: list[Tensor] = []
    for crowd in crowds:
        share = BATCH // len(crowds)
        who = torch.randint(crowd.frames.shape[0], (share,), generator=generator)
        view = torch.randint(crowd.frames.shape[1], (share,), generator=generator)
        crops.append(
            aligned(crowd.frames[who, view].float() / 255, crowd.landmarks[who, view], generator)
        )
        labels.append(who)
    junk = _junk(generator)
    crops.append(junk)
    labels.append(torch.full((len(junk),), IDENTITIES))
    return torch.cat(crops), torch.cat(labels)


def aligned(frames: Tensor, landmarks: Tensor, generator: Generator, harm: bool = True) -> Tensor:
    """Crop frames, some of them `damaged`, by landmarks with a random error.

    Returns `(n, 3, 112, 112)`.
    """
    if harm:
        frames = damaged(frames, generator)
        landmarks = landmarks + LANDMARK_NOISE * frames.shape[-1] * torch.randn(
            landmarks.shape, generator=generator
        )
    return align_differentiable(frames, landmarks)


def _junk(generator: Generator) -> Tensor:
    """Return crops of heads without features, of faces blurred to a smear, and beside faces."""
    people, scenes = draw_people(JUNK, generator), draw_scenes(JUNK, generator)
    blank, landmarks = still(people, scenes, 0, features=False)
    smear, _ = still(people, scenes, 0)
    smear = functional.interpolate(
        functional.interpolate(smear, size=(8, 8), mode="bilinear", antialias=True),
        size=(64, 64),
        mode="bicubic",
    )
    kind = torch.randint(4, (JUNK, 1, 1, 1), generator=generator)
    frames = torch.where(
        kind == 0,
        smear.clamp(0, 1),
        torch.where(kind == 1, torch.rand(JUNK, 3, 64, 64, generator=generator), blank),
    )
    beside = (
        (kind == 3).view(-1, 1, 1) * 22.0 * torch.sign(torch.randn(JUNK, 1, 2, generator=generator))
    )
    return align_differentiable(damaged(frames, generator, share=0.3), landmarks + beside)


@torch.no_grad()
def verification(recognizer: nn.Module, first: Tensor, second: Tensor) -> dict[str, float]:
    """Return the mean cosine of the same person, of different people, and the area under the curve.

    Two crops of each person are compared.
    """
    one, two = (functional.normalize(recognizer(each * 2 - 1), dim=-1) for each in (first, second))
    similarity = one @ two.T
    same = similarity.diagonal()
    others = similarity[~torch.eye(len(same), dtype=torch.bool)]
    area = (same[:, None] > others[None]).float().mean()
    return {"same": float(same.mean()), "different": float(others.mean()), "area": float(area)}
