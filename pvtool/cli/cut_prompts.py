"""Warn about prompts that are too long for a text encoder."""

from collections.abc import Iterable

from pvtool.output import Output
from pvtool_core.models.prompt_limits import Cut

SHOWN_CUTS = 20


def warn_of_cuts(output: Output, cuts: Iterable[Cut]) -> None:
    """Warn about prompts that are too long for a text encoder."""
    messages = list(dict.fromkeys(cut.message for cut in cuts))
    for message in messages[:SHOWN_CUTS]:
        output.say(f"Warning: {message}")
    if len(messages) > SHOWN_CUTS:
        output.say(f"Warning: the ends of {len(messages) - SHOWN_CUTS} more prompts are cut off.")
