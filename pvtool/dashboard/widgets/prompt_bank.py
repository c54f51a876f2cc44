"""The prompts of a run, and how often each was drawn."""

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from pvtool.dashboard.follow.run import RunView
from pvtool.dashboard.marks import prompt_words

_BAR = 8


class PromptBank(VerticalScroll):
    """One line a prompt: how often it was drawn, as a bar and a number; the newest one marked."""

    DEFAULT_CSS = """
    PromptBank { padding: 0 1; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines = -1

    def compose(self) -> ComposeResult:
        yield Static()

    def show(self, known: RunView) -> None:
        """List the run's prompts."""
        history = known.history
        listed = dict.fromkeys((*known.job.prompts, *history.drawn) if known.job else history.drawn)
        most = max(history.drawn.values(), default=0)
        room = max(20, self.scrollable_content_region.width - _BAR - 10)
        lines = [
            line
            for prompt in filter(None, listed)
            for line in _lines(prompt, history.drawn[prompt], most, prompt == history.prompt, room)
        ]
        words = Content("\n").join(lines) if lines else "No prompt was drawn yet."
        self.query_one(Static).update(words, layout=len(lines) != self._lines)
        self._lines = len(lines)


def _lines(prompt: str, count: int, most: int, newest: bool, room: int) -> list[Content]:
    """A prompt that has no room in one line goes on under its own beginning."""
    filled = -(-count * _BAR // most) if most else 0
    drawn = Content.styled(
        "▪" * filled + " " * (_BAR - filled), "$accent" if newest else "$primary"
    )
    text = prompt_words(prompt).stylize("bold") if newest else prompt_words(prompt)
    head = Content.assemble("› " if newest else "  ", f"{count:5} ", drawn, " ")
    first, *rest = text.wrap(room)
    return [head + first, *(Content(" " * (_BAR + 9)) + line for line in rest)]


class CurrentPrompt(Static):
    """The prompt that is being trained now, its keyword marked."""

    DEFAULT_CSS = """
    CurrentPrompt { height: 2; padding: 0 1; color: $text; text-overflow: ellipsis; }
    """

    def show(self, known: RunView) -> None:
        """Say which prompt and which noise the newest step had."""
        history = known.history
        if history.prompt:
            said = Content.assemble(
                prompt_words(history.prompt), (f"  seed {history.seed}", "$text-muted")
            )
        else:
            said = Content.styled("No step yet." if known.read else "Reading…", "$text-muted")
        self.update(said, layout=False)
