"""Watermarks: they survive codecs and resizing, name the clip, and are not found by chance."""

import hashlib
import math

import numpy as np
import pytest

from pvtool_core.media.decode import Pixels
from pvtool_core.store.clip_watermark import ClipWatermark
from pvtool_core.watermark.payload import MOST_LIKELY_BY_CHANCE, Code, chance_of
from pvtool_core.watermark.spread_spectrum import LARGE, SMALL
from pvtool_core.watermark.watermark_methods import mark, read
from tests.support.watermark_attacks import ATTACKS, scene

KEY = "c0ffee1234567890abcdef0123456789"


@pytest.fixture(scope="module")
def marked() -> tuple[Pixels, ClipWatermark]:
    return mark(scene(1, 256, 4), "spread", KEY)


@pytest.mark.parametrize(
    "attack",
    ["none", "H.264 CRF 17", "H.264 CRF 28", "H.265 CRF 28", "gif", "crop 10 %", "half size"],
)
def test_a_mark_survives(marked: tuple[Pixels, ClipWatermark], attack: str) -> None:
    frames, watermark = marked
    found = read(ATTACKS[attack](frames))
    assert found is not None
    assert found.method == "spread"
    assert found.match.id == watermark.id == KEY[:6]
    assert found.match.chance <= MOST_LIKELY_BY_CHANCE


def test_a_mark_changes_pixels_little_and_always_in_the_same_way(
    marked: tuple[Pixels, ClipWatermark],
) -> None:
    again, _ = mark(scene(1, 256, 4), "spread", KEY)
    assert (again == marked[0]).all()
    assert marked[1].psnr > 37
    other, _ = mark(scene(1, 256, 4), "spread", "0" * 32)
    assert (other != again).any()


def test_a_mark_of_64_pixels_survives_usual_quality_and_half_size() -> None:
    for seed in range(3):
        frames, watermark = mark(scene(seed, 64), "spread", KEY)
        assert watermark.psnr > 30
        for attack in ("none", "H.264 CRF 17", "gif", "half size"):
            found = read(ATTACKS[attack](frames), crops=False)
            assert found is not None, (seed, attack)
            assert found.match.id == KEY[:3]


def test_marks_of_all_versions_can_be_read() -> None:
    """The patterns and the check bits are a contract with every clip that was ever marked."""
    place = np.arange(48 * 80, dtype=np.float32).reshape(48, 80)
    signs = [(layout.project(np.sin(place**1.5)) > 0).tobytes() for layout in (SMALL, LARGE)]
    bits = [layout.code.encode(layout.code.id_of(KEY)).tobytes() for layout in (SMALL, LARGE)]
    digest = hashlib.sha256(b"".join(signs + bits)).hexdigest()
    assert digest == "315cf73167b6668f0cde2be3388b69577552906abdc8e1d5399a7c60c99f80b7"


def test_unmarked_frames_have_no_mark() -> None:
    """The benchmark reads a thousand clips."""
    keys = [f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}" for number in range(1, 500)]
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    flat = np.full((2, 48, 80, 3), 128, np.uint8)
    for frames in (noise, flat, *(scene(seed, 64, 2) for seed in range(10))):
        assert read(frames, keys) is None


def test_a_damaged_mark_is_found_among_known_keys() -> None:
    code = Code("test", 24, 40)
    bits = code.encode(code.id_of(KEY))
    bits[[0, 5, 30, 50, 60]] ^= True  # two of its id, three of its check
    assert not code.decode(bits[None], tries=2).is_mark
    found = code.compare(bits[None], ["000000", code.id_of(KEY)], tries=2)
    assert found.id == code.id_of(KEY)
    assert (found.matching, found.compared) == (59, 64)
    assert found.is_mark


def test_the_probability_of_chance_is_binomial() -> None:
    assert chance_of(32, 32) == 2**-32
    assert chance_of(32, 31) == 33 / 2**32
    assert math.isclose(chance_of(256, 173), 1e-8, rel_tol=0.5)
    assert chance_of(8, 0) == 1
    draws = np.random.default_rng(0).integers(0, 2, (100_000, 16)).sum(axis=1)
    assert abs(float((draws >= 11).mean()) - chance_of(16, 11)) < 0.005
