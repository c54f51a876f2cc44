"""Score samples of a training run by the held-out models, without an effect on training."""

import math
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import torch

from pvtool_core.errors import NotFinite, PvError, from_foreign
from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.judges import Judges, Skipped
from pvtool_core.evaluation.metric import Metric
from pvtool_core.evaluation.metrics import METRICS
from pvtool_core.media.decode import Pixels
from pvtool_core.settings.jobs import ADAPTER_METHOD, ClipFile, EvaluateJob, TrainJob
from pvtool_core.settings.sample_metrics import SAMPLE_METRICS
from pvtool_core.store.events import Report, WarningEvent


class SampleJudges:
    """The metrics of SAMPLE_METRICS, whose models are loaded once, with the first sample.

    A metric whose weights are missing, or whose models fail, is left out with a warning. Nothing
    raises: a run is worth more than its curves.
    """

    def __init__(self, job: TrainJob, report: Report) -> None:
        self._report, self._fps = report, float(job.model.fps)
        (self._subject,) = job.subjects
        self._metrics: list[Metric] = []
        self._judges: Judges | None = None
        with _undisturbed():
            try:
                self._judges = Judges(_evaluation_of(job))
            except Exception as error:
                self._warn("Samples are not scored", error)
            else:
                self._metrics = self._available(self._judges)

    def _available(self, judges: Judges) -> list[Metric]:
        """Return the metrics whose weights are installed; name those that the settings want."""
        wanted = [metric for metric in METRICS if metric.name in SAMPLE_METRICS]
        missing: dict[str, Skipped] = {}
        for metric in wanted:
            for skipped in filter(None, map(judges.missing, metric.models)):
                missing[metric.name] = skipped
        if named := {name: each for name, each in missing.items() if each.command}:
            reason = next(iter(named.values()))
            message = f"Samples are scored without {', '.join(named)}: {reason.reason}"
            self._report(WarningEvent(message=f"{message} {reason.command}"))
        return [metric(judges) for metric in wanted if metric.name not in missing]

    def score(self, frames: Pixels, prompt: str, seed: int) -> dict[str, float]:
        """Return the values of a clip by metric; those that it does not have are left out."""
        identity = self._subject.identity.name
        about = ClipFile(
            file="", identity=identity, prompt=prompt, seed=seed, method=ADAPTER_METHOD
        )
        clip = Clip(about, frames, self._fps)
        scores: dict[str, float] = {}
        with _undisturbed():
            for metric in tuple(self._metrics):
                try:
                    value = metric.measure(clip, self._subject)
                    if value is not None and not math.isfinite(value):
                        raise NotFinite(metric.name)
                except Exception as error:
                    self._metrics.remove(metric)
                    self._warn(f"Samples are scored without {metric.name}", error)
                else:
                    if value is not None:
                        scores[metric.name] = value
        if self._judges:
            self._judges.forget_clip()
        return scores

    def park(self) -> None:
        """Free the accelerator's memory until the next sample."""
        if self._judges:
            self._judges.park()

    def _warn(self, what: str, error: Exception) -> None:
        if not isinstance(error, PvError):
            traceback.print_exception(error)
        known = from_foreign(error)
        self._report(WarningEvent(message=f"{what}: {known.message} {known.hint}".strip()))


@contextmanager
def _undisturbed() -> Generator[None]:
    """Keep torch's random numbers and gradients as they are: new models draw their weights."""
    state = torch.get_rng_state()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_rng_state(state)


def _evaluation_of(job: TrainJob) -> EvaluateJob:
    """Return a job with the judges of SAMPLE_METRICS only; others would be loaded or hashed."""
    used = {model for metric in METRICS if metric.name in SAMPLE_METRICS for model in metric.models}
    unused = {
        model: ""
        for model in ("second_recognizer", "second_text_model", "optical_flow", "video_model")
        if model not in used
    }
    own = EvaluateJob(**job.sections(), identities=(job.identity,), clips=(), out="")
    return replace(own, evaluation=replace(job.evaluation, **unused))
