"""Query the capabilities of the terminal before Textual is imported.

Textual reads its colour settings when it is imported. All queries go out in one write and end with
one that every terminal replies to (device attributes), so that a fast terminal costs milliseconds
and a slow link one round trip. tmux is queried by its own command, since it misinterprets some
queries.
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
    """How pictures are drawn: by a graphics protocol, as half blocks, or not at all."""

    KITTY = "kitty"
    ITERM2 = "iterm2"
    SIXEL = "sixel"
    BLOCKS = "blocks"
    OFF = "off"


@dataclass(frozen=True)
class Terminal:
    """Capabilities of the terminal.

    `cell` is width and height of a character in pixels; `replied` is false if replies may still
    arrive among the keys; `bytes_per_second` is the limit for all images together.
    """

    pictures: Pictures
    tmux: bool
    colours: Colours
    cell: tuple[int, int] = (10, 20)
    replied: bool = True
    bytes_per_second: int = 200_000


@dataclass(frozen=True)
class _Capabilities:
    """Results of the queries.

    `kitty` means graphics with placeholders, `iterm2` that the terminal prefers iTerm2's protocol,
    and `sixel` that it has enough colour registers; `cell` is the size of a character in pixels.
    """

    kitty: bool = False
    iterm2: bool = False
    sixel: bool = False
    truecolor: bool = False
    cell: tuple[int, int] | None = None
    replied: bool = True


QUERY_TIMEOUT = 1.5
DEVICE_ATTRIBUTES = re.compile(r"\x1b\[\?([\d;]*)c")
REPLY = re.compile(
    r"\x1b_G[^\x1b]*\x1b\\|\x1bP[>01][^\x1b]*\x1b\\|\x1b\[6;\d+;\d+t|\x1b\[\?[\d;]*S|"
    + DEVICE_ATTRIBUTES.pattern
)

_GRAPHICS = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"
_NAME = "\x1b[>0q"
_CELL = "\x1b[16t"
_DIRECT_COLOUR = "\x1b[48;2;1;2;3m\x1bP$qm\x1b\\\x1b[0m"
_REGISTERS = "\x1b[?1;1;0S"  # number of colour registers (XTSMGRAPHICS)
_QUERIES = f"{_GRAPHICS}{_NAME}{_CELL}{_DIRECT_COLOUR}{_REGISTERS}\x1b[c"
_MIN_REGISTERS = 216  # the palette of our sixel images
_SIXEL_ATTRIBUTE = "4"
_ITERM2_NAMES = re.compile(r"\b(iterm|wezterm)")
_ERASE_LINE = "\r\x1b[K"  # erase the text that a terminal may print for an unknown query
_TMUX_FORMAT = "#{allow-passthrough}|#{client_termname} #{client_termtype}|#{client_termfeatures}"
_TRUE_COLOUR_NAMES = re.compile(
    r"\b(kitty|ghostty|wezterm|foot|konsole|iterm|contour|alacritty|vscode|mintty|vte|xterm\(|"
    r"rio\b|warp|direct)"
)
_TRUE_COLOUR_WORDS = {"truecolor", "24bit"}
_PROTOCOLS = (Pictures.KITTY, Pictures.ITERM2, Pictures.SIXEL)  # best first
_COMMON_CELL = (10, 20)


def probe(wanted: str | None = None, timeout: float = QUERY_TIMEOUT) -> Terminal:
    """Query the terminal.

    `wanted` is auto, kitty, iterm2, sixel, blocks or off; None reads PV_IMAGES. Raises UsageError.
    """
    chosen, rate = choice(wanted), _bytes_per_second(os.environ)
    if not (_are_terminals() and os.environ.get("TERM", "dumb") != "dumb"):
        return Terminal(Pictures.OFF if chosen == "auto" else Pictures(chosen), False, "none")
    tmux = "TMUX" in os.environ
    capabilities = (
        _query_tmux()
        if tmux
        else _query(timeout)
        if _can_be_queried(os.environ)
        else _Capabilities()
    )
    cell = capabilities.cell or _cell()
    colours = _colours(os.environ, capabilities, chosen in _PROTOCOLS)
    pictures = _pictures(chosen, capabilities, colours, cell is not None)
    return Terminal(
        pictures,
        tmux,
        colours,
        cell or _COMMON_CELL,
        capabilities.replied,
        rate or _default_rate(os.environ, pictures),
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
        raise UsageError(f"Invalid {source} {name!r}.", f"Use auto, {', '.join(Pictures)}.")
    return name


def _bytes_per_second(environ: Mapping[str, str]) -> int | None:
    value = environ.get("PV_BYTES_PER_SECOND")
    if not value:
        return None
    if not value.isdecimal() or not int(value):
        raise UsageError(
            f"Invalid PV_BYTES_PER_SECOND {value!r}.",
            "Use a whole number of bytes, such as 200000.",
        )
    return int(value)


def _default_rate(environ: Mapping[str, str], pictures: Pictures) -> int:
    """Return the bytes per second of all images: most for pictures sent again with each frame."""
    if environ.get("SSH_CONNECTION"):
        return 60_000
    again = pictures in (Pictures.ITERM2, Pictures.SIXEL) and "TMUX" not in environ
    return 2_000_000 if again else 200_000


def _are_terminals() -> bool:
    """Return whether stdin and stderr, which Textual uses, are terminals."""
    streams = (sys.__stdin__, sys.__stderr__)
    return all(stream is not None and not stream.closed and stream.isatty() for stream in streams)


def _can_be_queried(environ: Mapping[str, str]) -> bool:
    """Return whether queries are safe.

    They are not in a multiplexer, on the kernel console or in the background.
    """
    return (
        not (environ["TERM"].startswith(("screen", "tmux", "linux")) or "STY" in environ)
        and _in_foreground()
    )


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # no controlling terminal
        return True


def _pictures(
    choice: str, capabilities: _Capabilities, colours: Colours, cell_known: bool
) -> Pictures:
    """Return the chosen protocol, or the best one that can be used.

    All protocols encode the image id as a true colour. Sixel images have the size of their pixels,
    so the cell size must be known; others are scaled by the terminal.
    """
    if choice in (Pictures.BLOCKS, Pictures.OFF):
        return Pictures(choice)
    usable = {
        Pictures.KITTY: capabilities.kitty or choice == Pictures.KITTY,
        Pictures.ITERM2: capabilities.iterm2 or choice == Pictures.ITERM2,
        Pictures.SIXEL: cell_known and (capabilities.sixel or choice == Pictures.SIXEL),
    }
    wanted = _PROTOCOLS if choice == "auto" else (Pictures(choice),)
    found = (protocol for protocol in wanted if usable[protocol] and colours == "truecolor")
    return next(found, Pictures.BLOCKS)


def _colours(environ: Mapping[str, str], capabilities: _Capabilities, protocol: bool) -> Colours:
    """Return the colours to use.

    A chosen graphics `protocol` requires true colour, which encodes the image id.
    """
    if environ.get("NO_COLOR"):
        return "none"
    names = " ".join(
        environ.get(key, "") for key in ("TERM", "TERM_PROGRAM", "LC_TERMINAL")
    ).lower()
    # In a multiplexer, COLORTERM describes the terminal in which it was started.
    multiplexed = "TMUX" in environ or "STY" in environ
    by_name = not multiplexed and bool(
        _TRUE_COLOUR_NAMES.search(names) or environ.get("COLORTERM") in _TRUE_COLOUR_WORDS
    )
    if protocol or capabilities.truecolor or by_name:
        return "truecolor"
    return "256" if "256" in names else "16"


def _query(timeout: float) -> _Capabilities:
    replies = _read_replies(timeout)
    name = (re.search(r"\x1bP>\|([^\x1b]*)", replies) or ["", ""])[1].lower()
    cell = re.search(r"\x1b\[6;(\d+);(\d+)t", replies)
    direct = re.search(r"\x1bP1\$r[^\x1b]*48[:;]2[:;]{1,2}1[:;]2[:;]3", replies)
    attributes = DEVICE_ATTRIBUTES.search(replies)
    registers = re.search(r"\x1b\[\?1;0;(\d+)S", replies)
    sixel = attributes is not None and _SIXEL_ATTRIBUTE in attributes[1].split(";")[1:]
    return _Capabilities(
        kitty="\x1b_Gi=31;OK" in replies and _has_placeholders(name),
        iterm2=bool(_ITERM2_NAMES.search(name)) or (sixel and _is_named_iterm2(os.environ)),
        sixel=sixel and (registers is None or int(registers[1]) >= _MIN_REGISTERS),
        truecolor=bool(direct or _TRUE_COLOUR_NAMES.search(name)),
        cell=(int(cell[2]), int(cell[1])) if cell and int(cell[1]) and int(cell[2]) else None,
        replied=attributes is not None,
    )


def _is_named_iterm2(environ: Mapping[str, str]) -> bool:
    """Return whether variables name a terminal with iTerm2's protocol.

    ssh and mosh pass them on, and mosh drops images: the terminal must confirm graphics, too.
    """
    names = (environ.get(key, "").lower() for key in ("TERM_PROGRAM", "LC_TERMINAL"))
    return any(map(_ITERM2_NAMES.search, names))


def _has_placeholders(name: str) -> bool:
    """Return whether a terminal of this name, such as kitty(0.42.1), has image placeholders."""
    if kitty := re.search(r"kitty\((\d+)\.(\d+)", name):
        return (int(kitty[1]), int(kitty[2])) >= (0, 28)
    return "ghostty" in name or "xterm-kitty" in name


def _read_replies(timeout: float) -> str:
    keyboard, screen = sys.__stdin__.fileno(), sys.__stderr__.fileno()  # type: ignore[union-attr]
    deadline = time.monotonic() + timeout
    with _without_echo(keyboard):
        if not select.select([], [screen], [], timeout)[1]:
            return ""  # the link stalls
        os.write(screen, _QUERIES.encode())
        received = _read_until(DEVICE_ATTRIBUTES, keyboard, deadline)
        os.write(screen, _ERASE_LINE.encode())
        if not DEVICE_ATTRIBUTES.search(received):
            termios.tcflush(keyboard, termios.TCIFLUSH)
        return received


@contextlib.contextmanager
def _without_echo(keyboard: int) -> Generator[None]:
    before = termios.tcgetattr(keyboard)
    quiet = termios.tcgetattr(keyboard)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(keyboard, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSANOW, before)


def _read_until(end: re.Pattern[str], keyboard: int, deadline: float) -> str:
    received = ""
    while not end.search(received) and (left := deadline - time.monotonic()) > 0:
        if select.select([keyboard], [], [], left)[0]:
            piece = os.read(keyboard, 4096)
            if not piece:
                break
            received += piece.decode("latin-1")
    return received


def _query_tmux() -> _Capabilities:
    """Ask tmux for the terminal around it, and whether it lets images through."""
    tmux = shutil.which("tmux")
    if not tmux:
        return _Capabilities()
    pane = ["-t", os.environ["TMUX_PANE"]] if "TMUX_PANE" in os.environ else []
    with contextlib.suppress(subprocess.TimeoutExpired):
        command = [tmux, "display-message", "-p", *pane, _TMUX_FORMAT]
        received = subprocess.run(
            command, capture_output=True, text=True, timeout=QUERY_TIMEOUT, check=False
        ).stdout.strip()
        passthrough, name, features = [*received.split("|"), "", "", ""][:3]
        through = passthrough not in {"", "0", "off"}
        return _Capabilities(
            kitty=through and _has_placeholders(name.lower()),
            sixel="sixel" in features.split(","),  # tmux itself draws these
            truecolor="RGB" in features,
        )
    return _Capabilities()


def _cell() -> tuple[int, int] | None:
    """Return the cell size that the kernel reports, if the terminal set it."""
    rows, columns, width, height = struct.unpack("4H", fcntl.ioctl(2, termios.TIOCGWINSZ, bytes(8)))
    return (
        (width // columns, height // rows)
        if rows and columns and width >= columns and height >= rows
        else None
    )
