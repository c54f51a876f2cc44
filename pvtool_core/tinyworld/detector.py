"""Stage "detector": train a small SCRFD face detector and export it for insightface.

It has nine outputs: scores, boxes and landmarks at 3 strides.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from pvtool_core.tinyworld.crowd import Crowd
from pvtool_core.tinyworld.pictures import damaged
from pvtool_core.tinyworld.training import Losses, fit
from pvtool_core.tinyworld.world import draw_people, draw_scenes, still

SIDE = 128
STRIDES = (8, 16, 32)
ANCHORS = 2
LARGEST = (16.0, 26.0, 40.0, 58.0, 80.0, 1e9)
"""Largest box height in pixels of each anchor, two anchors per stride, the smaller one first."""
BATCH = 32


class Detector(nn.Module):
    """SCRFD for pictures `(n, 3, height, width)` in [−1, 1], RGB, with sides divisible by 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv(3, 16, 2), _conv(16, 32, 2), _conv(32, 32, 1), _conv(32, 48, 2), _conv(48, 48, 1)
        )
        self.middle = nn.Sequential(_conv(48, 64, 2), _conv(64, 64, 1))
        self.deep = nn.Sequential(_conv(64, 96, 2), _conv(96, 96, 1))
        self.inner = nn.ModuleList(nn.Conv2d(width, 48, 1) for width in (48, 64, 96))
        self.towers = nn.ModuleList(_conv(48, 48, 1) for _ in STRIDES)
        self.heads = nn.ModuleList(nn.Conv2d(48, ANCHORS * 15, 3, padding=1) for _ in STRIDES)
        for head in self.heads:
            bias: Any = head.bias
            nn.init.constant_(bias[:ANCHORS], -4.0)

    def levels(self, pictures: Tensor) -> list[Tensor]:
        """Return `(n, cells, anchors, 15)` for each stride.

        The 15 values are the score before the sigmoid, the box (4) and the landmarks (10), in
        strides.
        """
        first = self.stem(pictures)
        second = self.middle(first)
        third = self.deep(second)
        pyramid = [
            inner(each) for inner, each in zip(self.inner, (first, second, third), strict=True)
        ]
        for index in (1, 0):
            pyramid[index] = pyramid[index] + functional.interpolate(
                pyramid[index + 1], scale_factor=2.0, mode="nearest"
            )
        found: list[Tensor] = []
        for tower, head, each in zip(self.towers, self.heads, pyramid, strict=True):
            maps = head(tower(each))
            score, rest = maps[:, :ANCHORS], maps[:, ANCHORS:]
            score = score.permute(0, 2, 3, 1).flatten(1).unsqueeze(-1)
            rest = rest.permute(0, 2, 3, 1).reshape(score.shape[0], score.shape[1], 14)
            found.append(torch.cat([score, rest], -1).unflatten(1, (-1, ANCHORS)))
        return found

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Return scores, boxes and landmarks of one picture for strides 8, 16 and 32.

        These are the outputs of an exported SCRFD model.
        """
        found = [level.flatten(0, 2) for level in self.levels(pictures)]
        scores, boxes, points = (
            [each[:, :1].sigmoid() for each in found],
            [each[:, 1:5] for each in found],
            [each[:, 5:] for each in found],
        )
        return (*scores, *boxes, *points)


def _conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def train_detector(work: Path, crowds: list[Crowd], steps: int) -> Detector:
    """Train or resume on pictures with two, one or no face, scaled and placed at random."""
    detector = Detector()
    fit(
        "detector",
        work,
        detector,
        lambda generator: _losses(detector, crowds, generator),
        steps=steps,
        learning_rate=2e-3,
        ema=0.995,
    )
    return detector


def export_detector(detector: Detector, path: Path) -> None:
    """Export to ONNX with dynamic height and width."""
    names = [f"{kind}_{stride}" for kind in ("score", "bbox", "kps") for stride in STRIDES]
    torch.onnx.export(
        detector.eval(),
        (torch.zeros(1, 3, SIDE, SIDE),),
        str(path),
        input_names=["input"],
        output_names=names,
        dynamic_axes={
            "input": {2: "height", 3: "width"},
            **{name: {0: "anchors"} for name in names},
        },
        dynamo=False,
        opset_version=17,
    )


def box_of(landmarks: Tensor) -> Tensor:
    """Return the box `(..., 4)` of a head, from chin to hairline: left, top, right, bottom.

    `landmarks` are `(..., 5, 2)`.
    """
    eyes, mouth = landmarks[..., :2, :].mean(-2), landmarks[..., 3:, :].mean(-2)
    down = mouth - eyes
    middle, unit = eyes + down * (2.5 / 11.5), down.norm(dim=-1, keepdim=True) / 11.5
    half = torch.cat([13.0 * unit, 16.0 * unit], -1)
    return torch.cat([middle - half, middle + half], -1)


def _losses(detector: Detector, crowds: list[Crowd], generator: Generator) -> Losses:
    with torch.no_grad():
        canvases, faces = _canvases(crowds, generator)
        targets = _targets(faces)
    found = detector.levels(canvases * 2 - 1)
    score = torch.cat([level[..., 0].flatten(1) for level in found], 1)
    rest = torch.cat([level[..., 1:].flatten(1, 2) for level in found], 1)
    positive, negative = (
        targets[..., 0] > 0.5,
        targets[..., 0] < 0.5,
    )  # exactly 0.5: near a face, ignored
    chance = score.sigmoid()
    hit = -(0.9 * (1 - chance) ** 2 * functional.logsigmoid(score))[positive].sum()
    false = -(0.25 * chance**2 * functional.logsigmoid(-score))[negative].sum()
    near = functional.smooth_l1_loss(
        rest[positive], targets[..., 1:][positive], beta=0.1, reduction="none"
    )
    count = positive.sum().clamp_min(1)
    return {
        "score": 2 * (hit + false) / count,
        "box": near[:, :4].mean() if len(near) else score.sum() * 0,
        "landmarks": 6 * near[:, 4:].mean() if len(near) else score.sum() * 0,
    }


def _canvases(crowds: list[Crowd], generator: Generator) -> tuple[Tensor, list[Tensor]]:
    """Return pictures `(32, 3, 128, 128)` and the landmarks of the faces in each."""
    pictures, landmarks = _picked(crowds, 2 * BATCH, generator)
    canvases = _backdrops(generator)
    faces: list[Tensor] = []
    kind = torch.rand(BATCH, generator=generator)
    plain = torch.rand(BATCH, generator=generator) < 0.5
    for index in range(BATCH):
        here: list[Tensor] = []
        if kind[index] >= 0.85:
            for half in (0, 1):
                here.append(
                    _place(
                        canvases[index],
                        pictures[2 * index + half],
                        landmarks[2 * index + half],
                        0.5,
                        half,
                        generator,
                    )
                )
        elif kind[index] >= 0.15:
            here.append(
                _place(
                    canvases[index],
                    pictures[2 * index],
                    landmarks[2 * index],
                    1.0 if plain[index] else 0.0,
                    0,
                    generator,
                )
            )
        faces.append(torch.stack(here) if here else torch.zeros(0, 5, 2))
    return damaged(canvases, generator, share=0.5), faces


def _picked(crowds: list[Crowd], count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    pictures: list[Tensor] = []
    landmarks: list[Tensor] = []
    for crowd in crowds:
        share = count // len(crowds) + 1
        who = torch.randint(crowd.frames.shape[0], (share,), generator=generator)
        view = torch.randint(crowd.frames.shape[1], (share,), generator=generator)
        frames, scale = crowd.frames[who, view].float() / 255, SIDE / crowd.frames.shape[-1]
        pictures.append(
            functional.interpolate(frames, size=(SIDE, SIDE), mode="bilinear", antialias=scale < 1)
        )
        landmarks.append(crowd.landmarks[who, view] * scale)
    order = torch.randperm(sum(map(len, pictures)), generator=generator)[:count]
    return torch.cat(pictures)[order], torch.cat(landmarks)[order]


def _backdrops(generator: Generator) -> Tensor:
    """Return negatives: heads without features, strongly blurred pictures, noise, plain colours."""
    people, scenes = draw_people(BATCH, generator), draw_scenes(BATCH, generator)
    blank, _ = still(people, scenes, 0, features=False)
    kind = torch.randint(4, (BATCH, 1, 1, 1), generator=generator)
    tiny = functional.interpolate(
        still(people, scenes, 0)[0], size=(7, 7), mode="bilinear", antialias=True
    )
    blurred = functional.interpolate(tiny, size=(SIDE, SIDE), mode="bicubic")
    blank = functional.interpolate(blank, size=(SIDE, SIDE), mode="bilinear")
    noise = functional.interpolate(
        torch.rand(BATCH, 3, 32, 32, generator=generator), size=(SIDE, SIDE), mode="bilinear"
    )
    colour = torch.rand(BATCH, 3, 1, 1, generator=generator).expand_as(noise)
    return (
        torch.where(
            kind == 0, blurred, torch.where(kind == 1, noise, torch.where(kind == 2, colour, blank))
        )
        .clamp(0, 1)
        .contiguous()
    )


def _place(
    canvas: Tensor, picture: Tensor, landmarks: Tensor, size: float, half: int, generator: Generator
) -> Tensor:
    """Paste the picture and return its landmarks.

    The picture fills the canvas (`size` 1), its left or right half (0.5), or a random place at a
    random size (0).
    """
    low, high = (0.3, 0.5) if size == 0.5 else (0.3, 1.5)
    scale = 1.0 if size == 1.0 else low + (high - low) * float(torch.rand((), generator=generator))
    side = round(SIDE * scale)
    shown = functional.interpolate(
        picture[None], size=(side, side), mode="bilinear", antialias=True
    )[0]
    room = (SIDE // 2 if size == 0.5 else SIDE) - side
    left = round(room * float(torch.rand((), generator=generator))) + half * SIDE // 2
    top = round((SIDE - side) * float(torch.rand((), generator=generator)))
    x, y = max(left, 0), max(top, 0)
    inside = shown[:, y - top : SIDE - top, x - left : SIDE - left]
    canvas[:, y : y + inside.shape[1], x : x + inside.shape[2]] = inside
    return landmarks * scale + torch.tensor([left, top])


def _targets(faces: list[Tensor]) -> Tensor:
    """Return `(pictures, anchors, 15)`: score, then box and landmarks in strides.

    The score is 1 for a face, 0.5 near a face, 0 elsewhere.
    """
    grids = []
    for stride in STRIDES:
        axis = torch.arange(SIDE // stride) * float(stride)
        centers = (
            torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
            .reshape(-1, 1, 2)
            .expand(-1, ANCHORS, 2)
        )
        grids.append((centers.reshape(-1, 2), torch.arange(ANCHORS).repeat(len(centers)), stride))
    centers = torch.cat([each for each, _, _ in grids])
    strides = torch.cat([torch.full((len(each),), float(stride)) for each, _, stride in grids])
    anchor = torch.cat([which + 2 * level for level, (_, which, _) in enumerate(grids)])
    result = torch.zeros(len(faces), len(centers), 15)
    for target, points in zip(result, faces, strict=True):
        for face in points:
            box = box_of(face)
            middle, size = (box[:2] + box[2:]) / 2, float(box[3] - box[1])
            own = next(index for index, largest in enumerate(LARGEST) if size < largest)
            distance = (centers - middle).abs().amax(-1)
            near = (distance < 0.375 * size) & (
                (anchor - own).abs() <= 1
            )  # an eye is not a face of another size
            target[near & (target[:, 0] == 0), 0] = 0.5
            hit = (anchor == own) & (distance <= 0.75 * strides)
            offsets = torch.cat(
                [
                    centers - box[:2],
                    box[2:] - centers,
                    (face.unsqueeze(0) - centers.unsqueeze(1)).flatten(1),
                ],
                1,
            )
            target[hit] = torch.cat(
                [torch.ones(len(centers), 1), offsets / strides.unsqueeze(1)], 1
            )[hit]
    return result
