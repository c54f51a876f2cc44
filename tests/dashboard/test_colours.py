"""Few colours or none: what matters is still told apart, by signs and bold letters, in a real process on a terminal."""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pvtool_core.store.liveness import State
from tests.support.batches import clip_event, draw_clip, make_batch, tell
from tests.support.run_files import MakeRun
from tests.support.terminal import PlayedTerminal

DASHBOARD = "import sys; from pvtool.cli.main import main; sys.argv = ['pv', 'dashboard', *sys.argv[1:]]; main()"
ATTRIBUTES_ONLY = {"\x1b[c": "\x1b[?6c"}
RUNS = {"ada-3": "● running", "ada-2": "✗ failed", "ben-1": "■ stopped", "ada-1": "✓ finished"}
SIXTEEN = {"TERM": "xterm"}
NONE = {"NO_COLOR": "1"}


@pytest.fixture
def runs(make_run: MakeRun) -> None:
    """A run of each kind."""
    for name, state in [
        ("ada-1", State.FINISHED),
        ("ben-1", State.STOPPED),
        ("ada-2", State.FAILED),
    ]:
        make_run(name, 60, state)
    make_run("ada-3", 60)


def open_run(home: Path, environ: Mapping[str, str]) -> PlayedTerminal:
    """`pv dashboard ada-3` on a terminal that tells nothing but that it is one."""
    environ = {"PV_HOME": str(home), **environ}
    return PlayedTerminal(
        DASHBOARD, "ada-3", answers=ATTRIBUTES_ONLY, size=(120, 40), environ=environ
    )


def until(terminal: PlayedTerminal, holds: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something holds; fail with what is on the screen if it does not."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "\n".join(terminal.lines())
        time.sleep(0.2)


def until_shown(terminal: PlayedTerminal, *words: str) -> None:
    """Wait until all the words are on the screen."""
    until(terminal, lambda: all(word in "\n".join(terminal.lines()) for word in words))


def chosen(terminal: PlayedTerminal) -> list[str]:
    """The runs whose line in the list is bold."""
    screen = terminal.screen()
    lines = {line.split()[0]: number for number, line in enumerate(screen.display) if line.split()}
    return [name for name in RUNS if name in lines and screen.buffer[lines[name]][1].bold]


@pytest.mark.parametrize("environ", [NONE, SIXTEEN], ids=["none", "16"])
def test_states_curves_and_the_chosen_run_are_told_apart(
    home: Path, runs: None, environ: dict[str, str]
) -> None:
    with open_run(home, environ) as terminal:
        until_shown(terminal, "ICR identity loss", "● running")
        terminal.type("o")
        until_shown(terminal, "A ada-3 · B ada-2")
        terminal.type("\x1b")
        until_shown(terminal, *RUNS.values())
        until(terminal, lambda: chosen(terminal) == ["ada-3"])
        terminal.type("j")
        until(terminal, lambda: chosen(terminal) == ["ada-2"])


def test_a_batch_without_colours_tells_what_failed_and_who_works(home: Path) -> None:
    batch = make_batch("night", workers=2)
    tell(
        batch.worker(0),
        State.RUNNING,
        [clip_event(time.time(), 1), clip_event(time.time(), 2, "failed")],
    )
    tell(batch.worker(1), State.FAILED, [], "The disk is full.")
    draw_clip(clip_event(0, 1))
    environ = {"PV_HOME": str(home), **NONE}
    with PlayedTerminal(
        DASHBOARD, "night", answers=ATTRIBUTES_ONLY, size=(80, 24), environ=environ
    ) as terminal:
        until_shown(
            terminal, "● running  night", "1 failed", "✗ failed  worker-1", "The disk is full."
        )
        until_shown(terminal, "of 4, playing", "@@@@", "ada, seed 2  The adapter of ada-1 is gone.")


def test_a_terminal_of_16_colours_is_sent_no_others(home: Path, runs: None) -> None:
    with open_run(home, SIXTEEN) as terminal:
        until_shown(terminal, "ICR identity loss", "● running", "1.0")
        cells = [cell for row in terminal.screen().buffer.values() for cell in row.values()]
        colours = {colour for cell in cells for colour in (cell.fg, cell.bg)}
        assert {"green", "default"} < colours
        assert not [colour for colour in colours if re.fullmatch("[0-9a-f]{6}", colour)]
