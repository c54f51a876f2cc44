"""Tables: whole in pipes, fitted to the terminal, and coloured by state."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pvtool.tables import Table
from pvtool_core.store.liveness import State
from tests.support.commands import Pv
from tests.support.run_files import finished_run

TEXT = "needs a graphics card with 24 GB and much patience"
TABLE = Table(
    ["name", "state", "loss", "left", "meaning"],
    [["ada-1", "failed", "0.31 →", "", TEXT], ["zoë-nightly-2", "running", "12.5", "", TEXT]],
    optional=["left", "loss"],
)


def test_whole_table_aligns_figures_right_and_leaves_nothing_out() -> None:
    heading, first, second = str(TABLE).splitlines()
    assert heading.split() == ["NAME", "STATE", "LOSS", "LEFT", "MEANING"]
    assert first.endswith(TEXT) and second.endswith(TEXT)
    assert "failed   0.31 →" in first and "running    12.5" in second


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_fitted_table_wraps_between_words(width: int) -> None:
    shown = TABLE.fitted(width, colour=False)
    assert max(map(len, shown.splitlines())) <= width
    assert set(TEXT.split()) <= set(shown.split())
    assert {"ada-1", "zoë-nightly-2"} <= set(shown.split())
    assert "LEFT" not in shown  # empty
    assert ("LOSS" in shown) == (width > 40)


def test_intervals_are_not_broken_where_they_fit() -> None:
    table = Table(["metric", "ann"], [["Likeness", "0.41 [0.38, 0.44]"]])
    assert table.fitted(24, colour=False).splitlines()[1:] == [
        "Likeness            0.41",
        "            [0.38, 0.44]",
    ]


def test_longest_words_are_folded_if_nothing_else_fits() -> None:
    shown = TABLE.fitted(16, colour=False)
    assert max(map(len, shown.splitlines())) <= 16
    assert "zoë" in shown


def on_terminal(words: list[str], home: Path, **environ: str) -> str:
    """Run a real `pv` process with stdout on a terminal of 50 columns; return what it writes."""
    master, slave = pty.openpty()
    code = "from pvtool.cli.main import main; main()"
    usual = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    env = {**usual, "PV_HOME": str(home), "TERM": "xterm", "COLUMNS": "50", **environ}
    subprocess.run([sys.executable, "-c", code, *words], stdout=slave, env=env, check=True)
    os.close(slave)
    written = b""
    try:
        while chunk := os.read(master, 1 << 16):
            written += chunk
    except OSError:  # the end of a terminal on Linux
        pass
    os.close(master)
    return written.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    "environ", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["colour", "NO_COLOR", "dumb"]
)
def test_command_fits_the_terminal(environ: dict[str, str], pv: Pv, mara: str, home: Path) -> None:
    run = finished_run(mara, state=State.FAILED)
    shown = on_terminal(["runs", "list"], home, **environ)
    assert ("\x1b[31mfailed" in shown) == (not environ)
    bare = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert bool("\x1b" in shown) == (not environ)
    assert max(map(len, bare.splitlines())) <= 50
    assert {run.name, "failed"} <= set(bare.split())
    assert "STARTED" in pv("runs", "list").out  # whole in a pipe
