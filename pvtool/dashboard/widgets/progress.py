"""Progress bar that is as wide as its place when it is painted."""

from textual.content import Content
from textual.widgets import Static

from pvtool.dashboard.marks import bar


class ProgressLine(Static):
    """A thin bar with words behind it, drawn at render time: hidden widgets have no width to draw for."""

    def __init__(self, *, id: str, classes: str = "") -> None:
        super().__init__(id=id, classes=classes)
        self._share, self._words = 0.0, ""

    def show(self, share: float, words: str) -> None:
        """Show `share` (0 to 1) and the words after the bar."""
        if (share, words) != (self._share, self._words):
            self._share, self._words = share, words
            self.refresh()

    def render(self) -> Content:
        """Return the bar at the present width."""
        return Content(bar(self._share, max(0, self.size.width - len(self._words))) + self._words)
