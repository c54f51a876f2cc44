"""The keys, made from the table that dispatches them."""

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from pvtool.dashboard import keys


class HelpScreen(ModalScreen[None]):
    """Every key, group by group; those of the place behind come first."""

    BINDINGS = keys.HELP
    DEFAULT_CSS = """
    HelpScreen {
        align: center middle;
        VerticalScroll {
            width: 76; max-width: 100%; height: auto; max-height: 100%;
            border: round $primary; background: $surface; padding: 0 2;
            border-title-color: $text-primary;
        }
    }
    """

    def __init__(self, first: list[str]) -> None:
        super().__init__()
        self._groups = [*first, *(name for name in keys.GROUPS if name not in first)]

    def compose(self) -> ComposeResult:
        with VerticalScroll() as scroll:
            scroll.border_title = "Keys"
            scroll.border_subtitle = "esc closes"
            yield Static(Content("\n").join([_group(name) for name in self._groups]))


def _group(name: str) -> Content:
    heading = Content.styled(f"{name}\n", "bold $accent")
    lines = [_line(each) for each in keys.GROUPS[name] if isinstance(each, Binding)]
    return Content.assemble(heading, *lines)


def _line(binding: Binding) -> Content:
    return Content.assemble(f"  {keys.shown(binding.key):<12}", (f"{binding.tooltip}\n", "$text-muted"))
