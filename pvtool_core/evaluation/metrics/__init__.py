"""The table of metrics, in their order in reports; each file has one subject."""

from pvtool_core.evaluation.metric import Metric, SetMetric
from pvtool_core.evaluation.metrics.bystanders import Bystander
from pvtool_core.evaluation.metrics.copying import CopyPaste, LikenessHeldOutPhoto
from pvtool_core.evaluation.metrics.dense_motion import DenseMotion
from pvtool_core.evaluation.metrics.dynamic_degree import DynamicFlow, DynamicShare
from pvtool_core.evaluation.metrics.frechet_video_distance import FrechetVideoDistance
from pvtool_core.evaluation.metrics.image_alignment import ClipI, ClipIWhole
from pvtool_core.evaluation.metrics.kernel_distance import KernelDistance
from pvtool_core.evaluation.metrics.likeness_by_pose import (
    LikenessFrontal,
    LikenessProfile,
    LikenessTurned,
)
from pvtool_core.evaluation.metrics.likeness_to_photos import (
    FacesFound,
    Gap,
    Likeness,
    LikenessFound,
    LikenessMin,
    LikenessReward,
    LikenessSecond,
)
from pvtool_core.evaluation.metrics.motion import Motion
from pvtool_core.evaluation.metrics.temporal_consistency import TemporalConsistency
from pvtool_core.evaluation.metrics.text_alignment import ClipT, ClipTSecond, HumanPreference

METRICS: list[type[Metric]] = [
    Likeness,
    LikenessSecond,
    LikenessFound,
    LikenessMin,
    FacesFound,
    LikenessFrontal,
    LikenessTurned,
    LikenessProfile,
    LikenessHeldOutPhoto,
    CopyPaste,
    Bystander,
    DynamicShare,
    DynamicFlow,
    Motion,
    DenseMotion,
    ClipT,
    ClipTSecond,
    ClipI,
    ClipIWhole,
    TemporalConsistency,
    LikenessReward,
    Gap,
    HumanPreference,
]
SET_METRICS: list[type[SetMetric]] = [FrechetVideoDistance, KernelDistance]
