"""Signals to a terminal when a job ends: its bell, and notifications by OSC 9 or OSC 777."""

import os
from collections.abc import Iterable

from pvtool.text import plain

_BELL = "\a"
_MOST = 200  # characters; some terminals ignore longer sequences


def terminal_signals(kinds: Iterable[str], text: str) -> list[str]:
    """Return what to write to a terminal for each kind: bell, osc9 or osc777.

    In tmux, OSC sequences are passed on to the terminal, if it allows that.
    """
    shown = plain(text)[:_MOST].replace(";", ",")  # a semicolon separates the fields
    sequences = {
        "bell": _BELL,
        "osc9": _passed_on(f"\x1b]9;{shown}\x1b\\"),
        "osc777": _passed_on(f"\x1b]777;notify;pv;{shown}\x1b\\"),
    }
    return [sequences[kind] for kind in kinds]


def _passed_on(sequence: str) -> str:
    if "TMUX" not in os.environ:
        return sequence
    escaped = sequence.replace("\x1b", "\x1b\x1b")
    return f"\x1bPtmux;{escaped}\x1b\\"
