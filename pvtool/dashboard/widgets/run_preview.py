"""Preview of the current run beside the list of runs, on wide terminals."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from pvtool.dashboard.follow.run_preview import RunHighlights
from pvtool.dashboard.marks import BEST, number, state_content
from pvtool.dashboard.plot.series import Extent
from pvtool.dashboard.widgets.picture import ClipView
from pvtool.dashboard.widgets.plot import Curve, Plot, View
from pvtool.text import duration, plain
from pvtool_core.settings.objectives import loss_label
from pvtool_core.store.liveness import LIVE
from pvtool_core.store.summary import RunSummary

WIDTH = 48
_RANGE: Extent = (0.0, 1.0)


class RunPreview(Vertical):
    """Key figures, likeness curve and newest sample of a run."""

    DEFAULT_CSS = f"""
    RunPreview {{
        width: {WIDTH}; height: 1fr; padding: 0 1; border-left: solid $panel;
        #figures {{ height: auto; margin-bottom: 1; }}
        Plot {{ height: 10; }}
        ClipView {{ height: 1fr; }}
    }}
    """

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._view = View(weight=0.0)

    def compose(self) -> ComposeResult:
        yield Static(id="figures")
        plot = Plot("Likeness", self._view, _RANGE)
        plot.can_focus = plot.display = False
        yield plot
        clip = ClipView("newest sample")
        clip.playing = clip.display = False  # a click plays it
        yield clip

    def show_run(self, run: RunSummary) -> None:
        """Show the figures of a run."""
        lines = [Content.styled(plain(run.run), "bold"), *_figures(run)]
        self.query_one("#figures", Static).update(Content("\n").join(lines))
        self._view.live = run.state in LIVE

    def show_highlights(self, run: RunSummary, highlights: RunHighlights) -> None:
        """Show the likeness and the newest sample of a run, as far as they exist."""
        plot, clip = self.query_one(Plot), self.query_one(ClipView)
        plot.display = len(highlights.likeness) > 0
        plot.show([Curve(run.run, highlights.likeness)])
        clip.display = highlights.sample is not None
        if clip.path != highlights.sample:
            clip.show(highlights.sample)


def _figures(run: RunSummary) -> list[Content]:
    left = f", {duration(run.eta)} left" if run.eta else ""
    speed = [f"{run.seconds_per_step:.2f} s/step"] if run.seconds_per_step else []
    speed += [duration(run.duration)] if run.duration else []
    losses = [
        f"{loss_label(name)} {number(trend.mean)}{trend.arrow}"
        for name, trend in run.losses.items()
        if trend
    ]
    best = f"{BEST} {number(run.likeness)} at {run.best_step}" if run.likeness is not None else ""
    latest = f"latest {number(run.newest_likeness)}" if run.newest_likeness is not None else ""
    rows = {
        "state": state_content(run.state) + left,
        "identity": Content(plain(f"{run.identity} on {run.preset}")),
        "step": Content(f"{run.step} of {run.iterations}"),
        "likeness": Content("  ".join(filter(None, [latest, best]))),
        "losses": Content("  ".join(losses)),
        "time": Content("  ".join(speed)),
        "device": Content(plain(run.device)),
        "tags": Content(plain(" ".join(f"#{tag}" for tag in run.tags))),
        "note": Content(plain(run.note)),
    }
    return [
        Content.assemble((f"{name:<10}", "$text-muted"), text)
        for name, text in rows.items()
        if text
    ]
