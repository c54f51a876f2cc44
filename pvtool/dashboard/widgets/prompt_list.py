"""List entries of prompts and prompt banks."""

import re
from dataclasses import dataclass

from textual.content import Content
from textual.widgets.option_list import Option

from pvtool.dashboard.widgets.identity_list import count_noun
from pvtool_core.store.prompts import KEYWORD, NOUN, Bank

_MARKED = re.compile(f"({re.escape(KEYWORD)}|{re.escape(NOUN)})")
_STYLES = {KEYWORD: "bold $text-accent", NOUN: "italic dim"}


@dataclass(frozen=True)
class BrokenBank:
    """Prompt bank with an invalid file."""

    name: str
    problem: str


def bank_option(bank: Bank | BrokenBank) -> Option:
    """Return the list entry of a bank."""
    if isinstance(bank, BrokenBank):
        return Option(
            Content.assemble((bank.name, "bold"), "\n", ("cannot be read", "$text-error")),
            id=bank.name,
        )
    details = f"{'yours' if bank.own else 'shipped'} · {count_noun(len(bank.prompts), 'prompt')}"
    return Option(Content.assemble((bank.name, "bold"), "\n", (details, "dim")), id=bank.name)


def prompt_option(prompt: str) -> Option:
    """Return the list entry of a prompt, with its keyword highlighted."""
    parts = (Content.styled(part, _STYLES.get(part, "")) for part in _MARKED.split(prompt))
    return Option(Content("").join(parts), id=prompt)


def matching_prompts(prompts: tuple[str, ...], words: str) -> list[str]:
    """Return the prompts that contain all words, in any order and case."""
    wanted = words.lower().split()
    return [prompt for prompt in prompts if all(word in prompt.lower() for word in wanted)]
