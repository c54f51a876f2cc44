"""Application of `pv study take`: the photo and both clips of a pair, and the questions."""

from collections.abc import Sequence

from textual.app import App, ComposeResult
from textual.containers import Horizontal
from textual.filter import LineFilter
from textual.widgets import Footer, Static

from pvtool.dashboard import keys
from pvtool.dashboard.control_filter import ControlCharacterFilter
from pvtool.dashboard.driver import make_driver_class
from pvtool.dashboard.widgets.picture import ClipView
from pvtool.terminal import Terminal
from pvtool_core.study.questions import QUESTIONS, Choice
from pvtool_core.study.session import Screen, Session

_CONTROL_FILTER = ControlCharacterFilter()


class RatingApp(App[None]):
    """Shows each open pair and asks the four questions, until the end or until it is closed.

    The right clip shows the frame that the left one shows, so that both are in step.
    """

    TITLE = "pv study"
    BINDINGS = keys.RATING
    ENABLE_COMMAND_PALETTE = False
    DEFAULT_CSS = """
    RatingApp { layout: vertical; }
    RatingApp Horizontal { height: 1fr; }
    RatingApp #photo { width: 1fr; }
    RatingApp #left, RatingApp #right { width: 2fr; }
    RatingApp Static { height: auto; padding: 0 1; }
    """

    def __init__(self, terminal: Terminal, session: Session) -> None:
        super().__init__(driver_class=make_driver_class(terminal))
        self.terminal = terminal
        self._session = session
        self._choices: dict[str, Choice] = {}

    def get_line_filters(self) -> Sequence[LineFilter]:
        return (*super().get_line_filters(), _CONTROL_FILTER)

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield ClipView("Photo", id="photo")
            yield ClipView("Left", id="left")
            yield ClipView("Right", id="right", follower=True)
        yield Static(id="prompt", markup=False)
        yield Static(id="question", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        self._show_pair()

    def on_clip_view_frame_changed(self, message: ClipView.FrameChanged) -> None:
        if message.clip.id == "left":
            self.query_one("#right", ClipView).follow(message.frame)

    def action_answer(self, choice: str) -> None:
        """Keep the answer to the question, and show the next question or pair."""
        self._choices[QUESTIONS[len(self._choices)].name] = Choice(choice)
        if len(self._choices) < len(QUESTIONS):
            self._show_question()
        else:
            self._session.answer(self._pair, self._choices)
            self._show_pair()

    def action_undo(self) -> None:
        """Return to the question before, of the same pair."""
        if self._choices:
            self._choices.popitem()
            self._show_question()

    def action_pause(self) -> None:
        """Pause both clips or play them; the right one follows the left one."""
        left = self.query_one("#left", ClipView)
        left.playing = not left.playing

    @property
    def _pair(self) -> Screen:
        return self._session.screens[self._session.position]

    def _show_pair(self) -> None:
        if self._session.position == len(self._session.screens):
            self.exit()
            return
        self._choices = {}
        screen, study = self._pair, self._session.study
        self.query_one("#photo", ClipView).show(study.photo(screen.item))
        self.query_one("#left", ClipView).show(study.clip(screen.left))
        self.query_one("#right", ClipView).show(study.clip(screen.right))
        self.query_one("#prompt", Static).update(
            f"{self._session.position + 1} of {len(self._session.screens)}: {screen.item.prompt}"
        )
        self._show_question()

    def _show_question(self) -> None:
        question = QUESTIONS[len(self._choices)]
        self.query_one("#question", Static).update(f"{question.title}: {question.text}")
