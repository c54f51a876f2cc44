"""The line at the top of every full screen: where one is, and where else one can go."""

from textual.content import Content
from textual.widgets import Static

PLACES = ("runs", "identities", "prompts", "renders")
WIDTHS = [(0, "-narrow"), (66, "-normal"), (150, "-wide")]
HEIGHTS = [(0, "-short"), (30, "-tall")]
"""From how many cells on screens are laid out otherwise."""


class Navigation(Static):
    """The application's name and the places; a click on one goes there."""

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
        """The application's name is known from here on."""
        name = Content.styled(f" {self.app.title} ", "bold $text-accent")
        self.update(
            Content("  ").join(
                [name, *(self._place(*numbered) for numbered in enumerate(PLACES, 1))]
            )
        )

    def _place(self, number: int, place: str) -> Content:
        words = f" {number} {place.capitalize()} "
        if place == self.current:
            return Content.styled(words, "bold underline $text on $surface")
        return Content(words).stylize(f"@click=app.go('{place}')")
