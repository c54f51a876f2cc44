"""Prompts and their banks as lines of lists."""

import re
from dataclasses import dataclass

from textual.content import Content
from textual.widgets.option_list import Option

from pvtool.dashboard.widgets.identity_list import counted
from pvtool_core.store.prompts import KEYWORD, NOUN, Bank

_MARKED = re.compile(f"({re.escape(KEYWORD)}|{re.escape(NOUN)})")
_STYLES = {KEYWORD: "bold $text-accent", NOUN: "italic dim"}


@dataclass(frozen=True)
class BrokenBank:
    """A bank whose file is wrong."""

    name: str
    problem: str


def bank_option(bank: Bank | BrokenBank) -> Option:
    """A bank as a line of the list."""
    if isinstance(bank, BrokenBank):
        return Option(
            Content.assemble((bank.name, "bold"), "\n", ("cannot be read", "$text-error")),
            id=bank.name,
        )
    about = f"{'yours' if bank.own else 'shipped'} · {counted(len(bank.prompts), 'prompt')}"
    return Option(Content.assemble((bank.name, "bold"), "\n", (about, "dim")), id=bank.name)


def prompt_option(prompt: str) -> Option:
    """A prompt with its keyword marked."""
    parts = (Content.styled(part, _STYLES.get(part, "")) for part in _MARKED.split(prompt))
    return Option(Content("").join(parts), id=prompt)


def having(prompts: tuple[str, ...], words: str) -> list[str]:
    """The prompts in which each of the words is, in any order and case."""
    wanted = words.lower().split()
    return [prompt for prompt in prompts if all(word in prompt.lower() for word in wanted)]
