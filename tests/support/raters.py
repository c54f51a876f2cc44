"""Simulated votes of raters, with effects of raters and of sets, and the true win rate."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class World:
    """How votes arise: a preference, deviations of raters and sets, and a range of ties.

    A vote is a win if the sum of preference, deviations and unit noise exceeds `ties`, a tie if its
    magnitude does not.
    """

    preference: float = 0.3
    raters: float = 0.3
    sets: float = 0.5
    ties: float = 0.3
    missing: float = 0.0


def simulate(
    draw: np.random.Generator, raters: int, sets: int, world: World = World()
) -> NDArray[np.float64]:
    """Return votes of raters × sets."""
    value = (
        world.preference
        + world.raters * draw.standard_normal((raters, 1))
        + world.sets * draw.standard_normal((1, sets))
        + draw.standard_normal((raters, sets))
    )
    votes = ((value > world.ties).astype(float) + (value > -world.ties)) / 2
    votes[draw.random((raters, sets)) < world.missing] = np.nan
    return votes


def true_rate(world: World = World()) -> float:
    """Return the expected vote over all raters and sets."""
    spread = math.sqrt(1 + world.raters**2 + world.sets**2)
    below = [
        math.erf((world.preference + sign * world.ties) / spread / math.sqrt(2)) for sign in (1, -1)
    ]
    return (2 + sum(below)) / 4
