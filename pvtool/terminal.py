"""Query the capabilities of the terminal, once, before Textual is imported and reads its colour
settings.

All queries go out in one write and end with one that every terminal answers (device attributes), so
that a fast terminal costs milliseconds and a slow link one round trip. tmux is queried by its own
command, since it misinterprets some queries.
"""

import contextlib
import fcntl
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pvtool_core.errors import UsageError

Colours = Literal["truecolor", "256", "16", "none"]


class Pictures(StrEnum):
    """How pictures are drawn: by Kitty's graphics protocol, as half blocks, or not at all."""

    KITTY = "kitty"
    BLOCKS = "blocks"
    OFF = "off"


@dataclass(frozen=True)
class Terminal:
    """Capabilities of the terminal.

    `cell` is width and height of a character in pixels; `answered` is false if answers may still
    arrive among the keys; `bytes_per_second` is the limit for all images together.
    """

    pictures: Pictures
    tmux: bool
    colours: Colours
    cell: tuple[int, int] = (10, 20)
    answered: bool = True
    bytes_per_second: int = 200_000


@dataclass(frozen=True)
class _Facts:
    """Results of the queries: graphics with placeholders, true colour, a name such as
    `kitty(0.42.1)`, cell size.
    """

    kitty: bool = False
    truecolor: bool = False
    cell: tuple[int, int] | None = None
    answered: bool = True


PATIENCE = 1.5
ATTRIBUTES = re.compile(r"\x1b\[\?[\d;]*c")
ANSWER = re.compile(
    rf"\x1b_G[^\x1b]*\x1b\\|\x1bP[>01][^\x1b]*\x1b\\|\x1b\[6;\d+;\d+t|{ATTRIBUTES.pattern}"
)

_GRAPHICS = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"
_NAME = "\x1b[>0q"
_CELL = "\x1b[16t"
_DIRECT_COLOUR = "\x1b[48;2;1;2;3m\x1bP$qm\x1b\\\x1b[0m"
_QUESTIONS = f"{_GRAPHICS}{_NAME}{_CELL}{_DIRECT_COLOUR}\x1b[c"
_WIPE = "\r\x1b[K"  # what a terminal may have printed that does not know one of the questions
_TMUX_FORMAT = "#{allow-passthrough}|#{client_termname} #{client_termtype}|#{client_termfeatures}"
_TRUE_COLOUR_NAMES = re.compile(
    r"\b(kitty|ghostty|wezterm|foot|konsole|iterm|contour|alacritty|vscode|mintty|vte|xterm\(|rio\b|warp|direct)"
)
_TRUE_COLOUR_WORDS = {"truecolor", "24bit"}


def probe(wanted: str | None = None, patience: float = PATIENCE) -> Terminal:
    """Query the terminal.

    `wanted` is auto, kitty, blocks or off; None reads PV_IMAGES. Raises UsageError.
    """
    chosen, rate = choice(wanted), _bytes_per_second(os.environ)
    if not (_are_terminals() and os.environ.get("TERM", "dumb") != "dumb"):
        return Terminal(Pictures.OFF if chosen == "auto" else Pictures(chosen), False, "none")
    tmux = "TMUX" in os.environ
    facts = _ask_tmux() if tmux else _ask(patience) if _can_be_asked(os.environ) else _Facts()
    colours = _colours(os.environ, facts, chosen == "kitty")
    return Terminal(
        _pictures(chosen, facts, colours),
        tmux,
        colours,
        facts.cell or _cell(),
        facts.answered,
        rate,
    )


def prepare(terminal: Terminal) -> None:
    """Set the environment for Textual, which must not be imported yet."""
    systems = {"truecolor": "truecolor", "256": "256", "16": "standard"}
    if terminal.colours in systems:
        os.environ["TEXTUAL_COLOR_SYSTEM"] = systems[terminal.colours]
    if not os.environ.get("NO_COLOR"):
        os.environ.pop("NO_COLOR", None)  # empty means unset; Textual would take it for set


def choice(wanted: str | None = None) -> str:
    """Return the image protocol: `wanted`, otherwise PV_IMAGES. Raises UsageError."""
    name, source = (
        (wanted, "--images")
        if wanted is not None
        else (os.environ.get("PV_IMAGES") or "auto", "PV_IMAGES")
    )
    if name not in {"auto", *Pictures}:
        raise UsageError(f"Invalid {source} {name!r}.", "Use auto, kitty, blocks or off.")
    return name


def _bytes_per_second(environ: Mapping[str, str]) -> int:
    asked = environ.get("PV_BYTES_PER_SECOND") or (
        "60000" if environ.get("SSH_CONNECTION") else "200000"
    )
    if not asked.isdecimal() or not int(asked):
        raise UsageError(
            f"Invalid PV_BYTES_PER_SECOND {asked!r}.",
            "Use a whole number of bytes, such as 200000.",
        )
    return int(asked)


def _are_terminals() -> bool:
    """Return whether stdin and stderr, which Textual uses, are terminals."""
    streams = (sys.__stdin__, sys.__stderr__)
    return all(stream is not None and not stream.closed and stream.isatty() for stream in streams)


def _can_be_asked(environ: Mapping[str, str]) -> bool:
    """Return whether queries are safe: not in a multiplexer, on the kernel console or in the
    background.
    """
    return (
        not (environ["TERM"].startswith(("screen", "tmux", "linux")) or "STY" in environ)
        and _in_foreground()
    )


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # no controlling terminal: nothing stops who writes
        return True


def _pictures(choice: str, facts: _Facts, colours: Colours) -> Pictures:
    if choice != "auto" and not (choice == "kitty" and colours == "none"):
        return Pictures(choice)
    return Pictures.KITTY if facts.kitty and colours == "truecolor" else Pictures.BLOCKS


def _colours(environ: Mapping[str, str], facts: _Facts, kitty: bool) -> Colours:
    """Return the number of colours; with `kitty` true colour is required, since it encodes the
    image number.
    """
    if environ.get("NO_COLOR"):
        return "none"
    names = " ".join(
        environ.get(key, "") for key in ("TERM", "TERM_PROGRAM", "LC_TERMINAL")
    ).lower()
    multiplexed = (
        "TMUX" in environ or "STY" in environ
    )  # COLORTERM then tells of the terminal that began it
    by_name = not multiplexed and bool(
        _TRUE_COLOUR_NAMES.search(names) or environ.get("COLORTERM") in _TRUE_COLOUR_WORDS
    )
    if kitty or facts.truecolor or by_name:
        return "truecolor"
    return "256" if "256" in names else "16"


def _ask(patience: float) -> _Facts:
    answers = _answers(patience)
    name = (re.search(r"\x1bP>\|([^\x1b]*)", answers) or ["", ""])[1].lower()
    cell = re.search(r"\x1b\[6;(\d+);(\d+)t", answers)
    direct = re.search(r"\x1bP1\$r[^\x1b]*48[:;]2[:;]{1,2}1[:;]2[:;]3", answers)
    return _Facts(
        kitty="\x1b_Gi=31;OK" in answers and _has_placeholders(name),
        truecolor=bool(direct or _TRUE_COLOUR_NAMES.search(name)),
        cell=(int(cell[2]), int(cell[1])) if cell and int(cell[1]) and int(cell[2]) else None,
        answered=bool(ATTRIBUTES.search(answers)),
    )


def _has_placeholders(name: str) -> bool:
    """Return whether a terminal of this name, such as kitty(0.42.1), supports image placeholders."""
    if kitty := re.search(r"kitty\((\d+)\.(\d+)", name):
        return (int(kitty[1]), int(kitty[2])) >= (0, 28)
    return "ghostty" in name or "xterm-kitty" in name


def _answers(patience: float) -> str:
    keyboard, screen = sys.__stdin__.fileno(), sys.__stderr__.fileno()  # type: ignore[union-attr]
    deadline = time.monotonic() + patience
    with _unechoed(keyboard):
        if not select.select([], [screen], [], patience)[1]:
            return ""  # the link stalls: even a question would wait
        os.write(screen, _QUESTIONS.encode())
        said = _read_until(ATTRIBUTES, keyboard, deadline)
        os.write(screen, _WIPE.encode())
        if not ATTRIBUTES.search(said):
            termios.tcflush(keyboard, termios.TCIFLUSH)
        return said


@contextlib.contextmanager
def _unechoed(keyboard: int) -> Generator[None]:
    before = termios.tcgetattr(keyboard)
    quiet = termios.tcgetattr(keyboard)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(keyboard, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSANOW, before)


def _read_until(end: re.Pattern[str], keyboard: int, deadline: float) -> str:
    said = ""
    while not end.search(said) and (left := deadline - time.monotonic()) > 0:
        if select.select([keyboard], [], [], left)[0]:
            piece = os.read(keyboard, 4096)
            if not piece:
                break
            said += piece.decode("latin-1")
    return said


def _ask_tmux() -> _Facts:
    """Ask tmux for the terminal around it, and whether it lets images through."""
    tmux = shutil.which("tmux")
    if not tmux:
        return _Facts()
    pane = ["-t", os.environ["TMUX_PANE"]] if "TMUX_PANE" in os.environ else []
    with contextlib.suppress(subprocess.TimeoutExpired):
        asked = [tmux, "display-message", "-p", *pane, _TMUX_FORMAT]
        said = subprocess.run(
            asked, capture_output=True, text=True, timeout=PATIENCE, check=False
        ).stdout.strip()
        passthrough, name, features = [*said.split("|"), "", "", ""][:3]
        through = passthrough not in {"", "0", "off"}
        return _Facts(
            kitty=through and _has_placeholders(name.lower()), truecolor="RGB" in features
        )
    return _Facts()


def _cell() -> tuple[int, int]:
    """Return the cell size that the kernel reports, if the terminal set it."""
    rows, columns, width, height = struct.unpack("4H", fcntl.ioctl(2, termios.TIOCGWINSZ, bytes(8)))
    return (
        (width // columns, height // rows)
        if rows and columns and width >= columns and height >= rows
        else (10, 20)
    )
