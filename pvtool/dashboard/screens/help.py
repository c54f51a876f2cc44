"""Help screen, generated from the table of keys."""

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import ItemGrid, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from pvtool.dashboard import keys


class HelpScreen(ModalScreen[None]):
    """Dialog with all keys in groups, those of the current screen first."""

    BINDINGS = keys.HELP
    DEFAULT_CSS = """
    HelpScreen {
        align: center middle;
        VerticalScroll {
            width: 76; max-width: 100%; height: auto; max-height: 100%;
            border: round $primary; background: $surface; padding: 0 2;
            border-title-color: $text-primary;
        }
        ItemGrid { height: auto; grid-gutter: 1 2; }
        &.-very-wide VerticalScroll { width: 176; }
    }
    """

    def __init__(self, first: list[str]) -> None:
        super().__init__()
        self._groups = [*first, *(name for name in keys.GROUPS if name not in first)]

    def compose(self) -> ComposeResult:
        with VerticalScroll() as scroll:
            scroll.border_title = "Keys"
            scroll.border_subtitle = "esc closes"
            with ItemGrid(min_column_width=80):
                yield from (Static(_group(name)) for name in self._groups)

    def action_line(self, by: int) -> None:
        """Scroll by one line."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def action_top(self) -> None:
        self.query_one(VerticalScroll).scroll_home(animate=False)

    def action_bottom(self) -> None:
        self.query_one(VerticalScroll).scroll_end(animate=False)


def _group(name: str) -> Content:
    heading = Content.styled(name, "bold $text-accent")
    return Content("\n").join(
        [heading, *(_line(each) for each in keys.GROUPS[name] if isinstance(each, Binding))]
    )


def _line(binding: Binding) -> Content:
    return Content.assemble(
        f"  {keys.display_names(binding.key):<12}", (binding.tooltip, "$text-muted")
    )
