"""Curves of a run in a grid, some or all of them."""

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Grid

from pvtool.dashboard.follow.run import RunView
from pvtool.dashboard.follow.run_history import CURVES
from pvtool.dashboard.widgets.plot import Curve, Plot, View

TITLES = {
    "icr": "ICR identity loss",
    "scr": "SCR semantic loss",
    "loss": "Loss, both weighted",
    "grad_norm": "Gradient norm",
    "lr": "Learning rate",
    "score_gap": "Prompt score minus the original's",
    "base_kl": "KL from the base model",
    "seconds": "Seconds a step",
}
_BOUNDS = {"icr": (0.0, 1.0)}


class Curves(Grid):
    """The curves `names`, as far as the run has them; all share `view`."""

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

    def show(self, known: RunView) -> None:
        """Draw what is known now; a curve that this run does not have takes no room."""
        for name, plot in self._plots.items():
            plot.display = name in known.history.curves or not known.history.curves
            plot.show(curves_of(known, name))


def panels(known: RunView) -> dict[str, list[Curve]]:
    """All curves that there are, by title."""
    drawn = {title: curves_of(known, name) for name, title in TITLES.items()}
    return {title: curves for title, curves in drawn.items() if curves}


def curves_of(known: RunView, name: str) -> list[Curve]:
    """A run's curve, and the one laid over it."""
    curves = (
        [Curve(known.facts.run, known.history.curves[name], "main")]
        if name in known.history.curves
        else []
    )
    if known.overlay and name in known.overlay.curves:
        curves.append(Curve(known.overlay_name, known.overlay.curves[name], "overlay"))
    return curves
