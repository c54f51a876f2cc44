"""Means of clips with 95 % intervals, by a bootstrap over identities, then prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Value:
    """The value of one clip, or of a pair of clips; clips of one prompt are not independent."""

    identity: str
    prompt: str
    value: float


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; `low` and `high` are None if there is one prompt only."""

    mean: float
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


UNLIMITED = (-np.inf, np.inf)


def interval(values: Sequence[Value], limits: tuple[float, float] = UNLIMITED) -> Interval:
    """Return the mean over identities of the mean over their clips, with its interval.

    The bootstrap draws identities with replacement, then prompts of each; all clips of a drawn
    prompt count. With one identity it draws prompts only, so the interval is about that identity.
    Percentiles of few clusters are too narrow: the interval is the mean ± t(n − 1) · √(n / (n − 1))
    standard deviations of the drawn means, for n clusters. It ends at `limits`, the range in which
    the true mean must be. The result is the same in each call.
    """
    groups: dict[str, dict[str, list[float]]] = {}
    for each in values:
        groups.setdefault(each.identity, {}).setdefault(each.prompt, []).append(each.value)
    own = [list(prompts.values()) for prompts in groups.values()]
    mean = float(np.mean([np.mean([v for each in prompts for v in each]) for prompts in own]))
    clusters = len(own) if len(own) > 1 else len(own[0])
    if clusters < 2:
        return Interval(mean, None, None)
    quantile = float(stdtrit(clusters - 1, (1 + LEVEL) / 2))
    spread = float(_bootstrap(own).std()) * (clusters / (clusters - 1)) ** 0.5
    low, high = mean - quantile * spread, mean + quantile * spread
    return Interval(mean, max(low, limits[0]), min(high, limits[1]))


def _bootstrap(groups: Sequence[Sequence[Sequence[float]]]) -> NDArray[np.float64]:
    """Return DRAWS means; `groups` are values by identity and prompt."""
    random = np.random.default_rng(0)
    most = max(map(len, groups))
    counts = np.array([len(prompts) for prompts in groups])
    sums, sizes = np.zeros((2, len(groups), most))
    for row, prompts in enumerate(groups):
        sums[row, : len(prompts)] = [sum(each) for each in prompts]
        sizes[row, : len(prompts)] = [len(each) for each in prompts]
    total = np.zeros(DRAWS)
    for _ in groups:
        who = random.integers(len(groups), size=DRAWS)[:, None]
        prompts = (random.random((DRAWS, most)) * counts[who]).astype(int)
        drawn = np.arange(most) < counts[who]
        total += (sums[who, prompts] * drawn).sum(1) / (sizes[who, prompts] * drawn).sum(1)
    return total / len(groups)
