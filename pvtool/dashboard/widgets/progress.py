"""Progress bar with the width of its widget."""

from textual.content import Content
from textual.widgets import Static

from pvtool.dashboard.marks import bar


class ProgressLine(Static):
    """Thin bar followed by a text, drawn at render time because hidden widgets have no width."""

    def __init__(self, *, id: str, classes: str = "") -> None:
        super().__init__(id=id, classes=classes)
        self._fraction, self._text = 0.0, ""

    def show(self, fraction: float, text: str) -> None:
        """Show a fraction from 0 to 1 and the text after the bar."""
        if (fraction, text) != (self._fraction, self._text):
            self._fraction, self._text = fraction, text
            self.refresh()

    def render(self) -> Content:
        """Return the bar at the current width."""
        return Content(bar(self._fraction, max(0, self.size.width - len(self._text))) + self._text)
