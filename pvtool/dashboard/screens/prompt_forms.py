"""The forms that begin a bank, write its prompts, and delete it."""

from collections.abc import Callable

from textual.app import ComposeResult
from textual.widgets import Input, TextArea

from pvtool.dashboard.screens.forms import Confirm, FormScreen
from pvtool.dashboard.widgets.fields import Field
from pvtool.dashboard.widgets.identity_list import counted
from pvtool_core.store.prompts import Bank, Banks

HOW = "<V> stands for the person, {noun} becomes man, woman or person. One prompt a line."


def _area(text: str = "") -> TextArea:
    return TextArea(text, compact=True, id="prompts", highlight_cursor_line=False)


class NewBank(FormScreen[str]):
    """Begins a bank of the user's own, if wanted with the prompts of another; gives its name."""

    HEADING = "A bank of your own"
    VERB = "Begin"
    DEFAULT_CSS = "NewBank TextArea { height: auto; min-height: 4; max-height: 12; }"

    def __init__(self, model: Bank | None, reason: str = "") -> None:
        """`model` gives its prompts; `reason` says why this form is there."""
        super().__init__()
        self._model, self._reason = model, reason

    def fields(self) -> ComposeResult:
        """Name, description and prompts."""
        yield Field("Name", Input(compact=True, id="name"), self._reason)
        description = self._model.description if self._model else ""
        yield Field(
            "About",
            Input(
                description, compact=True, id="about", placeholder="what its prompts have in common"
            ),
        )
        yield Field("Prompts", _area("\n".join(self._model.prompts) if self._model else ""), HOW)

    def job(self) -> Callable[[], str]:
        """Write the bank."""
        name, about = (
            self.query_one("#name", Input).value.strip(),
            self.query_one("#about", Input).value.strip(),
        )
        prompts = _lines(self.query_one(TextArea))
        return lambda: Banks().create(name, prompts, about).name


class WritePrompts(FormScreen[str]):
    """Adds prompts to a bank, or changes one of them; gives the bank's name."""

    VERB = "Save"
    DEFAULT_CSS = "WritePrompts TextArea { height: auto; min-height: 4; max-height: 12; }"

    def __init__(self, bank: str, old: str | None = None) -> None:
        super().__init__()
        self._bank, self._old = bank, old
        self.HEADING = f"Change a prompt of {bank}" if old else f"Add prompts to {bank}"

    def fields(self) -> ComposeResult:
        """The prompt, or the prompts."""
        yield Field("Prompt" if self._old else "Prompts", _area(self._old or ""), HOW)

    def job(self) -> Callable[[], str]:
        """Write the bank anew."""
        bank, old, prompts = self._bank, self._old, _lines(self.query_one(TextArea))

        def write() -> str:
            banks, new = Banks(), prompts or [""]  # nothing at all is refused as an empty prompt is
            return (banks.exchange(bank, old, new) if old else banks.extend(bank, new)).name

        return write


def remove_bank(bank: Bank) -> Confirm:
    """Deletes a bank of the user's own, once it was said what goes."""
    what = (
        f"This deletes the bank {bank.name} with {counted(len(bank.prompts), 'prompt')} for good."
    )
    words = [what, "Runs keep the prompts that they began with."]
    return Confirm(
        f"Delete {bank.name}?", words, "Delete", lambda: Banks().remove(bank.name), bank.name
    )


def remove_prompt(bank: str, prompt: str) -> Confirm:
    """Takes a prompt out of a bank of the user's own."""
    words = [prompt, f"It goes out of {bank}; runs keep the prompts that they began with."]
    return Confirm(
        "Take this prompt out?", words, "Take out", lambda: Banks().exchange(bank, prompt, []), bank
    )


def _lines(area: TextArea) -> list[str]:
    return [line for line in area.text.splitlines() if line.strip()]
