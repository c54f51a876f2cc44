"""Distance between two sets of clips, for sets too small for FVD."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import SetMetric


class KernelDistance(SetMetric):
    """Kernel distance of clips with the adapter from the base model's, on embeddings of clips.

    The embedding of a clip is the mean of its frames' unit embeddings, scaled to unit length.
    """

    name = "kernel_distance"

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> float:
        """Return the distance: 0 on average for two sets of the same distribution, and also below 0."""
        return kernel_distance(self._embeddings(clips), self._embeddings(reference))

    def _embeddings(self, clips: Sequence[Clip]) -> Tensor:
        means = torch.stack([self.judges.pictures(clip).double().mean(0) for clip in clips])
        return torch.nn.functional.normalize(means, dim=-1)


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy of two sets of unit vectors, (items, dimensions).

    The kernel is (cosine + 1)³: that of KID (Bińkowski et al. 2018), (x·y / d + 1)³, for vectors of length √d. Each set
    needs two items.
    """
    within = [_kernel(each, each) for each in (one, other)]
    means = [
        (kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1)) for kernel in within
    ]
    return float(means[0] + means[1] - 2 * _kernel(one, other).mean())


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.T + 1) ** 3
