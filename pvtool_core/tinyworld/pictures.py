"""Training pictures of the judges: drawn ones, some blurred, shrunk, noised or recoloured."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

from pvtool_core.tinyworld.styles import PLAIN, Style
from pvtool_core.tinyworld.world import People, Scenes, draw_people, draw_scenes, still

Damage = Callable[[Tensor, Generator], Tensor]


def draw_stills(
    count: int, generator: Generator, people: People | None = None, style: Style = PLAIN
) -> tuple[People, Scenes, Tensor, Tensor]:
    """Draw random people in random scenes at random frames.

    Returns pictures `(count, 3, 64, 64)` and landmarks `(count, 5, 2)`.
    """
    people = draw_people(count, generator) if people is None else people
    scenes = draw_scenes(count, generator)
    frame = torch.randint(8, (count,), generator=generator)
    pictures, landmarks = still(people, scenes, frame, style=style)
    return people, scenes, pictures, landmarks


def damaged(pictures: Tensor, generator: Generator, share: float = 0.6) -> Tensor:
    """Degrade a `share` of the pictures mildly, each in one way, like a diffusion model's flaws."""
    result = pictures.clone()
    which = torch.rand(len(pictures), generator=generator)
    kinds: tuple[Damage, ...] = (_noised, _blurred, _shrunk, _recoloured)
    for index, kind in enumerate(kinds):
        hit = (which >= share * index / len(kinds)) & (which < share * (index + 1) / len(kinds))
        if hit.any():
            result[hit] = kind(pictures[hit], generator)
    return result.clamp(0, 1)


def _noised(pictures: Tensor, generator: Generator) -> Tensor:
    strength = 0.12 * torch.rand(len(pictures), 1, 1, 1, generator=generator)
    coarse = torch.randn(
        len(pictures), 3, pictures.shape[-2] // 2, pictures.shape[-1] // 2, generator=generator
    )
    return pictures + strength * functional.interpolate(
        coarse, size=pictures.shape[-2:], mode="bilinear"
    )


def _blurred(pictures: Tensor, generator: Generator) -> Tensor:
    width = 0.4 + 0.8 * float(torch.rand((), generator=generator))
    axis = torch.arange(-3.0, 4.0)
    kernel = torch.exp(-0.5 * (axis / width) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, 7).expand(3, 1, 1, 7)
    padded = functional.pad(pictures, (3, 3, 3, 3), mode="replicate")
    return functional.conv2d(
        functional.conv2d(padded, kernel, groups=3), kernel.transpose(-1, -2), groups=3
    )


def _shrunk(pictures: Tensor, generator: Generator) -> Tensor:
    size = pictures.shape[-1]
    small = int(torch.randint(size // 2, size, (), generator=generator))
    down = functional.interpolate(pictures, size=(small, small), mode="bilinear", antialias=True)
    return functional.interpolate(down, size=(size, size), mode="bicubic")


def _recoloured(pictures: Tensor, generator: Generator) -> Tensor:
    shape = (len(pictures), 1, 1, 1)
    contrast, brightness = (
        1 + 0.25 * (2 * torch.rand(shape, generator=generator) - 1) for _ in range(2)
    )
    mean = pictures.mean((1, 2, 3), keepdim=True)
    return (mean + contrast * (pictures - mean)) * brightness
