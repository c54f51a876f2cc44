"""Likeness of a clip: its definitions, and the faces of the tiny preset's samples."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvtool_core.errors import InputRefused
from pvtool_core.faces.analyzer import FaceAnalyzer, align
from pvtool_core.faces.likeness import Likeness, measure_likeness, read_reference, spaced
from pvtool_core.paths import presets_dir

TINY = presets_dir() / "tiny"
RECOGNIZER = "rec_metric.onnx"


@pytest.fixture(scope="module")
def analyzer() -> FaceAnalyzer:
    return FaceAnalyzer(TINY / "faces", "det_tiny.onnx", [RECOGNIZER], 128, 0.5, threads=1)


def sample(name: str) -> np.ndarray:
    return np.asarray(Image.open(TINY / f"samples/{name}.png").convert("RGB"))


def test_frame_without_a_face_counts_as_zero() -> None:
    likeness = Likeness((0, 4, 8), (0.6, None, 0.3), fps=8)
    assert likeness.mean == pytest.approx(0.3)
    assert likeness.mean_found == pytest.approx(0.45)
    assert likeness.face_share == pytest.approx(2 / 3)
    worst = likeness.worst
    assert (worst.frame, worst.time, worst.value) == (4, 0.5, 0)


def test_negative_cosine_is_worse_than_no_face() -> None:
    assert Likeness((0, 1), (None, -0.1), fps=8).worst.value == -0.1


def test_clip_without_a_face_has_no_mean_over_faces() -> None:
    likeness = Likeness((0, 1), (None, None), fps=8)
    assert (likeness.mean, likeness.mean_found, likeness.face_share) == (0, None, 0)


def test_scored_frames_are_evenly_spaced_and_include_both_ends() -> None:
    assert spaced(16, 0) == spaced(16, 16) == spaced(16, 99) == tuple(range(16))
    assert spaced(49, 4) == (0, 16, 32, 48)
    assert spaced(9, 1) == (4,)


def test_likeness_is_the_cosine_with_the_mean_of_the_identitys_photos(
    analyzer: FaceAnalyzer, tmp_path: Path
) -> None:
    ada, ben = sample("ada-woman"), sample("ben-man")
    crops = [align(picture, analyzer.detect(picture)[0].landmarks) for picture in (ada, ben)]
    (tmp_path / "faces").mkdir()
    for number, crop in enumerate(crops):
        Image.fromarray(crop).save(tmp_path / f"faces/00{number}.png")
    reference = read_reference(analyzer, tmp_path, RECOGNIZER)
    assert np.linalg.norm(reference.mean) == pytest.approx(1)
    frames = np.stack([ada, ben, np.zeros_like(ada)])
    likeness = measure_likeness(analyzer, RECOGNIZER, frames, reference.mean, fps=2)
    expected = (analyzer.embed(crops, RECOGNIZER) @ reference.mean).tolist()
    assert likeness.cosines == (pytest.approx(expected[0]), pytest.approx(expected[1]), None)
    assert likeness.worst.time == 1


def test_identity_without_face_crops_is_refused(analyzer: FaceAnalyzer, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="No face crops found"):
        read_reference(analyzer, tmp_path, RECOGNIZER)
