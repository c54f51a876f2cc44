"""List that keeps its selection when its entries change."""

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import OptionList
from textual.widgets.option_list import Option


class Choices(OptionList):
    """OptionList with vim keys."""

    DEFAULT_CSS = """
    Choices { border: none; padding: 0; background: transparent; scrollbar-size-vertical: 1; }
    Choices:focus { border: none; background-tint: transparent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
        Binding("g", "first", show=False),
        Binding("G", "last", show=False),
        Binding("ctrl+d", "page_down", show=False),
        Binding("ctrl+u", "page_up", show=False),
    ]

    @property
    def selected_id(self) -> str | None:
        """Return the id of the highlighted entry."""
        return self.highlighted_option.id if self.highlighted_option else None

    def fill(self, options: Iterable[Option], selected: str | None = None) -> None:
        """Replace the entries and highlight `selected` or the previously highlighted entry.

        If that entry is missing, the position of the highlight is kept.
        """
        wanted, position = selected or self.selected_id, self.highlighted or 0
        self.set_options(options)
        ids = [option.id for option in self.options]
        if ids:
            self.highlighted = ids.index(wanted) if wanted in ids else min(position, len(ids) - 1)
