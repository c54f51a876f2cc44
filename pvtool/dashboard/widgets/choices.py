"""A list to choose from, which keeps its place when what it lists changes."""

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import OptionList
from textual.widgets.option_list import Option


class Choices(OptionList):
    """An OptionList for vim's fingers."""

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
    def chosen(self) -> str | None:
        """The `id` of what is highlighted."""
        return self.highlighted_option.id if self.highlighted_option else None

    def fill(self, options: Iterable[Option], chosen: str | None = None) -> None:
        """List these; `chosen`, or else what was highlighted, stays so if it is still there, else its place does."""
        wanted, place = chosen or self.chosen, self.highlighted or 0
        self.set_options(options)
        there = [option.id for option in self.options]
        if there:
            self.highlighted = (
                there.index(wanted) if wanted in there else min(place, len(there) - 1)
            )
