"""Measure the likeness of decoded clips, beside the denoiser."""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pvtool_core.errors import PvError, from_foreign
from pvtool_core.faces.analyzer import FaceAnalyzer, Points
from pvtool_core.faces.likeness import Likeness, measure_likeness, read_reference
from pvtool_core.media.decode import Pixels
from pvtool_core.models.locate import locate_package
from pvtool_core.settings.jobs import LikenessConfig, RenderItem, Setup
from pvtool_core.store.clip_likeness import ClipLikeness

MOST_FRAMES = 16
"""Scored frames of a clip, evenly spaced: all of AnimateDiff's, and a bounded time for others."""
_MOST_THREADS = 4
_DIGITS = 4


class LikenessScorer:
    """The face models of an engine, loaded when the first clip is scored.

    Each problem is reported once; clips that it concerns have no likeness.
    """

    def __init__(self) -> None:
        self._analyzers: dict[LikenessConfig, FaceAnalyzer] = {}
        self._references: dict[tuple[LikenessConfig, str], Points] = {}
        self._problems: dict[tuple[LikenessConfig, str], PvError] = {}
        self._turn = threading.Lock()

    def measure(
        self, item: RenderItem, setup: Setup, pixels: Pixels, warn: Callable[[str], None]
    ) -> ClipLikeness | None:
        """Return the likeness of a clip to its identity, or None if it cannot be measured.

        `warn` receives the reason, unless it was reported before.
        """
        judge = setup.likeness
        if not judge.package or not item.folder:
            return None
        with self._turn:  # one clip at a time, so that the denoiser keeps most of the cores
            known = {(judge, ""), (judge, item.folder)} & self._problems.keys()
            if known:
                return None
            try:
                analyzer = self._analyzer(judge, setup.model.threads)
                mean = self._reference(analyzer, judge, item.folder)
                found = measure_likeness(
                    analyzer, judge.recognizer, pixels, mean, setup.model.fps, MOST_FRAMES
                )
                return recorded(found, judge.recognizer)
            except Exception as error:  # the clip itself is complete
                problem = from_foreign(error).with_traceback(None)
                loaded = judge in self._analyzers
                self._problems[judge, item.folder if loaded else ""] = problem
        warn(f"Likeness is not measured. {problem.message} {problem.hint}".strip())
        return None

    def _analyzer(self, judge: LikenessConfig, threads: int) -> FaceAnalyzer:
        if judge not in self._analyzers:
            package = locate_package(judge.package, (judge.detector, judge.recognizer))
            self._analyzers[judge] = FaceAnalyzer(
                package,
                judge.detector,
                [judge.recognizer],
                judge.detection_size,
                judge.detection_threshold,
                threads or scorer_threads(os.cpu_count() or 1),
            )
        return self._analyzers[judge]

    def _reference(self, analyzer: FaceAnalyzer, judge: LikenessConfig, folder: str) -> Points:
        if (judge, folder) not in self._references:
            reference = read_reference(
                analyzer, Path(folder), judge.recognizer, judge.held_out_photos
            )
            self._references[judge, folder] = reference.mean
        return self._references[judge, folder]


def scorer_threads(cores: int) -> int:
    """Return the number of threads for scoring: half of the cores, at most four."""
    return max(1, min(_MOST_THREADS, cores // 2))


def recorded(likeness: Likeness, recognizer: str) -> ClipLikeness:
    """Return a likeness as it is recorded, with rounded values."""
    found, worst = likeness.mean_found, likeness.worst
    return ClipLikeness(
        mean=round(likeness.mean, _DIGITS),
        found=None if found is None else round(found, _DIGITS),
        faces_found=round(likeness.face_share, _DIGITS),
        worst=replace(worst, time=round(worst.time, 3), value=round(worst.value, _DIGITS)),
        recognizer=recognizer,
        frames=len(likeness.frames),
    )
