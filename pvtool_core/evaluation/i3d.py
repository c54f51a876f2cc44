"""Video features by I3D, for the Fréchet video distance.

I3D (Carreira & Zisserman 2017) is Inception-v1 inflated to 3D. The names of its weights are those
of `i3d_pretrained_400.pt`, the widely used conversion of DeepMind's network of Kinetics-400. As in
DeepMind's code, batch norm adds 0.001 to variances; the code distributed with the conversion
(VideoGPT, TATS) adds 0.00001, and gives slightly different features.
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pvtool_core.errors import InputRefused
from pvtool_core.media.decode import Pixels
from pvtool_core.tensor_files import fill, read_weights

CLASSES = 400
FEWEST_FRAMES = 10
"""Shorter clips have no features."""
_SIDE = 224
_VARIANCE_FLOOR = 1e-3
_HINT = "Fetch its weights with `pv models fetch i3d-kinetics-400`."

Size = tuple[int, int, int]
"""Frames, height and width."""


class VideoFeatures:
    """The 400 logits of I3D, before the softmax and averaged over time, in float32."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        """Load the weights. Raises InputRefused if the file does not contain those of I3D."""
        self._network = i3d()
        fill(self._network, read_weights(weights), weights, "I3D (Kinetics-400)", _HINT)
        self._network.eval().requires_grad_(False).to(device)
        self._device = device

    @torch.inference_mode()
    def features(self, frames: Pixels) -> NDArray[np.float32]:
        """Return the features (400,) of a clip (frames, height, width, 3).

        Frames are resized to 224 × 224 by bilinear interpolation without antialiasing, as in the
        usual implementations. Raises InputRefused for fewer than FEWEST_FRAMES frames.
        """
        if len(frames) < FEWEST_FRAMES:
            problem = f"Cannot compute I3D features of {len(frames)} frames."
            raise InputRefused(problem, f"Use clips of at least {FEWEST_FRAMES} frames.")
        pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        resized = [self._resize(picture) for picture in pictures]
        logits: Tensor = self._network(torch.stack(resized, 1)[None])
        return logits.mean((0, 2, 3, 4)).cpu().numpy()

    def _resize(self, picture: Tensor) -> Tensor:
        """Return a picture (3, 224, 224) in [-1, 1]."""
        picture = picture.to(self._device, torch.float32)[None]
        resized = functional.interpolate(picture, (_SIDE, _SIDE), mode="bilinear")
        return resized[0] / 127.5 - 1


def i3d() -> nn.Sequential:
    """Return I3D without trained weights.

    It maps clips (n, 3, frames, 224, 224) in [-1, 1] to logits (n, 400, time, 1, 1).
    """
    layers: list[tuple[str, nn.Module]] = [
        ("Conv3d_1a_7x7", Unit(3, 64, (7, 7, 7), (2, 2, 2))),
        ("MaxPool3d_2a_3x3", Pool((1, 3, 3), (1, 2, 2))),
        ("Conv3d_2b_1x1", Unit(64, 64)),
        ("Conv3d_2c_3x3", Unit(64, 192, (3, 3, 3))),
        ("MaxPool3d_3a_3x3", Pool((1, 3, 3), (1, 2, 2))),
        ("Mixed_3b", Mixed(192, 64, (96, 128), (16, 32), 32)),
        ("Mixed_3c", Mixed(256, 128, (128, 192), (32, 96), 64)),
        ("MaxPool3d_4a_3x3", Pool((3, 3, 3), (2, 2, 2))),
        ("Mixed_4b", Mixed(480, 192, (96, 208), (16, 48), 64)),
        ("Mixed_4c", Mixed(512, 160, (112, 224), (24, 64), 64)),
        ("Mixed_4d", Mixed(512, 128, (128, 256), (24, 64), 64)),
        ("Mixed_4e", Mixed(512, 112, (144, 288), (32, 64), 64)),
        ("Mixed_4f", Mixed(528, 256, (160, 320), (32, 128), 128)),
        ("MaxPool3d_5a_2x2", Pool((2, 2, 2), (2, 2, 2))),
        ("Mixed_5b", Mixed(832, 256, (160, 320), (32, 128), 128)),
        ("Mixed_5c", Mixed(832, 384, (192, 384), (48, 128), 128)),
        ("average", nn.AvgPool3d((2, 7, 7), stride=1)),
        ("logits", Logits(1024)),
    ]
    return nn.Sequential(OrderedDict(layers))


class Unit(nn.Module):
    """A convolution without bias, batch norm and ReLU, with TensorFlow's SAME padding."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Size = (1, 1, 1), stride: Size = (1, 1, 1)
    ) -> None:
        super().__init__()
        self._kernel, self._stride = kernel, stride
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=_VARIANCE_FLOOR)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (n, outputs, frames, height, width); sizes are divided by the stride."""
        return functional.relu(self.bn(self.conv3d(pad_same(maps, self._kernel, self._stride))))


class Pool(nn.Module):
    """A maximum with SAME padding; the padding of 0 is never larger than the maps after ReLU."""

    def __init__(self, kernel: Size, stride: Size) -> None:
        super().__init__()
        self._kernel, self._stride = kernel, stride

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (n, channels, frames, height, width); sizes are divided by the stride."""
        padded = pad_same(maps, self._kernel, self._stride)
        return functional.max_pool3d(padded, self._kernel, self._stride)


class Mixed(nn.Module):
    """Inception's module: four branches, concatenated.

    1 × 1 × 1; twice 1 × 1 × 1 and 3 × 3 × 3, of two widths each; a maximum and 1 × 1 × 1.
    """

    def __init__(
        self, inputs: int, first: int, second: tuple[int, int], third: tuple[int, int], fourth: int
    ) -> None:
        super().__init__()
        self.b0 = Unit(inputs, first)
        self.b1a, self.b1b = Unit(inputs, second[0]), Unit(*second, (3, 3, 3))
        self.b2a, self.b2b = Unit(inputs, third[0]), Unit(*third, (3, 3, 3))
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, fourth)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the concatenated maps, of the same size."""
        branches = (
            self.b0(maps),
            self.b1b(self.b1a(maps)),
            self.b2b(self.b2a(maps)),
            self.b3b(self.b3a(maps)),
        )
        return torch.cat(branches, 1)


class Logits(nn.Module):
    """The linear classifier of each point, as a convolution."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, CLASSES, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the logits, of the same size."""
        return self.conv3d(maps)


def pad_same(maps: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Return maps with TensorFlow's SAME padding: ceil(size / stride) results per axis.

    An odd margin is larger at the end.
    """
    margins: list[int] = []
    for size, width, step in zip(maps.shape[-3:], kernel, stride, strict=True):
        margin = max((-(-size // step) - 1) * step + width - size, 0)
        margins = [margin // 2, margin - margin // 2, *margins]  # functional.pad: last axis first
    return functional.pad(maps, margins)
