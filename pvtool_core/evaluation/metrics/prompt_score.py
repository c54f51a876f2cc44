"""Agreement of the frames with the prompt."""

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class PromptScore(Metric):
    """100 times the mean cosine of frames and prompt, by their embeddings.

    The keyword is removed from the prompt.
    """

    name = "prompt_score"

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-100, 100]."""
        return 100 * float((self.judges.pictures(clip) @ self.judges.text(clip)).mean())
