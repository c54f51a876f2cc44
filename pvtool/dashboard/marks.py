"""How the dashboard marks states and keywords: the same on every screen, and by more than colour."""

from rich.text import Text
from textual.content import Content

from pvtool.text import plain
from pvtool_core.store.liveness import State
from pvtool_core.store.prompts import KEYWORD

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


def state_cell(state: State, colours: dict[str, str]) -> Text:
    """A state for a table; `colours` are the theme's variables."""
    sign, colour = _STATES[state]
    return cell(f"{sign} {state}", colour, colours)


def cell(words: str, colour: str, colours: dict[str, str]) -> Text:
    """Words for a table in one of the theme's colours."""
    style = colours.get(colour, "").removeprefix("ansi_")
    return Text(words, style="dim" if "%" in style else style)


def state_words(state: State) -> Content:
    """A state for a line of text."""
    sign, colour = _STATES[state]
    return Content.styled(f"{sign} {state}", f"${colour}")


def prompt_words(prompt: str) -> Content:
    """A prompt with its keyword marked."""
    before, keyword, after = plain(prompt).partition(KEYWORD)
    return Content.assemble(before, (keyword, "bold $text-accent"), after)


def number(value: float | None, digits: int = 3) -> str:
    """A reward or a loss in a table; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def bar(done: float, width: int) -> str:
    """A share from 0 to 1 as a thin line of that many cells."""
    filled = round(max(0.0, min(1.0, done)) * width)
    return "━" * filled + "╌" * (width - filled)
