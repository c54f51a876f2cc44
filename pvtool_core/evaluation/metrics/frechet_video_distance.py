"""FVD: distance between two sets of clips by features of I3D."""

from collections.abc import Sequence

import numpy as np

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.frechet import frechet_distance
from pvtool_core.evaluation.i3d import FEWEST_FRAMES
from pvtool_core.evaluation.metric import Features, SetMetric


class FrechetVideoDistance(SetMetric):
    """Fréchet distance of the logits of I3D (Kinetics-400) to those of the reference clips.

    Clips have at least 10 frames, resized to 224 × 224 without antialiasing. I3D's batch
    normalisation has ε = 0.001, as in the original; other ports use 1e-5. The reference is the base
    model's clips of the same prompts and seeds, or the folder of `--fvd-reference`. The value
    depends on the number of clips.
    """

    name, label, better = "fvd", "FVD", "lower"
    models = ("video_model",)
    fewest, advised = 500, 1000
    condition = "clips of at least 10 frames"

    def features(self, clip: Clip) -> Features | None:
        """Return the logits (400,); None for fewer than 10 frames."""
        if len(clip.frames) < FEWEST_FRAMES:
            return None
        return self.judges.video_features.features(clip.frames)

    def distance(self, features: Sequence[Features], reference: Sequence[Features]) -> float:
        """Return the distance, at least 0."""
        return frechet_distance(np.stack(features), np.stack(reference))
