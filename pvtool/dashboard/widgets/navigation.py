"""Navigation bar at the top of the main screens."""

from textual.content import Content
from textual.widgets import Static

MODES = ("runs", "identities", "prompts", "renders")
WIDTHS = [(0, "-narrow"), (66, "-normal"), (150, "-wide")]
HEIGHTS = [(0, "-short"), (30, "-tall")]
"""Minimum sizes, in cells, of the layout classes."""


class Navigation(Static):
    """Application name and modes; a click on a mode opens it."""

    DEFAULT_CSS = """
    Navigation {
        height: 1;
        background: $panel;
        color: $text-muted;
        link-color: $text-muted;
        link-background: $panel;
        link-style: none;
        link-color-hover: $text;
        link-background-hover: $boost;
        link-style-hover: none;
    }
    """

    def __init__(self, current: str) -> None:
        self.current = current
        super().__init__()

    def on_mount(self) -> None:
        """Show the application name, which is available after mounting."""
        name = Content.styled(f" {self.app.title} ", "bold $text-accent")
        self.update(
            Content("  ").join(
                [name, *(self._entry(number, mode) for number, mode in enumerate(MODES, 1))]
            )
        )

    def _entry(self, number: int, mode: str) -> Content:
        label = f" {number} {mode.capitalize()} "
        if mode == self.current:
            return Content.styled(label, "bold underline $text on $surface")
        return Content(label).stylize(f"@click=app.show_mode('{mode}')")
