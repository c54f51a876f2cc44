"""Prompts of a run with their counts."""

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from pvtool.dashboard.follow.run import RunView
from pvtool.dashboard.marks import prompt_content

_BAR = 8


class PromptBank(VerticalScroll):
    """List of prompts with their counts as bars and numbers; the current prompt is marked."""

    DEFAULT_CSS = """
    PromptBank { padding: 0 1; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines = -1

    def compose(self) -> ComposeResult:
        yield Static()

    def show(self, run: RunView) -> None:
        """List the prompts of the run."""
        history = run.history
        listed = dict.fromkeys(
            (*run.job.prompts, *history.prompt_counts) if run.job else history.prompt_counts
        )
        largest = max(history.prompt_counts.values(), default=0)
        room = max(20, self.scrollable_content_region.width - _BAR - 10)
        lines = [
            line
            for prompt in filter(None, listed)
            for line in _lines(
                prompt, history.prompt_counts[prompt], largest, prompt == history.prompt, room
            )
        ]
        text = Content("\n").join(lines) if lines else "No prompts drawn yet."
        self.query_one(Static).update(text, layout=len(lines) != self._lines)
        self._lines = len(lines)


def _lines(prompt: str, count: int, largest: int, newest: bool, room: int) -> list[Content]:
    """Return the lines of a prompt; a long prompt is wrapped and indented."""
    filled = -(-count * _BAR // largest) if largest else 0
    bar = Content.styled("▪" * filled + " " * (_BAR - filled), "$accent" if newest else "$primary")
    text = prompt_content(prompt).stylize("bold") if newest else prompt_content(prompt)
    head = Content.assemble("› " if newest else "  ", f"{count:5} ", bar, " ")
    first, *rest = text.wrap(room)
    return [head + first, *(Content(" " * (_BAR + 9)) + line for line in rest)]


class CurrentPrompt(Static):
    """The prompt of the newest step, with its keyword highlighted."""

    DEFAULT_CSS = """
    CurrentPrompt { height: 2; padding: 0 1; color: $text; text-overflow: ellipsis; }
    """

    def show(self, run: RunView) -> None:
        """Show the prompt and the seed of the newest step."""
        history = run.history
        if history.prompt:
            text = Content.assemble(
                prompt_content(history.prompt), (f"  seed {history.seed}", "$text-muted")
            )
        else:
            text = Content.styled("No steps yet." if run.loaded else "Reading…", "$text-muted")
        self.update(text, layout=False)
