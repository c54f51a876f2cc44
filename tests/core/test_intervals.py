"""Tests of the 95 % intervals of means."""

import numpy as np
import pytest

from pvtool_core.evaluation.intervals import Value, interval


def sample(random: np.random.Generator, identities: int, prompts: int) -> list[Value]:
    """Draw two clips of each prompt, with effects of identity and prompt; the true mean is 0."""
    values: list[Value] = []
    for number in range(identities):
        person = random.normal(0, 0.5)
        for prompt in range(prompts):
            scene = person + random.normal(0, 0.5)
            clips = scene + random.normal(0, 0.5, 2)
            values += [Value(f"{number}", f"{prompt}", float(each)) for each in clips]
    return values


@pytest.mark.parametrize("identities", [4, 12])
def test_intervals_contain_the_true_mean_in_95_percent_of_samples(identities: int) -> None:
    random = np.random.default_rng(identities)
    found = [interval(sample(random, identities, 8)) for _ in range(400)]
    hits = [each.low is not None and each.low <= 0 <= (each.high or 0) for each in found]
    assert 0.92 <= np.mean(hits) <= 0.99


@pytest.mark.parametrize("prompts", [2, 3, 5])
def test_intervals_of_few_clips_are_wide_enough(prompts: int) -> None:
    random = np.random.default_rng(prompts)
    hits = 0
    for _ in range(400):
        found = interval([Value("ann", f"{n}", random.normal()) for n in range(prompts)])
        hits += not found.excludes_zero
    assert hits / 400 >= 0.92


def test_one_identity_has_the_interval_of_its_prompts() -> None:
    values = [Value("ann", f"{n}", value) for n, value in enumerate([0.1, 0.3, 0.2, 0.4])]
    found = interval(values)
    assert found.mean == pytest.approx(0.25)
    assert found.low is not None
    assert found.high is not None
    assert found.high - 0.25 == pytest.approx(3.182 * np.std([1, 3, 2, 4], ddof=1) / 20, rel=0.05)
    assert found.low == pytest.approx(0.5 - found.high)
    assert found == interval(values)


def test_one_prompt_has_no_interval() -> None:
    found = interval([Value("ann", "walks", 0.1), Value("ann", "walks", 0.3)])
    assert (found.low, found.high) == (None, None)
    assert not found.excludes_zero


def test_interval_ends_at_the_limits_of_the_metric() -> None:
    found = interval([Value("ann", "0", 1.0), Value("ann", "1", 0.8)], (0, 1))
    assert (found.low, found.high) == (0, 1)


def test_each_identity_counts_the_same() -> None:
    many = [Value("ann", f"{n}", 1.0) for n in range(9)]
    assert interval([*many, Value("ben", "0", 0.0)]).mean == pytest.approx(0.5)
