"""Base classes of forms: jobs run in a thread, and entered values are kept until they succeed."""

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
    """Modal form that returns the result of its job, or None if it was cancelled."""

    DEFAULT_CSS = """
    FormScreen { align: center middle; }
    FormScreen #form {
        width: 90%; max-width: 100; height: auto; max-height: 100%;
        border: round $primary; border-title-color: $accent; border-title-style: bold;
        background: $surface; padding: 1 2 0 2;
    }
    FormScreen #fields { height: auto; max-height: 100%; }
    FormScreen #fields { scrollbar-size-vertical: 1; scrollbar-gutter: stable; }
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
    VERB = "Submit"
    PROGRESS = "Working…"
    VARIANT: ButtonVariant = "primary"

    def __init__(self) -> None:
        super().__init__()
        self.closed = Event()
        """Set when the form is closed, so that its thread cleans up."""

    def compose(self) -> ComposeResult:
        """Yield the fields, the outcome and the buttons."""
        with Vertical(id="form") as form:
            form.border_title = self.HEADING
            with VerticalScroll(id="fields", can_focus=False):
                yield from self.fields()
            with Vertical(id="end"):
                yield from self.compose_end()
                yield Note(id="outcome")
                with Horizontal(id="buttons"):
                    yield Button(
                        f"{self.VERB} (ctrl+r)",
                        self.VARIANT,
                        id="submit",
                        action="screen.submit",
                        compact=True,
                    )
                    yield Button("Cancel (esc)", id="cancel", action="screen.cancel", compact=True)

    def fields(self) -> ComposeResult:
        """Yield the fields."""
        raise NotImplementedError

    def compose_end(self) -> ComposeResult:
        """Yield what is shown above the outcome."""
        return iter(())

    def job(self) -> Callable[[], T]:
        """Return the job to run in a thread. This method and the job may raise PvError."""
        raise NotImplementedError

    def on_unmount(self) -> None:
        self.closed.set()

    def action_cancel(self) -> None:
        """Close the form."""
        self.closed.set()
        self.dismiss(None)

    def action_submit(self) -> None:
        """Run the job, unless it is running."""
        button = self.query_one("#submit", Button)
        if not button.disabled:
            button.disabled = True
            self.outcome.show_text(self.PROGRESS)
            self._run_job()

    @property
    def outcome(self) -> Note:
        """Return the note with the progress and errors of the job."""
        return self.query_one("#outcome", Note)

    @work(exit_on_error=False)
    async def _run_job(self) -> None:
        try:
            self.dismiss(await asyncio.to_thread(self.job()))
        except Exception as error:
            self.outcome.show_error(from_foreign(error))
            self.query_one("#submit", Button).disabled = False


class Confirm(FormScreen[str]):
    """Confirmation dialog that runs an action and returns `name`."""

    VARIANT = "error"

    def __init__(
        self, heading: str, lines: list[str], verb: str, action: Callable[[], object], name: str
    ) -> None:
        super().__init__()
        self.HEADING, self.VERB = heading, verb
        self._lines, self._action, self._name_confirmed = lines, action, name

    def fields(self) -> ComposeResult:
        """Yield the description of the action."""
        yield from (Static(line, markup=False) for line in self._lines)

    def on_mount(self) -> None:
        """Focus Cancel, so that pressing enter deletes nothing."""
        self.query_one("#cancel").focus()

    def job(self) -> Callable[[], str]:
        """Return the action."""

        def run() -> str:
            self._action()
            return self._name_confirmed

        return run
