"""Measure how often the intervals of `pv study report` contain the true win rate.

    python -m tests.benchmarks.study [--studies 500]


Votes have effects of raters and of sets; the truth is known. For each kind of study it prints the
coverage of the 95 % intervals and their mean half width, beside those of votes taken as
independent. The aim is 93 to 97 %.
"""

import argparse
import math

import numpy as np

from pvtool.tables import Table
from pvtool_core.study.win_rates import win_rate
from tests.support.raters import World, simulate, true_rate

CASES = {
    "15 × 50": (15, 50, World()),
    "15 × 50, no effects": (15, 50, World(0, 0, 0)),
    "15 × 50, large effects": (15, 50, World(0.8, 0.3, 0.7, 0.2)),
    "15 × 50, 90 % wins": (15, 50, World(1.5, 0.3, 0.5, 0.2)),
    "15 × 50, a third of votes": (15, 50, World(missing=2 / 3)),
    "8 × 20": (8, 20, World()),
    "5 × 12": (5, 12, World()),
    "5 × 12, 85 % wins": (5, 12, World(1.2, 0.3, 0.5, 0.2)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=500)
    studies: int = parser.parse_args().studies
    rows = [[name, *measure(*case, studies)] for name, case in CASES.items()]
    print(Table(["raters × sets", "truth", "coverage", "half width", "naive"], rows))


def measure(raters: int, sets: int, world: World, studies: int) -> list[str]:
    """Return truth, coverage, and both half widths in points."""
    draw = np.random.default_rng(1)
    truth = true_rate(world)
    covered, widths, naive = [], [], []
    for number in range(studies):
        votes = simulate(draw, raters, sets, world)
        rate = win_rate(votes, seed=number)
        if rate is None or rate.low is None or rate.high is None:
            continue
        covered.append(rate.low <= truth <= rate.high)
        widths.append((rate.high - rate.low) / 2)
        naive.append(1.96 * np.nanstd(votes) / math.sqrt(np.isfinite(votes).sum()))
    return [
        f"{truth:.3f}",
        f"{100 * np.mean(covered):.1f} % of {len(covered)}",
        *(f"±{100 * np.mean(each):.1f}" for each in (widths, naive)),
    ]


if __name__ == "__main__":
    main()
