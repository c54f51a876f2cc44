"""Seeds of further tries never equal those of planned clips or of other tries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtool_core.batches.seed_tries import further_try, is_settled, seed_step
from pvtool_core.errors import UsageError
from pvtool_core.settings.jobs import RenderItem, TriesConfig
from pvtool_core.store.clip_likeness import ClipLikeness, Try, WorstFrame


@given(seeds=st.sets(st.integers(0, 10**15), min_size=1, max_size=9), most=st.integers(1, 9))
def test_every_try_has_its_own_seed(seeds: set[int], most: int) -> None:
    step = seed_step(max(seeds), most)
    clips = [RenderItem(identity="ann", prompt="", seed=seed, clip="a/b") for seed in seeds]
    tries = [further_try(clip, number, step).seed for clip in clips for number in range(most)]
    assert len(set(tries)) == len(tries)


def test_tries_are_beside_their_clip() -> None:
    item = RenderItem(identity="ann", prompt="", seed=3, clip="out/ann/runs-1234/seed-000003")
    following = further_try(item, 2, seed_step(3, 4))
    assert (following.seed, following.clip) == (2000003, "out/ann/runs-1234/seed-2000003")


def test_seeds_that_leave_no_room_for_tries_are_refused() -> None:
    with pytest.raises(UsageError, match="too large for 99 tries"):
        seed_step(10**17, 99)


@pytest.mark.parametrize(
    ("means", "settled"), [([0.5], True), ([0.4], False), ([0.4, 0.6], True), ([0.4] * 3, True)]
)
def test_clip_is_settled_by_its_likeness_or_its_number_of_tries(
    means: list[float], settled: bool
) -> None:
    tries = tuple(Try(seed=n, mean=mean, clip="") for n, mean in enumerate(means))
    likeness = ClipLikeness(
        mean=means[0],
        found=None,
        faces_found=1,
        worst=WorstFrame(frame=0, time=0, value=0),
        recognizer="rec",
        frames=8,
        tries=tries if len(tries) > 1 else (),
    )
    assert is_settled(likeness, TriesConfig(min_likeness=0.5, max_tries=3)) == settled
