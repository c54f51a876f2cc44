"""Grid of the curves of a run."""

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Grid

from pvtool.dashboard.follow.run import RunView
from pvtool.dashboard.follow.run_history import CURVES
from pvtool.dashboard.widgets.plot import Curve, Plot, View

TITLES = {
    "icr": "ICR identity loss",
    "scr": "SCR semantic loss",
    "loss": "Loss, weighted sum",
    "grad_norm": "Gradient norm",
    "lr": "Learning rate",
    "score_gap": "Prompt score minus base model",
    "base_kl": "KL from the base model",
    "seconds": "Seconds per step",
}
_BOUNDS = {"icr": (0.0, 1.0)}


class Curves(Grid):
    """The curves `names` that the run has; all share `view`."""

    DEFAULT_CSS = """
    Curves {
        grid-size: 1;
        grid-rows: 9;
        grid-gutter: 0 1;
        overflow-y: auto;
        Plot { height: 1fr; }
    }
    """

    def __init__(self, view: View, names: Sequence[str] = CURVES, *, classes: str = "") -> None:
        super().__init__(classes=classes)
        self._plots = {name: Plot(TITLES[name], view, _BOUNDS.get(name)) for name in names}

    def compose(self) -> ComposeResult:
        yield from self._plots.values()

    def show(self, run: RunView) -> None:
        """Draw the current values; missing curves are hidden."""
        for name, plot in self._plots.items():
            plot.display = name in run.history.curves or not run.history.curves
            plot.show(curves_of(run, name))


def panels(run: RunView) -> dict[str, list[Curve]]:
    """Return the existing curves by title."""
    drawn = {title: curves_of(run, name) for name, title in TITLES.items()}
    return {title: curves for title, curves in drawn.items() if curves}


def curves_of(run: RunView, name: str) -> list[Curve]:
    """Return a curve of the run, and that of the overlaid run."""
    curves = (
        [Curve(run.summary.run, run.history.curves[name], "main")]
        if name in run.history.curves
        else []
    )
    if run.overlay and name in run.overlay.curves:
        curves.append(Curve(run.overlay_name, run.overlay.curves[name], "overlay"))
    return curves
