"""Forms that create, edit and delete prompt banks."""

from collections.abc import Callable

from textual.app import ComposeResult
from textual.widgets import Input, TextArea

from pvtool.dashboard.screens.forms import Confirm, FormScreen
from pvtool.dashboard.widgets.fields import Field
from pvtool.dashboard.widgets.identity_list import count_noun
from pvtool_core.store.prompts import Bank, Banks

HELP = "<V> stands for the identity; {noun} becomes man, woman or person. One prompt per line."


def _text_area(text: str = "") -> TextArea:
    return TextArea(text, compact=True, id="prompts", highlight_cursor_line=False)


class NewBank(FormScreen[str]):
    """Form that creates a user's prompt bank, optionally from another bank; returns its name."""

    HEADING = "New prompt bank"
    VERB = "Create"
    DEFAULT_CSS = "NewBank TextArea { height: auto; min-height: 4; max-height: 12; }"

    def __init__(self, source: Bank | None, reason: str = "") -> None:
        """Create the form with the prompts of `source`; `reason` is shown as a note."""
        super().__init__()
        self._source, self._reason = source, reason

    def fields(self) -> ComposeResult:
        """Yield name, description and prompts."""
        yield Field("Name", Input(compact=True, id="name"), self._reason)
        description = self._source.description if self._source else ""
        yield Field(
            "Description",
            Input(description, compact=True, id="description", placeholder="topic of the prompts"),
        )
        yield Field(
            "Prompts", _text_area("\n".join(self._source.prompts) if self._source else ""), HELP
        )

    def job(self) -> Callable[[], str]:
        """Return the job that creates the bank."""
        name = self.query_one("#name", Input).value.strip()
        description = self.query_one("#description", Input).value.strip()
        prompts = _lines(self.query_one(TextArea))
        return lambda: Banks().create(name, prompts, description).name


class EditPrompts(FormScreen[str]):
    """Form that adds prompts to a bank or edits a prompt; returns the name of the bank."""

    VERB = "Save"
    DEFAULT_CSS = "EditPrompts TextArea { height: auto; min-height: 4; max-height: 12; }"

    def __init__(self, bank: str, old: str | None = None) -> None:
        super().__init__()
        self._bank, self._old = bank, old
        self.HEADING = f"Edit a prompt of {bank}" if old else f"Add prompts to {bank}"

    def fields(self) -> ComposeResult:
        """Yield the prompts."""
        yield Field("Prompt" if self._old else "Prompts", _text_area(self._old or ""), HELP)

    def job(self) -> Callable[[], str]:
        """Return the job that writes the bank."""
        bank, old, prompts = self._bank, self._old, _lines(self.query_one(TextArea))

        def write() -> str:
            banks, new = Banks(), prompts or [""]  # no prompts are rejected like an empty prompt
            return (banks.exchange(bank, old, new) if old else banks.extend(bank, new)).name

        return write


def confirm_bank_removal(bank: Bank) -> Confirm:
    """Return the dialog that deletes a user's bank after confirmation."""
    lines = [
        f"This permanently deletes the bank {bank.name} with "
        f"{count_noun(len(bank.prompts), 'prompt')}.",
        "Existing runs keep their prompts.",
    ]
    return Confirm(
        f"Delete {bank.name}?", lines, "Delete", lambda: Banks().remove(bank.name), bank.name
    )


def confirm_prompt_removal(bank: str, prompt: str) -> Confirm:
    """Return the dialog that removes a prompt from a user's bank after confirmation."""
    lines = [prompt, f"This removes the prompt from {bank}. Existing runs keep their prompts."]
    return Confirm(
        "Remove this prompt?", lines, "Remove", lambda: Banks().exchange(bank, prompt, []), bank
    )


def _lines(area: TextArea) -> list[str]:
    return [line for line in area.text.splitlines() if line.strip()]
