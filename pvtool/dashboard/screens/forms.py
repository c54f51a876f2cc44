"""What all forms have in common: they do their job in a thread, and keep what was typed until it is done."""

import asyncio
from collections.abc import Callable
from threading import Event
from typing import Generic, TypeVar

from textual import work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Static
from textual.widgets._button import ButtonVariant

from pvtool.dashboard import keys
from pvtool.dashboard.widgets.fields import Note
from pvtool.dashboard.widgets.navigation import HEIGHTS
from pvtool_core.errors import from_foreign

T = TypeVar("T")


class FormScreen(ModalScreen[T | None], Generic[T]):
    """A form over the screen it belongs to; gives what its job made, or None if it was left."""

    DEFAULT_CSS = """
    FormScreen { align: center middle; }
    FormScreen #form {
        width: 90%; max-width: 100; height: auto; max-height: 100%;
        border: round $primary; border-title-color: $accent; border-title-style: bold;
        background: $surface; padding: 1 2 0 2;
    }
    FormScreen #fields { height: auto; max-height: 100%; scrollbar-size-vertical: 1; scrollbar-gutter: stable; }
    FormScreen #end { height: auto; dock: bottom; }
    FormScreen #outcome { margin-top: 1; }
    FormScreen #buttons { height: 1; margin-top: 1; }
    FormScreen #buttons Button { margin-right: 2; min-width: 12; padding: 0 2; }
    FormScreen.-tall Field { margin-bottom: 1; }
    FormScreen.-tall LinesField > Choices { max-height: 16; }
    """
    BINDINGS = keys.FORM
    VERTICAL_BREAKPOINTS = HEIGHTS
    HEADING = ""
    VERB = "Do it"
    DOING = "Working…"
    VARIANT: ButtonVariant = "primary"

    def __init__(self) -> None:
        super().__init__()
        self.left = Event()
        """Set when the form is left: what its thread has begun is to be undone."""

    def compose(self) -> ComposeResult:
        """Fields, what came of them, and the two ways out."""
        with Vertical(id="form") as form:
            form.border_title = self.HEADING
            with VerticalScroll(id="fields", can_focus=False):
                yield from self.fields()
            with Vertical(id="end"):
                yield Note(id="outcome")
                with Horizontal(id="buttons"):
                    yield Button(
                        f"{self.VERB} (ctrl+r)",
                        self.VARIANT,
                        id="go",
                        action="screen.go",
                        compact=True,
                    )
                    yield Button("Cancel (esc)", id="cancel", action="screen.cancel", compact=True)

    def fields(self) -> ComposeResult:
        """What is to be filled in."""
        raise NotImplementedError

    def job(self) -> Callable[[], T]:
        """From what was typed to the work to be done in a thread. Both may raise PvErrors."""
        raise NotImplementedError

    def on_unmount(self) -> None:
        self.left.set()

    def action_cancel(self) -> None:
        """Leave the form."""
        self.left.set()
        self.dismiss(None)

    def action_go(self) -> None:
        """Do it, unless it is being done."""
        go = self.query_one("#go", Button)
        if not go.disabled:
            go.disabled = True
            self.outcome.say(self.DOING)
            self._carry_out()

    @property
    def outcome(self) -> Note:
        """Where it is said how the job goes."""
        return self.query_one("#outcome", Note)

    @work(exit_on_error=False)
    async def _carry_out(self) -> None:
        try:
            self.dismiss(await asyncio.to_thread(self.job()))
        except Exception as error:
            self.outcome.complain(from_foreign(error))
            self.query_one("#go", Button).disabled = False


class Confirm(FormScreen[str]):
    """Says what will be gone, and does it once that is confirmed; gives `name`."""

    VARIANT = "error"

    def __init__(
        self, heading: str, words: list[str], verb: str, act: Callable[[], object], name: str
    ) -> None:
        super().__init__()
        self.HEADING, self.VERB = heading, verb
        self._words, self._act, self._about = words, act, name

    def fields(self) -> ComposeResult:
        """What goes, and what stays."""
        yield from (Static(line, markup=False) for line in self._words)

    def on_mount(self) -> None:
        """Enter, pressed too early, deletes nothing."""
        self.query_one("#cancel").focus()

    def job(self) -> Callable[[], str]:
        """Do it."""

        def act() -> str:
            self._act()
            return self._about

        return act
