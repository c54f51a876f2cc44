"""Dashboard with few or no colours on a simulated terminal."""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from rich.color import Color
from rich.style import Style

from pvtool.dashboard.palette_filter import in_palette
from pvtool_core.store.liveness import State
from tests.support.batches import clip_event, draw_clip, make_batch, write_worker
from tests.support.run_files import MakeRun
from tests.support.terminal import SimulatedTerminal

DASHBOARD = """
import sys
from pvtool.cli.main import main
sys.argv = ["pv", "dashboard", *sys.argv[1:]]
main()
"""
ATTRIBUTES_ONLY = {"\x1b[c": "\x1b[?6c"}
RUNS = {"ada-3": "● running", "ada-2": "✗ failed", "ben-1": "■ stopped", "ada-1": "✓ finished"}
SIXTEEN = {"TERM": "xterm"}
NONE = {"NO_COLOR": "1"}


@pytest.fixture
def runs(make_run: MakeRun) -> None:
    """Create a run in each state."""
    for name, state in [
        ("ada-1", State.FINISHED),
        ("ben-1", State.STOPPED),
        ("ada-2", State.FAILED),
    ]:
        make_run(name, 60, state)
    make_run("ada-3", 60)


def open_run(home: Path, environ: Mapping[str, str]) -> SimulatedTerminal:
    """Run `pv dashboard ada-3` on a terminal that reports only its device attributes."""
    environ = {"PV_HOME": str(home), **environ}
    return SimulatedTerminal(
        DASHBOARD, "ada-3", answers=ATTRIBUTES_ONLY, size=(120, 40), environ=environ
    )


def until(
    terminal: SimulatedTerminal, condition: Callable[[], object], seconds: float = 30
) -> None:
    """Wait until a condition holds; fail with the text on the screen otherwise."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "\n".join(terminal.lines())
        time.sleep(0.2)


def until_shown(terminal: SimulatedTerminal, *texts: str) -> None:
    """Wait until all texts are on the screen."""
    until(terminal, lambda: all(text in "\n".join(terminal.lines()) for text in texts))


def highlighted_runs(terminal: SimulatedTerminal) -> list[str]:
    """Return the runs whose line in the list is bold."""
    screen = terminal.screen()
    lines = {line.split()[0]: number for number, line in enumerate(screen.display) if line.split()}
    return [name for name in RUNS if name in lines and screen.buffer[lines[name]][1].bold]


@pytest.mark.parametrize("environ", [NONE, SIXTEEN], ids=["none", "16"])
def test_states_curves_and_selection_are_distinguishable(
    home: Path, runs: None, environ: dict[str, str]
) -> None:
    with open_run(home, environ) as terminal:
        until_shown(terminal, "ICR identity loss", "● running")
        terminal.type("o")
        until_shown(terminal, "A ada-3 · B ada-2")
        terminal.type("\x1b")
        until_shown(terminal, *RUNS.values())
        until(terminal, lambda: highlighted_runs(terminal) == ["ada-3"])
        terminal.type("j")
        until(terminal, lambda: highlighted_runs(terminal) == ["ada-2"])


def test_batch_without_colours_shows_workers_and_failures(home: Path) -> None:
    batch = make_batch("night", workers=2)
    write_worker(
        batch.worker(0),
        State.RUNNING,
        [clip_event(time.time(), 1), clip_event(time.time(), 2, "failed")],
    )
    write_worker(batch.worker(1), State.FAILED, [], "The disk is full.")
    draw_clip(clip_event(0, 1))
    environ = {"PV_HOME": str(home), **NONE}
    with SimulatedTerminal(
        DASHBOARD, "night", answers=ATTRIBUTES_ONLY, size=(80, 24), environ=environ
    ) as terminal:
        until_shown(
            terminal, "● running  ada", "1 failed", "✗ failed  worker-1", "The disk is full."
        )
        until_shown(terminal, "2  The adapter of ada-1 is gone.")
        terminal.type("j")  # select the clip that was rendered
        until_shown(terminal, "of 4, playing", "@@@@")


def test_terminal_with_16_colours_receives_only_these(home: Path, runs: None) -> None:
    with open_run(home, SIXTEEN) as terminal:
        until_shown(terminal, "ICR identity loss", "● running", "1.0")
        cells = [cell for row in terminal.screen().buffer.values() for cell in row.values()]
        colours = {colour for cell in cells for colour in (cell.fg, cell.bg)}
        assert {"green", "default"} < colours
        assert not [colour for colour in colours if re.fullmatch("[0-9a-f]{6}", colour)]


def test_256_colours_of_bars_are_greys_and_not_navy() -> None:
    bar = Style(color="#e0e0e0", bgcolor="#242f38", bold=True)
    filtered = in_palette(bar)
    assert filtered.bold and filtered.bgcolor and filtered.color
    assert filtered.bgcolor.number == 236  # #303030
    assert filtered.color.number == 254
    assert in_palette(Style(bgcolor="#00005f")).bgcolor == Color.from_ansi(17)
