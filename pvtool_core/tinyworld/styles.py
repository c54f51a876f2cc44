"""Drawing styles of the tiny world: the plain one of the preset, and a poster.

A style changes outlines and colours only, so that people, scenes, prompts and landmarks are the
same in all styles.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

INK = torch.tensor([0.10, 0.07, 0.13])
PAPER = torch.tensor([0.97, 0.90, 0.74])


@dataclass(frozen=True)
class Style:
    """A drawing style; the default is the plain one.

    Attributes:
        outline: width of the dark lines around head, hair, body and hand, in 64ths of the frame.
        bands: number of flat colours of a gradient; 0 draws it smoothly.
        paper: fraction of the paper's colour in the background.
    """

    outline: float = 0.0
    bands: int = 0
    paper: float = 0.0

    def shade(self, blend: Tensor) -> Tensor:
        """Return the position in a gradient, from 0 to 1, in the bands of the style."""
        if not self.bands:
            return blend
        return (blend * self.bands).floor().clamp_max(self.bands - 1) / (self.bands - 1)

    def on_paper(self, background: Tensor) -> Tensor:
        """Return a background `(pictures, 3, height, width)` mixed with the paper's colour."""
        if not self.paper:
            return background
        return background + self.paper * (PAPER.view(1, 3, 1, 1) - background)


PLAIN = Style()
POSTER = Style(outline=1.4, bands=3, paper=0.2)
