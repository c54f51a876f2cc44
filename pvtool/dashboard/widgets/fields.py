"""What forms are made of: a field with its name, and notes that say what is known or wrong."""

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Label, OptionList, Static, TextArea
from textual.widgets.option_list import Option

from pvtool.dashboard.widgets.choices import Choices
from pvtool_core.errors import PvError


class Note(Static):
    """A few lines that say what is known, or what is wrong; no room is taken while there is nothing to say."""

    DEFAULT_CSS = """
    Note { height: auto; color: $text-muted; display: none; }
    Note.-said { display: block; }
    Note.-wrong { color: $text-error; }
    """

    def say(self, words: Content | str) -> None:
        """Show what is known."""
        self.set_class(bool(words), "-said").remove_class("-wrong")
        self.update(words if isinstance(words, Content) else Content(words))

    def complain(self, error: PvError) -> None:
        """Show what is wrong, and what to do about it."""
        self.say(
            Content("\n").join(
                filter(None, [Content(error.message), Content.styled(error.hint, "dim")])
            )
        )
        self.add_class("-wrong")


class Field(Vertical):
    """Something to be filled in, with its name and a note of its own."""

    DEFAULT_CSS = """
    Field { layout: grid; grid-size: 2; grid-columns: 12 1fr; grid-rows: auto; height: auto; }
    Field > Label { color: $text-muted; }
    Field.-focused > Label { color: $accent; text-style: bold; }
    Field > Note { column-span: 2; padding-left: 13; }
    Field Input { padding: 0 1 !important; }
    Field Input, Field TextArea { background: $boost; }
    Field Input:focus, Field TextArea:focus { background: $surface-lighten-2; }
    Field Input:ansi > .input--placeholder, Field TextArea:ansi .text-area--placeholder { color: ansi_bright_black; }
    Field Select > SelectCurrent { background: $boost; padding: 0 1 !important; }
    """

    def __init__(
        self, name: str, control: Widget, note: str = "", *, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self._label, self._control, self._words = name, control, note

    def compose(self) -> ComposeResult:
        """The name, what is filled in, and the note beneath."""
        yield Label(self._label)
        yield self._control
        yield Note()

    def on_mount(self) -> None:
        """What the note says from the beginning."""
        self.note.say(self._words)

    def on_descendant_focus(self) -> None:
        """Mark the name: a class does it at once, where the pseudo-class :focus-within misses some changes."""
        self.add_class("-focused")

    def on_descendant_blur(self) -> None:
        """Mark it no more."""
        self.remove_class("-focused")

    @property
    def note(self) -> Note:
        """What is said about this field."""
        return self.query_one("Field > Note", Note)


class LinesField(Vertical):
    """Several lines of text, and beneath them what the line under the cursor may become."""

    DEFAULT_CSS = """
    LinesField { height: auto; }
    LinesField > Note { padding-left: 1; }
    LinesField > TextArea { height: auto; min-height: 2; max-height: 8; }
    LinesField > Choices { height: auto; max-height: 8; margin-left: 1; }
    LinesField > Choices > .option-list--option-highlighted {
        background: transparent; color: $foreground; text-style: none;
    }
    LinesField > Choices:focus > .option-list--option-highlighted {
        background: $block-cursor-background; color: $block-cursor-foreground;
    }
    """

    class Changed(Message):
        """The lines, or the place in them, are others; `line` is the one under the cursor."""

        def __init__(self, lines: "LinesField", line: str) -> None:
            self.lines, self.line = lines, line
            super().__init__()

        @property
        def control(self) -> "LinesField":
            """Which one it is."""
            return self.lines

    def __init__(self, placeholder: str, *, next_line: bool, id: str) -> None:
        """`next_line`: what was chosen is complete, and the cursor goes on to a line of its own."""
        super().__init__(id=id)
        self._placeholder, self._next_line = placeholder, next_line

    def compose(self) -> ComposeResult:
        """The lines, what is wrong with them, and what is offered."""
        yield TextArea(compact=True, placeholder=self._placeholder, highlight_cursor_line=False)
        yield Note()
        yield Choices()

    def complain(self, problems: Sequence[str]) -> None:
        """Name all that is wrong with the lines, or nothing."""
        note = self.query_one(Note)
        note.complain(PvError("\n".join(problems))) if problems else note.say("")

    @property
    def written(self) -> list[str]:
        """The lines that hold anything."""
        return [line.strip() for line in self.query_one(TextArea).text.splitlines() if line.strip()]

    @property
    def line(self) -> str:
        """What the line under the cursor holds."""
        area = self.query_one(TextArea)
        return area.document.get_line(area.cursor_location[0])

    def offer(self, options: list[Option]) -> None:
        """What the line under the cursor may become, each with it as its `id`."""
        self.query_one(Choices).fill(options)

    def write(self, text: str) -> None:
        """Put `text` in place of the line under the cursor."""
        area = self.query_one(TextArea)
        row = area.cursor_location[0]
        complete = self._next_line and not text.endswith("/")  # a folder is on the way to a file
        area.replace(text + "\n" * complete, (row, 0), (row, len(self.line)))
        area.focus()

    def on_text_area_changed(self) -> None:
        """What can be offered is another."""
        self.post_message(self.Changed(self, self.line))

    on_text_area_selection_changed = on_text_area_changed

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take what was offered."""
        event.stop()
        self.write(event.option.id or "")
