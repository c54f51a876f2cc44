"""Agreement of the frames with the prompt."""

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class _TextAlignment(Metric):
    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-100, 100]."""
        (model,) = self.models
        return 100 * float(
            (self.judges.pictures(clip, model) @ self.judges.text(clip, model)).mean()
        )


class ClipT(_TextAlignment):
    """100 times the mean over frames of the cosine between frame and prompt without keyword.

    By `evaluation.text_model`, which the presets for large models set to CLIP ViT-L/14.
    """

    name, label, better = "clip_t", "CLIP-T", "higher"
    limits = (-100, 100)
    models = ("text_model",)


class ClipTSecond(_TextAlignment):
    """Like `clip_t`, by `evaluation.second_text_model`, for example CLIP ViT-B/32."""

    name, label, better = "clip_t_second", "CLIP-T, second model", "higher"
    limits = (-100, 100)
    models = ("second_text_model",)


class HumanPreference(_TextAlignment):
    """Like `clip_t`, by the model of the semantic reward (HPSv2), which training uses."""

    name, label, rewarded = "hps", "HPSv2", True
    limits = (-100, 100)
    models = ("semantic_reward",)
