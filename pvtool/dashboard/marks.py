"""Signs and colours of states and keywords, the same on every screen."""

from rich.text import Text
from textual.content import Content

from pvtool.text import plain
from pvtool_core.store.liveness import State
from pvtool_core.store.prompts import KEYWORD

BEST = "★ best"
"""Mark of the checkpoint with the highest held-out likeness."""
_STATES = {
    State.NEW: ("○", "text-muted"),
    State.STARTING: ("◌", "text-accent"),
    State.RUNNING: ("●", "text-success"),
    State.PAUSED: ("‖", "text-warning"),
    State.FINISHED: ("✓", "text-primary"),
    State.STOPPED: ("■", "text-muted"),
    State.FAILED: ("✗", "text-error"),
    State.LOST: ("✗", "text-error"),
}


def state_text(state: State) -> str:
    """Return a state with its sign."""
    return f"{_STATES[state][0]} {state}"


def state_cell(state: State, colours: dict[str, str]) -> Text:
    """Return a state as a table cell; `colours` are the theme's variables."""
    return cell(state_text(state), _STATES[state][1], colours)


def cell(text: str, colour: str, colours: dict[str, str]) -> Text:
    """Return a table cell in one of the theme's colours."""
    style = colours.get(colour, "").removeprefix("ansi_")
    return Text(text, style="dim" if "%" in style else style)


def state_content(state: State) -> Content:
    """Return a state for a line of text."""
    sign, colour = _STATES[state]
    return Content.styled(f"{sign} {state}", f"${colour}")


def prompt_content(prompt: str) -> Content:
    """Return a prompt with its keyword highlighted."""
    before, keyword, after = plain(prompt).partition(KEYWORD)
    return Content.assemble(before, (keyword, "bold $text-accent"), after)


def number(value: float | None, digits: int = 3) -> str:
    """Format a reward or a loss for a table; None as a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def bar(done: float, width: int) -> str:
    """Return a progress bar of `width` cells; `done` is a fraction from 0 to 1."""
    filled = round(max(0.0, min(1.0, done)) * width)
    return "━" * filled + "╌" * (width - filled)
