"""Prompt banks: those that came with pv and the user's own, which can be written here."""

import asyncio

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Footer, Input, OptionList, Static

from pvtool.dashboard import keys
from pvtool.dashboard.screens.base import PollingScreen
from pvtool.dashboard.screens.prompt_forms import NewBank, WritePrompts, remove_bank, remove_prompt
from pvtool.dashboard.widgets.choices import Choices
from pvtool.dashboard.widgets.fields import Note
from pvtool.dashboard.widgets.navigation import WIDTHS, Navigation
from pvtool.dashboard.widgets.prompt_list import BrokenBank, bank_option, having, prompt_option
from pvtool_core.errors import PvError, from_foreign
from pvtool_core.store.prompts import Bank, Banks


class PromptsScreen(PollingScreen):
    """All banks, and the prompts of one of them."""

    AUTO_FOCUS = "#banks"

    DEFAULT_CSS = """
    PromptsScreen #banks { width: 28; height: 100%; padding: 1 1 0 1; border-right: solid $panel; }
    PromptsScreen.-wide #banks { width: 40; }
    PromptsScreen.-narrow #both { layout: vertical; }
    PromptsScreen.-narrow #banks { width: 100%; height: 30%; border-right: none; border-bottom: solid $panel; }
    PromptsScreen #bank { padding: 1 2 0 2; }
    PromptsScreen #about { height: auto; margin-bottom: 1; }
    PromptsScreen #filter { display: none; margin-bottom: 1; background: $boost; }
    PromptsScreen #filter.-on { display: block; }
    PromptsScreen #prompts { height: 1fr; max-width: 160; }
    """
    BINDINGS = keys.PROMPTS
    HORIZONTAL_BREAKPOINTS = WIDTHS

    def __init__(self) -> None:
        super().__init__()
        self._banks: dict[str, Bank | BrokenBank] = {}
        self._wanted: str | None = None

    def compose(self) -> ComposeResult:
        """Banks at the left, prompts at the right."""
        yield Navigation("prompts")
        yield Note(id="trouble")
        with Horizontal(id="both"):
            yield Choices(id="banks")
            with Vertical(id="bank"):
                yield Static(id="about")
                yield Input(id="filter", compact=True, placeholder="words that the prompts have")
                yield Note(id="none")
                yield Choices(id="prompts")
        yield Footer(show_command_palette=False, compact=True)

    @work(exclusive=True, group="look", exit_on_error=False)
    async def read_again(self) -> None:
        try:
            banks = await asyncio.to_thread(_read_banks)
        except Exception as error:
            self.query_one("#trouble", Note).complain(from_foreign(error))
            return
        self.query_one("#trouble", Note).say("")
        if banks != list(self._banks.values()) or self._wanted:
            self._banks = {each.name: each for each in banks}
            self.query_one("#banks", Choices).fill(map(bank_option, banks), self._wanted)
            self._wanted = None
            self._show()

    @on(OptionList.OptionHighlighted, "#banks")
    def show(self) -> None:
        """Show the bank that the list points at."""
        self._show()

    @on(Input.Changed, "#filter")
    def narrow(self) -> None:
        """Show the prompts that have these words."""
        self._show()

    def _show(self) -> None:
        bank = self.bank
        words = self.query_one("#filter", Input).value
        prompts = having(bank.prompts, words) if isinstance(bank, Bank) else []
        self.query_one("#about", Static).update(_about(bank, len(prompts)))
        self.query_one("#none", Note).say(
            "" if prompts or not words else "No prompt has these words."
        )
        self.query_one("#prompts", Choices).fill(map(prompt_option, prompts))

    @property
    def bank(self) -> Bank | BrokenBank | None:
        """The bank that is shown."""
        return self._banks.get(self.query_one("#banks", Choices).chosen or "")

    @property
    def prompt(self) -> str | None:
        """The prompt that is pointed at."""
        return self.query_one("#prompts", Choices).chosen

    @on(OptionList.OptionSelected, "#banks")
    def action_other_list(self) -> None:
        """From the banks to the prompts, and back."""
        self.query_one("#prompts" if self.query_one("#banks").has_focus else "#banks").focus()

    @on(OptionList.OptionSelected, "#prompts")
    def action_edit(self) -> None:
        """Change the prompt pointed at."""
        prompt = self.prompt
        if prompt and (bank := self._own_bank()):
            self.app.push_screen(WritePrompts(bank.name, prompt), self._changed)

    def action_add(self) -> None:
        """Add prompts to the bank shown."""
        if bank := self._own_bank():
            self.app.push_screen(WritePrompts(bank.name), self._changed)

    def action_new(self) -> None:
        """Begin a bank, with the prompts of the one shown."""
        self.app.push_screen(
            NewBank(self.bank if isinstance(self.bank, Bank) else None), self._changed
        )

    def action_remove(self) -> None:
        """Take the prompt pointed at out of its bank; or, among the banks, delete the bank."""
        prompt = self.prompt
        if not (bank := self._own_bank()):
            return
        if self.query_one("#banks").has_focus:
            self.app.push_screen(remove_bank(bank), self._changed)
        elif prompt:
            self.app.push_screen(remove_prompt(bank.name, prompt), self._changed)

    def _own_bank(self) -> Bank | None:
        """The bank shown, if it can be written; for a shipped one, offer to begin another with its prompts."""
        bank = self.bank
        if not isinstance(bank, Bank):
            return None
        if bank.own:
            return bank
        reason = f"{bank.name} came with pv and stays as it is. This begins a bank of your own with its prompts."
        self.app.push_screen(NewBank(bank, reason), self._changed)
        return None

    def _changed(self, name: str | None) -> None:
        self._wanted = name
        self.look()

    def action_filter(self) -> None:
        """Ask for words that the prompts must have."""
        self.query_one("#filter").add_class("-on").focus()

    @on(Input.Submitted, "#filter")
    def filtered(self) -> None:
        """Go to what was found."""
        self.query_one("#prompts").focus()

    def action_clear(self) -> None:
        """Show all prompts again."""
        box = self.query_one("#filter", Input)
        if box.has_class("-on"):
            box.remove_class("-on").clear()
            self.query_one("#prompts").focus()

    def action_down(self) -> None:
        """The next bank."""
        self.query_one("#banks", Choices).action_cursor_down()

    def action_first(self) -> None:
        """The first one."""
        self.query_one("#banks", Choices).action_first()

    def action_last(self) -> None:
        """The last one."""
        self.query_one("#banks", Choices).action_last()

    def action_up(self) -> None:
        """The bank before."""
        self.query_one("#banks", Choices).action_cursor_up()


def _about(bank: Bank | BrokenBank | None, shown: int) -> Content:
    if bank is None:
        return Content("No bank is there: `n` begins one.")
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
    """A bank whose file is wrong is listed too, with what is wrong."""
    try:
        return banks.get(name)
    except (PvError, OSError, UnicodeDecodeError) as error:
        problem = from_foreign(error)
        return BrokenBank(name, f"{problem.message} {problem.hint}")
