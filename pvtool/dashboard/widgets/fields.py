"""Form elements: labelled fields, notes and multi-line fields with suggestions."""

from collections.abc import Sequence

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Label, OptionList, Static, TextArea
from textual.widgets.option_list import Option
from textual.widgets.text_area import Selection

from pvtool.dashboard.widgets.choices import Choices
from pvtool_core.errors import PvError


class Note(Static):
    """Note with information or an error, hidden while empty."""

    DEFAULT_CSS = """
    Note { height: auto; color: $text-muted; display: none; }
    Note.-shown { display: block; }
    Note.-error { color: $text-error; }
    """

    def show_text(self, text: Content | str) -> None:
        """Show information, or hide the note if `text` is empty."""
        self.set_class(bool(text), "-shown").remove_class("-error")
        self.update(text if isinstance(text, Content) else Content(text))

    def show_error(self, error: PvError) -> None:
        """Show the message and the hint of an error."""
        self.show_text(
            Content("\n").join(
                filter(None, [Content(error.message), Content.styled(error.hint, "dim")])
            )
        )
        self.add_class("-error")


class Field(Vertical):
    """Labelled control with a note."""

    DEFAULT_CSS = """
    Field { layout: grid; grid-size: 2; grid-columns: 12 1fr; grid-rows: auto; height: auto; }
    Field > Label { color: $text-muted; }
    Field.-focused > Label { color: $accent; text-style: bold; }
    Field > Note { column-span: 2; padding-left: 13; }
    Field Input { padding: 0 1 !important; }
    Field Input, Field TextArea { background: $boost; }
    Field Input:focus, Field TextArea:focus { background: $surface-lighten-2; }
    Field Input:ansi > .input--placeholder, Field TextArea:ansi .text-area--placeholder {
        color: ansi_bright_black;
    }
    Field SelectOverlay > .option-list--option { padding: 0 1 !important; }
    Field Select > SelectCurrent { background: $boost; padding: 0 1 !important; }
    """

    def __init__(
        self, name: str, control: Widget, note: str = "", *, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self._label, self._control, self._text = name, control, note

    def compose(self) -> ComposeResult:
        """Yield the label, the control and the note."""
        yield Label(self._label)
        yield self._control
        yield Note()

    def on_mount(self) -> None:
        """Show the initial note."""
        self.note.show_text(self._text)

    def on_descendant_focus(self) -> None:
        """Highlight the label; the pseudo-class :focus-within misses some changes of the focus."""
        self.add_class("-focused")

    def on_descendant_blur(self) -> None:
        """Remove the highlight."""
        self.remove_class("-focused")

    @property
    def note(self) -> Note:
        """Return the note of this field."""
        return self.query_one("Field > Note", Note)


class Lines(TextArea):
    """Text area in which tab completes the line, or moves the focus."""

    class Completed(Message):
        """Tab was pressed."""

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "tab":
            event.stop()
            event.prevent_default()
            self.post_message(self.Completed())
            return
        await super()._on_key(event)


class LinesField(Vertical):
    """Multi-line text field with suggestions for the line at the cursor."""

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
        """The text or the cursor moved; `line` is the line at the cursor."""

        def __init__(self, lines: "LinesField", line: str) -> None:
            self.lines, self.line = lines, line
            super().__init__()

        @property
        def control(self) -> "LinesField":
            """Return the sender."""
            return self.lines

    def __init__(self, placeholder: str, *, next_line: bool, id: str) -> None:
        """Create the field; with `next_line`, the cursor moves to a new line after a suggestion."""
        super().__init__(id=id)
        self._placeholder, self._next_line = placeholder, next_line

    def compose(self) -> ComposeResult:
        """Yield the text area, the note and the suggestions."""
        yield Lines(compact=True, placeholder=self._placeholder, highlight_cursor_line=False)
        yield Note()
        yield Choices()

    def show_problems(self, problems: Sequence[str]) -> None:
        """Show the problems of the lines, or hide the note without problems."""
        note = self.query_one(Note)
        if problems:
            note.show_error(PvError("\n".join(problems)))
        else:
            note.show_text("")

    @property
    def entered(self) -> list[str]:
        """Return the lines that are not empty."""
        return [line.strip() for line in self.query_one(TextArea).text.splitlines() if line.strip()]

    @property
    def line(self) -> str:
        """Return the line at the cursor."""
        area = self.query_one(TextArea)
        return area.document.get_line(area.cursor_location[0])

    def suggest(self, options: list[Option]) -> None:
        """Show suggestions; the id of each is the text that replaces the line at the cursor."""
        self.query_one(Choices).fill(options)

    def write(self, text: str) -> None:
        """Replace the line at the cursor."""
        area = self.query_one(TextArea)
        row = area.cursor_location[0]
        complete = self._next_line and not text.endswith("/")  # after a folder, a file follows
        area.replace(text + "\n" * complete, (row, 0), (row, len(self.line)))
        key, equals, _ = text.partition("=")
        if equals and not self._next_line:  # typing replaces the value
            area.selection = Selection((row, len(key) + 1), (row, len(text)))
        area.focus()

    @on(Lines.Completed)
    def complete(self, event: Lines.Completed) -> None:
        """Insert the first suggestion, unless the line has a value."""
        event.stop()
        choices = self.query_one(Choices)
        options = choices.options
        if self._next_line or not self.line.strip() or "=" in self.line or not options:
            self.screen.focus_next()
        else:
            self.write(options[0].id or "")

    def on_text_area_changed(self) -> None:
        """Report a changed text or cursor."""
        self.post_message(self.Changed(self, self.line))

    on_text_area_selection_changed = on_text_area_changed

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Insert the selected suggestion."""
        event.stop()
        self.write(event.option.id or "")
