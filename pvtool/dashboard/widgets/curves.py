"""Grid of the curves of a run."""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from textual.app import ComposeResult
from textual.containers import Grid

from pvtool.dashboard.follow.run import RunView
from pvtool.dashboard.follow.run_history import (
    LIKENESS_CURVE,
    REWARD_LIKENESS_CURVE,
    sample_curve,
)
from pvtool.dashboard.plot.series import Series
from pvtool.dashboard.widgets.plot import Curve, Plot, View
from pvtool_core.settings.objectives import (
    DEFAULT_OBJECTIVE,
    OBJECTIVES,
    LossInfo,
    ObjectiveInfo,
)
from pvtool_core.settings.sample_metrics import SAMPLE_METRICS

_SAMPLES = {
    sample_curve(name): metric.info for name, metric in SAMPLE_METRICS.items() if metric.curve
}
_EXPORTED = (*map(sample_curve, SAMPLE_METRICS), REWARD_LIKENESS_CURVE)
"""Curves of sample scores; those that are not in _SAMPLES have no plot of their own."""
_GRADIENT = {"grad_norm": LossInfo("Gradient norm"), "lr": LossInfo("Learning rate")}
_SPEED = {"seconds": LossInfo("Seconds per step")}
SelectCurves = Callable[[ObjectiveInfo, Iterable[str]], Mapping[str, LossInfo]]
"""Function that selects the curves of an objective, given the names of the run's curves."""


def all_curves(objective: ObjectiveInfo, names: Iterable[str]) -> dict[str, LossInfo]:
    """Return all curves in order; curves missing in the objective's table use their names."""
    names = list(names)
    samples = {name: info for name, info in _SAMPLES.items() if name in names}
    listed = {**objective.losses, **samples, **_GRADIENT, **objective.measures}
    known = {*listed, *_SPEED, *_EXPORTED}
    others = {name: LossInfo(name) for name in names if name not in known}
    return {**listed, **others, **_SPEED}


def main_losses(objective: ObjectiveInfo, _: Iterable[str]) -> dict[str, LossInfo]:
    """Return the two main losses."""
    return dict(islice(objective.losses.items(), 2))


def likeness_or_third_loss(objective: ObjectiveInfo, names: Iterable[str]) -> dict[str, LossInfo]:
    """Return the held-out likeness of samples; the third loss if the run has none."""
    if LIKENESS_CURVE in names:
        return {LIKENESS_CURVE: _SAMPLES[LIKENESS_CURVE]}
    return dict(islice(objective.losses.items(), 2, 3))


class Curves(Grid):
    """The curves that `select` returns and the run has; all share `view`."""

    DEFAULT_CSS = """
    Curves {
        grid-size: 1;
        grid-rows: 9;
        grid-gutter: 0 1;
        overflow-y: auto;
        Plot { height: 1fr; }
    }
    """

    def __init__(self, view: View, select: SelectCurves = all_curves, *, classes: str = "") -> None:
        super().__init__(classes=classes)
        self._view, self._select = view, select
        self._infos: Mapping[str, LossInfo] = {}
        self._plots: dict[str, Plot] = {}
        self._create_plots(select(OBJECTIVES[DEFAULT_OBJECTIVE], ()))

    def _create_plots(self, infos: Mapping[str, LossInfo]) -> None:
        self._infos = infos
        self._plots = {
            name: Plot(info.title, self._view, info.bounds) for name, info in infos.items()
        }

    def compose(self) -> ComposeResult:
        yield from self._plots.values()

    def show(self, run: RunView) -> None:
        """Draw the current values; missing curves are hidden."""
        infos = self._select(run.objective, run.history.curves)
        if infos != self._infos:
            self._create_plots(infos)
            self.refresh(recompose=True)
        for name, plot in self._plots.items():
            plot.display = name in run.history.curves or not run.history.curves
            plot.show(curves_of(run, name))


def panels(run: RunView) -> dict[str, list[Curve]]:
    """Return the curves of the run and its overlay, by title."""
    infos = all_curves(run.objective, run.history.curves)
    drawn = {info.title: curves_of(run, name) for name, info in infos.items()}
    return {title: curves for title, curves in drawn.items() if curves}


def columns(run: RunView) -> dict[str, Series]:
    """Return the run's own curves by name, in display order."""
    curves = run.history.curves
    names = dict.fromkeys([*all_curves(run.objective, curves), *_EXPORTED])
    return {name: curves[name] for name in names if name in curves}


def curves_of(run: RunView, name: str) -> list[Curve]:
    """Return a curve of the run, and that of the overlaid run.

    The held-out likeness of samples is followed by that of the reward's recogniser.
    """
    known = run.history.curves
    curves = [Curve(run.summary.run, known[name], "main")] if name in known else []
    if name == LIKENESS_CURVE in known and REWARD_LIKENESS_CURVE in known:
        rewarded = Curve("reward", known[REWARD_LIKENESS_CURVE], "main")
        curves = [Curve("held-out", known[name], "main"), rewarded]
    if run.overlay and name in run.overlay.curves:
        curves.append(Curve(run.overlay_name, run.overlay.curves[name], "overlay"))
    return curves
