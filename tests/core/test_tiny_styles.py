"""The second style of the tiny world: posters."""

import numpy as np
import torch
from torch import Tensor

from pvtool_core.faces.analyzer import FaceAnalyzer
from pvtool_core.paths import presets_dir
from pvtool_core.tinyworld.styles import INK, PLAIN, POSTER, Style
from pvtool_core.tinyworld.world import draw_people, draw_scenes, still

TINY = presets_dir() / "tiny"


def drawn(style: Style, size: int = 64) -> tuple[Tensor, Tensor]:
    people = draw_people(6, torch.Generator().manual_seed(9_700_000))
    scenes = draw_scenes(6, torch.Generator().manual_seed(1))
    return still(people, scenes, 2, size=size, style=style)


def inked(pictures: Tensor) -> float:
    """Return the fraction of pixels with the colour of outlines."""
    return float(((pictures - INK.view(3, 1, 1)).abs().amax(1) < 0.1).float().mean())


def test_a_poster_shows_the_same_people_and_the_detector_finds_their_faces() -> None:
    (plain, where), (poster, landmarks) = drawn(PLAIN), drawn(POSTER)
    assert torch.equal(poster, drawn(POSTER)[0])
    assert torch.equal(landmarks, where)
    assert inked(poster) > inked(plain) + 0.02
    analyzer = FaceAnalyzer(TINY / "faces", "det_tiny.onnx", (), 128, 0.5, threads=1)
    for picture, points in zip(poster, landmarks, strict=True):
        (face,) = analyzer.detect((picture.permute(1, 2, 0) * 255).round().byte().numpy())
        assert np.abs(face.landmarks - points.numpy()).max() < 4
