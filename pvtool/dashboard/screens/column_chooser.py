"""Dialog that chooses the columns of a list."""

from collections.abc import Iterable

from textual.app import ComposeResult
from textual.screen import ModalScreen
from textual.widgets import SelectionList
from textual.widgets.selection_list import Selection

from pvtool.dashboard import keys
from pvtool.dashboard.widgets.key_footer import KeyFooter


class ColumnChooser(ModalScreen[None]):
    """List of all columns with check marks; the result is in `hidden`, which it changes."""

    BINDINGS = keys.COLUMNS
    DEFAULT_CSS = """
    ColumnChooser { align: center middle; }
    ColumnChooser SelectionList {
        width: 30; height: auto; max-height: 90%; padding: 0 1;
        border: round $primary; border-title-color: $accent; border-title-style: bold;
    }
    """

    def __init__(self, columns: Iterable[str], hidden: set[str]) -> None:
        super().__init__()
        self._columns, self._hidden = list(columns), hidden

    def compose(self) -> ComposeResult:
        entries = [Selection(name, name, name not in self._hidden) for name in self._columns]
        chooser = SelectionList[str](*entries, compact=True)
        chooser.border_title = "Columns"
        yield chooser
        yield KeyFooter()

    def on_selection_list_selection_toggled(
        self, event: SelectionList.SelectionToggled[str]
    ) -> None:
        self._hidden ^= {event.selection.value}

    def action_down(self) -> None:
        self.query_one(SelectionList[str]).action_cursor_down()

    def action_up(self) -> None:
        self.query_one(SelectionList[str]).action_cursor_up()
