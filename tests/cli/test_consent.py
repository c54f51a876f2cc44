"""No identity is added without a consent statement."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from pvtool_core.store.identities import Library
from tests.support.commands import Pv, everything


@pytest.mark.parametrize("words", [(), ("--consent", ""), ("--consent", "  ")])
def test_identity_is_not_added_without_statement_or_terminal(
    pv: Pv, home: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    Path("photo.png").write_bytes(b"x")
    before = everything(home.parent)
    answer = pv("identity", "add", "ann", "photo.png", *words)
    assert answer.status == 2
    assert "A consent statement is required: who agreed, when, and to what." in answer.err
    assert '--consent "ann agreed on' in answer.err
    assert everything(home.parent) == before


def on_a_terminal(home: Path, answer: bytes) -> tuple[int, str]:
    """Run `pv identity add` on a terminal with a typed answer; return its status and output."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-P", "-m", "pvtool.cli.main", "identity", "add", "ann", "photo.png"]
    env = {**os.environ, "PV_HOME": str(home), "TERM": "dumb"}
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=env
    ) as process:
        os.close(terminal)
        shown = b""
        typed = False
        while True:
            try:
                block = os.read(controller, 4096)
            except OSError:  # the other end was closed
                break
            if not block:
                break
            shown += block
            if not typed and b"Do you confirm it?" in shown:
                os.write(controller, answer)
                typed = True
    os.close(controller)
    return process.returncode, shown.decode(errors="replace")


def test_terminal_shows_the_statement_and_no_adds_nothing(home: Path) -> None:
    Path("photo.png").write_bytes(b"x")
    status, shown = on_a_terminal(home, b"n\n")
    assert "has agreed to have videos generated of them" in shown
    assert "Nothing was added: consent was not confirmed." in shown
    assert status == 130
    assert Library().names() == []


def test_yes_on_a_terminal_continues_with_the_photo(home: Path) -> None:
    status, shown = on_a_terminal(home, b"y\n")
    assert status == 3
    assert "photo.png not found" in shown.split("Do you confirm it?")[1]
