"""Agreement of raters: Krippendorff's alpha."""

import numpy as np
from numpy.typing import NDArray


def alpha(ratings: NDArray[np.float64]) -> float | None:
    """Return Krippendorff's alpha with squared differences; None if all ratings are equal.

    `ratings` are raters × units, NaN where a rater did not rate. 1 is full agreement, 0 that of
    chance. With 1, ½ and 0 for a win, a tie and a loss, a tie is half as far from both as they are
    from each other. (Krippendorff, "Content analysis", chapter on reliability.)
    """
    there = ~np.isnan(ratings)
    paired = there.sum(0) >= 2
    units, there = ratings[:, paired], there[:, paired]
    values = units[there]
    if not len(values) or np.ptp(values) == 0:
        return None
    counts = there.sum(0)
    within = 2 * (
        counts * np.nansum(units**2, axis=0) - np.nansum(units, axis=0) ** 2
    )  # of all ordered pairs of ratings of a unit
    total = len(values)
    observed = (within / (counts - 1)).sum() / total
    expected = 2 * (total * (values**2).sum() - values.sum() ** 2) / (total * (total - 1))
    return float(1 - observed / expected)
