"""Ask the questions of a study line by line, with photo and clips in the system's player."""

import shutil
import subprocess
from pathlib import Path

import typer

from pvtool.output import Output
from pvtool.text import shown
from pvtool_core.errors import NotReady
from pvtool_core.study.questions import QUESTIONS, Choice
from pvtool_core.study.session import Screen, Session

_KEYS = {"1": Choice.LEFT, "2": Choice.TIE, "3": Choice.RIGHT}
_HELP = "1 left, 2 equal, 3 right, r replay, q stop; then Enter."
_OPENERS = ("xdg-open", "open")


def ask_in_terminal(session: Session, output: Output) -> None:
    """Show each open pair and keep its answers, until the end or until the rater stops.

    Raises NotReady without a program that opens files.
    """
    while (number := session.position) < len(session.screens):
        screen = session.screens[number]
        output.say(f"Pair {number + 1} of {len(session.screens)}: {screen.item.prompt}")
        for title, file in _files(session, screen).items():
            output.say(f"  {title}: {shown(file)}")
        output.say(_HELP)
        _open(session, screen)
        choices: dict[str, Choice] = {}
        for question in QUESTIONS:
            choice = _answer(session, screen, f"{question.title}: {question.text}", output)
            if choice is None:
                return
            choices[question.name] = choice
        session.answer(screen, choices)


def _answer(session: Session, screen: Screen, text: str, output: Output) -> Choice | None:
    """Return the answer to one question, or None if the rater stops."""
    while True:
        word = typer.prompt(text, prompt_suffix=" ", err=True).strip().lower()
        if word == "q":
            return None
        if word == "r":
            _open(session, screen)
        elif word in _KEYS:
            return _KEYS[word]
        else:
            output.say(_HELP)


def _files(session: Session, screen: Screen) -> dict[str, Path]:
    study = session.study
    return {
        "photo": study.photo(screen.item),
        "left": study.clip(screen.left),
        "right": study.clip(screen.right),
    }


def _open(session: Session, screen: Screen) -> None:
    """Open photo and clips without waiting: some players return at once, others when closed."""
    program = next(filter(None, map(shutil.which, _OPENERS)), None)
    if program is None:
        raise NotReady(
            [" or ".join(_OPENERS)],
            "Use a terminal with Kitty graphics, or open the page in a browser.",
        )
    for file in _files(session, screen).values():
        subprocess.Popen(
            [program, str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
