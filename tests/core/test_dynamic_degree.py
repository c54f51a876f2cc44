"""Formulas of the dynamic degree, on cases computed by hand. test_judge_networks.py runs RAFT."""

import numpy as np
import pytest

from pvtool_core.evaluation.optical_flow import (
    dynamic_flag,
    dynamic_flow,
    kept_frames,
    mean_of_largest,
)


@pytest.mark.parametrize(
    ("fps", "kept"),
    [
        (6, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [0, 2, 4, 6, 8]),  # 1.5 is rounded to 2
        (16, [0, 2, 4, 6, 8]),
        (20, [0, 2, 4, 6, 8]),  # 2.5 is rounded to 2
        (24, [0, 3, 6]),
    ],
)
def test_frames_are_kept_at_about_8_per_second(fps: float, kept: list[int]) -> None:
    frames = np.arange(9, dtype=np.uint8)[:, None, None, None]
    assert kept_frames(frames, fps).ravel().tolist() == kept


def test_only_the_largest_lengths_count() -> None:
    """Two of 40 pixels are 5 %: those that move by 5 and 13 pixels, against 1 elsewhere."""
    flow = np.zeros((5, 8, 2), np.float32)
    flow[..., 0] = 1
    flow[1, 2], flow[4, 7] = (3, -4), (-5, 12)
    assert mean_of_largest(flow) == 9


def test_a_picture_of_few_pixels_counts_its_largest() -> None:
    flow = np.zeros((2, 2, 2), np.float32)
    flow[0, 1] = 2, 0
    assert mean_of_largest(flow) == 2


@pytest.mark.parametrize(
    ("kept", "moving", "flag"),
    [
        (16, 4, True),
        (16, 3, False),
        (17, 4, True),
        (21, 5, True),  # 5.25
        (21, 4, False),
        (10, 2, True),  # 2.5 is rounded to 2
        (14, 4, True),  # 3.5 is rounded to 4
        (14, 3, False),
        (2, 0, True),  # 0.5 is rounded to 0
        (3, 0, False),
    ],
)
def test_a_quarter_of_the_pairs_must_move(kept: int, moving: int, flag: bool) -> None:
    motion = np.full(kept - 1, 12.0)  # the limit at 512 pixels, which must be exceeded
    motion[:moving] = 12.001
    assert dynamic_flag(motion, kept, 512, 768) is flag


def test_limit_grows_with_the_shorter_side() -> None:
    motion = np.full(15, 3.0)
    assert dynamic_flag(motion, 16, 127, 300) is True
    assert dynamic_flag(motion, 16, 300, 127) is True
    assert dynamic_flag(motion, 16, 128, 300) is False


def test_flow_is_the_mean_of_all_pairs() -> None:
    assert dynamic_flow(np.array([1.0, 2.0, 6.0])) == 3


def test_one_frame_has_neither() -> None:
    nothing = np.array([])
    assert dynamic_flow(nothing) is None
    assert dynamic_flag(nothing, 1, 512, 512) is None
