"""Kernel distance between two sets of clips, for sets too small for FVD."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Features, SetMetric


class KernelDistance(SetMetric):
    """Unbiased kernel distance of the clips' embeddings to those of the reference clips.

    The embedding of a clip is the mean of its frames' unit embeddings by `evaluation.text_model`,
    scaled to unit length. The kernel is that of KID (Bińkowski et al. 2018).
    """

    name, label, better = "kvd", "Kernel distance", "lower"
    models = ("text_model",)
    fewest = 50

    def features(self, clip: Clip) -> Features:
        """Return the embedding of a clip, (dimensions,)."""
        mean = self.judges.pictures(clip, "text_model").double().mean(0)
        return torch.nn.functional.normalize(mean, dim=-1).float().numpy()

    def distance(self, features: Sequence[Features], reference: Sequence[Features]) -> float:
        """Return the distance.

        Its mean is 0 for two sets of the same distribution, so it can be negative.
        """
        one, other = (torch.from_numpy(np.stack(each)).double() for each in (features, reference))
        return kernel_distance(one, other)


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy of two sets of unit vectors.

    The sets are (items, dimensions), with at least two items. The kernel is (cosine + 1)³: that of
    KID (Bińkowski et al. 2018), (x·y / d + 1)³, for vectors of length √d.
    """
    within = [_kernel(each, each) for each in (one, other)]
    means = [
        (kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1)) for kernel in within
    ]
    return float(means[0] + means[1] - 2 * _kernel(one, other).mean())


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.T + 1) ** 3
