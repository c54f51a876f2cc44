"""Screen of the prompt banks, shipped and the user's own; own banks can be edited."""

import asyncio

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Input, OptionList, Static

from pvtool.dashboard import keys
from pvtool.dashboard.screens.base import PollingScreen
from pvtool.dashboard.screens.prompt_forms import (
    EditPrompts,
    NewBank,
    confirm_bank_removal,
    confirm_prompt_removal,
)
from pvtool.dashboard.widgets.choices import Choices
from pvtool.dashboard.widgets.fields import Note
from pvtool.dashboard.widgets.key_footer import KeyFooter
from pvtool.dashboard.widgets.navigation import WIDTHS, Navigation
from pvtool.dashboard.widgets.prompt_list import (
    BrokenBank,
    bank_option,
    matching_prompts,
    prompt_option,
)
from pvtool_core.errors import PvError, from_foreign
from pvtool_core.store.prompts import Bank, Banks


class PromptsScreen(PollingScreen):
    """List of the banks and the prompts of the selected one."""

    AUTO_FOCUS = "#banks"

    DEFAULT_CSS = """
    PromptsScreen #banks { width: 28; height: 100%; padding: 1 1 0 1; border-right: solid $panel; }
    PromptsScreen.-wide #banks { width: 40; }
    PromptsScreen.-narrow #both { layout: vertical; }
    PromptsScreen.-narrow #banks { width: 100%; height: 30%; }
    PromptsScreen.-narrow #banks { border-right: none; border-bottom: solid $panel; }
    PromptsScreen #bank { padding: 1 2 0 2; }
    PromptsScreen #summary { height: auto; margin-bottom: 1; }
    PromptsScreen #filter { display: none; margin-bottom: 1; background: $boost; }
    PromptsScreen #filter.-shown { display: block; }
    PromptsScreen #prompts { height: 1fr; max-width: 160; }
    """
    BINDINGS = keys.PROMPTS
    HORIZONTAL_BREAKPOINTS = WIDTHS

    def __init__(self) -> None:
        super().__init__()
        self._banks: dict[str, Bank | BrokenBank] = {}
        self._wanted: str | None = None

    def compose(self) -> ComposeResult:
        """Yield the banks on the left and the prompts on the right."""
        yield Navigation("prompts")
        yield Note(id="error")
        with Horizontal(id="both"):
            yield Choices(id="banks")
            with Vertical(id="bank"):
                yield Static(id="summary")
                yield Input(id="filter", compact=True, placeholder="filter words")
                yield Note(id="no-match")
                yield Choices(id="prompts")
        yield KeyFooter()

    @work(exclusive=True, group="reload", exit_on_error=False)
    async def reload(self) -> None:
        try:
            banks = await asyncio.to_thread(_read_banks)
        except Exception as error:
            self.query_one("#error", Note).show_error(from_foreign(error))
            return
        self.query_one("#error", Note).show_text("")
        if banks != list(self._banks.values()) or self._wanted:
            self._banks = {bank.name: bank for bank in banks}
            self.query_one("#banks", Choices).fill(map(bank_option, banks), self._wanted)
            self._wanted = None
            self._show()

    @on(OptionList.OptionHighlighted, "#banks")
    def show(self) -> None:
        """Show the highlighted bank."""
        self._show()

    @on(Input.Changed, "#filter")
    def apply_filter(self) -> None:
        """Show the prompts that match the filter."""
        self._show()

    def _show(self) -> None:
        bank = self.bank
        words = self.query_one("#filter", Input).value
        prompts = matching_prompts(bank.prompts, words) if isinstance(bank, Bank) else []
        self.query_one("#summary", Static).update(_summary(bank, len(prompts)))
        self.query_one("#no-match", Note).show_text(
            "" if prompts or not words else "No matching prompts."
        )
        self.query_one("#prompts", Choices).fill(map(prompt_option, prompts))

    @property
    def bank(self) -> Bank | BrokenBank | None:
        """Return the shown bank."""
        return self._banks.get(self.query_one("#banks", Choices).selected_id or "")

    @property
    def prompt(self) -> str | None:
        """Return the highlighted prompt."""
        return self.query_one("#prompts", Choices).selected_id

    @on(OptionList.OptionSelected, "#banks")
    def action_other_list(self) -> None:
        """Move the focus between banks and prompts."""
        self.query_one("#prompts" if self.query_one("#banks").has_focus else "#banks").focus()

    @on(OptionList.OptionSelected, "#prompts")
    def action_edit(self) -> None:
        """Open the form that edits the highlighted prompt."""
        prompt = self.prompt
        if prompt and (bank := self._own_bank()):
            self.app.push_screen(EditPrompts(bank.name, prompt), self._changed)

    def action_add(self) -> None:
        """Open the form that adds prompts to the shown bank."""
        if bank := self._own_bank():
            self.app.push_screen(EditPrompts(bank.name), self._changed)

    def action_new(self) -> None:
        """Open the form for a new bank with the prompts of the shown one."""
        self.app.push_screen(
            NewBank(self.bank if isinstance(self.bank, Bank) else None), self._changed
        )

    def action_remove(self) -> None:
        """Ask for confirmation and remove the highlighted prompt, or the focused bank."""
        prompt = self.prompt
        if not (bank := self._own_bank()):
            return
        if self.query_one("#banks").has_focus:
            self.app.push_screen(confirm_bank_removal(bank), self._changed)
        elif prompt:
            self.app.push_screen(confirm_prompt_removal(bank.name, prompt), self._changed)

    def _own_bank(self) -> Bank | None:
        """Return the shown bank if it can be edited; otherwise open the form for a copy."""
        bank = self.bank
        if not isinstance(bank, Bank):
            return None
        if bank.own:
            return bank
        reason = (
            f"{bank.name} is shipped with pv and cannot be changed. This creates your own copy."
        )
        self.app.push_screen(NewBank(bank, reason), self._changed)
        return None

    def _changed(self, name: str | None) -> None:
        self._wanted = name
        self.poll()

    def action_filter(self) -> None:
        """Show and focus the filter."""
        self.query_one("#filter").add_class("-shown").focus()

    @on(Input.Submitted, "#filter")
    def filtered(self) -> None:
        """Focus the matching prompts."""
        self.query_one("#prompts").focus()

    def action_clear(self) -> None:
        """Clear the filter."""
        box = self.query_one("#filter", Input)
        if box.has_class("-shown"):
            box.remove_class("-shown").clear()
            self.query_one("#prompts").focus()

    def action_down(self) -> None:
        """Select the next bank."""
        self.query_one("#banks", Choices).action_cursor_down()

    def action_first(self) -> None:
        """Select the first bank."""
        self.query_one("#banks", Choices).action_first()

    def action_last(self) -> None:
        """Select the last bank."""
        self.query_one("#banks", Choices).action_last()

    def action_up(self) -> None:
        """Select the previous bank."""
        self.query_one("#banks", Choices).action_cursor_up()


def _summary(bank: Bank | BrokenBank | None, shown: int) -> Content:
    if bank is None:
        return Content("No prompt banks. Press n to create one.")
    if isinstance(bank, BrokenBank):
        return Content.assemble((bank.name, "bold"), "  ", (bank.problem, "$text-error"))
    count = (
        f"{shown} of {len(bank.prompts)} prompts"
        if shown < len(bank.prompts)
        else f"{shown} prompts"
    )
    return Content.assemble(
        (bank.name, "bold"), "  ", (f"{count} · {bank.description}".rstrip(" ·"), "dim")
    )


def _read_banks() -> list[Bank | BrokenBank]:
    banks = Banks()
    return [_read_bank(banks, name) for name in banks.names()]


def _read_bank(banks: Banks, name: str) -> Bank | BrokenBank:
    """Return a bank for the list, or its problem if its file is invalid."""
    try:
        return banks.get(name)
    except (PvError, OSError, UnicodeDecodeError) as error:
        problem = from_foreign(error)
        return BrokenBank(name, f"{problem.message} {problem.hint}")
