"""A small report of an evaluation, with clips whose frames can be told from each other."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pvtool_core.media.encode import write_clip
from pvtool_core.report_page.report_format import (
    Difference,
    EvaluationReport,
    Mean,
    Method,
    MetricInfo,
    ScoredClip,
    WorstFrame,
)
from pvtool_core.settings.jobs import EncodingConfig

FRAMES, FPS = 8, 8
HOSTILE = '<img src=x onerror="alert(1)"> & </script> \u202e"'
WEIGHTS = "ab" * 32


def grey_of(frame: int) -> int:
    """Return the grey level of a frame of `write_counting_clip`."""
    return 20 + 28 * frame


def write_counting_clip(clip: Path, form: str = "mp4") -> Path:
    """Write a clip of which each frame has one grey level; return its file or folder."""
    levels = np.array([grey_of(frame) for frame in range(FRAMES)], np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (FRAMES, 48, 64, 3))
    (path,) = write_clip(
        clip, np.ascontiguousarray(frames), FPS, {}, EncodingConfig(formats=(form,))
    )
    return path


def scored(
    file: Path, method: str, likeness: float | None, worst: int = 5, *, identity: str = "ada",
    prompt: str = "a <V> woman", seed: int = 0,
) -> ScoredClip:  # fmt: skip
    """Return a clip of a report."""
    value = likeness if likeness is not None else 0.0
    return ScoredClip(
        file=str(file),
        identity=identity,
        prompt=prompt,
        seed=seed,
        method=method,
        fps=float(FPS),
        frames=FRAMES,
        scores={"likeness": likeness, "icr": 0.5},
        worst_frame=WorstFrame(index=worst, time=worst / FPS, likeness=value - 0.1),
    )


def report_of(clips: Sequence[ScoredClip]) -> EvaluationReport:
    """Return a report of the methods `base` and `ann-1`."""
    likeness = Difference(mean=0.5, low=0.4, high=0.6, pairs=2, significant=True)
    motion = Difference(mean=-0.1, low=-0.5, high=0.3, pairs=2, significant=False)
    return EvaluationReport(
        version=2,
        reference="base",
        methods={
            "base": Method(clips=2, means={"likeness": _mean(0.02), "motion": _mean(12.5)}),
            "ann-1": Method(
                clips=2,
                means={"likeness": _mean(0.52), "motion": _mean(12.4), "icr": _mean(0.7, 1)},
                differences={"likeness": likeness, "motion": motion},
                sets={"kvd": 0.25},
            ),
        },
        identities={
            "ada": {
                "methods": {"base": {"likeness": 0.02}, "ann-1": {"likeness": 0.52}},
                "photos": {"ceiling": 0.46},
            }
        },
        metrics={
            "likeness": _info("Likeness", "higher", {"judge.onnx": WEIGHTS}),
            "motion": _info("Motion", ""),
            "icr": MetricInfo(
                label="Identity reward", description="By the reward.", better="higher",
                reward=True, weights={},
            ),
            "kvd": _info("KVD", "lower"),
        },
        skipped={"flow": {"reason": "no weights.", "command": "pv models fetch raft-large"}},
        alarms=["Possible reward hacking."],
        clips=clips,
        failed=[{"file": "/clips/broken.mp4", "reason": "is corrupt"}],
        checkpoints=[
            {"step": step, "means": {"likeness": {"mean": step / 100, "low": 0.0, "high": 0.6}}}
            for step in (10, 20, 40)
        ],
    )  # fmt: skip


def _mean(value: float, clips: int = 2) -> Mean:
    return Mean(mean=value, low=value - 0.01, high=value + 0.01, clips=clips)


def _info(label: str, better: str, weights: dict[str, str] | None = None) -> MetricInfo:
    direction = "higher" if better == "higher" else "lower" if better else ""
    return MetricInfo(
        label=label, description=f"{label} of a clip.", better=direction, reward=False,
        weights=weights or {},
    )  # fmt: skip
