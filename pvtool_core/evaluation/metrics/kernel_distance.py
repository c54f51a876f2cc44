"""Distance between two sets of clips, for sets too small for FVD."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import SetMetric


class KernelDistance(SetMetric):
    """Kernel distance between clips with the adapter and the base model's, on their embeddings.

    The embedding of a clip is the mean of its frames' unit embeddings, scaled to unit length.
    """

    name = "kernel_distance"

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> float:
        """Return the distance.

        Its mean is 0 for two sets of the same distribution, so it can be negative.
        """
        return kernel_distance(self._embeddings(clips), self._embeddings(reference))

    def _embeddings(self, clips: Sequence[Clip]) -> Tensor:
        means = torch.stack([self.judges.pictures(clip).double().mean(0) for clip in clips])
        return torch.nn.functional.normalize(means, dim=-1)


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
