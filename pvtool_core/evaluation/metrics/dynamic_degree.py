"""Motion by optical flow, as VBench measures it."""

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.evaluation.optical_flow import dynamic_flag, dynamic_flow
from pvtool_core.settings.jobs import Subject


class DynamicShare(Metric):
    """VBench's dynamic degree: 1 for a clip that moves, 0 for one that does not.

    Every max(1, round(fps/8))-th frame is used. RAFT measures the motion between neighbours; the
    mean of the largest 5 % of the magnitudes must exceed 6·min(height, width)/256 pixels in at
    least round(4·n/16) pairs of the n frames.
    """

    name, label, better = "dynamic_share", "Dynamic degree, share of clips", "higher"
    limits = (0, 1)
    models = ("optical_flow",)
    condition = "at least two frames"

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return 0 or 1; None for a single frame."""
        motion = self.judges.motion(clip)
        flag = dynamic_flag(motion, len(motion) + 1, *clip.frames.shape[1:3])
        return None if flag is None else float(flag)


class DynamicFlow(Metric):
    """Mean over pairs of frames of the largest 5 % of RAFT's magnitudes, in pixels.

    At about 8 frames per second, as `dynamic_share`. Probably the paper's dynamic degree.
    """

    name, label, better = "dynamic_flow", "Dynamic degree, flow in pixels", "higher"
    models = ("optical_flow",)
    condition = "at least two frames"

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return pixels of the clip; None for a single frame."""
        return dynamic_flow(self.judges.motion(clip))
