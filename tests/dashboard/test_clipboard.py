"""Copying paths to the clipboard, with and without tmux."""

from pathlib import Path

import pytest
from textual.app import App

from pvtool.dashboard.clipboard import copy
from tests.support.screen_text import until, until_seen


@pytest.fixture
def tmux(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a fake tmux that writes its arguments and its input to a file."""
    tool, log = tmp_path / "tmux", tmp_path / "log"
    tool.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\ncat >> {log}\n[ "$2" = "$REFUSED" ] && exit 1\nexit 0\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("TMUX", "socket,1,0")
    return log


async def test_tmux_copies_to_its_buffer_and_the_clipboard(tmux: Path) -> None:
    async with App[None]().run_test(size=(100, 20), notifications=True) as pilot:
        await copy(pilot.app.screen, "/clips/a.mp4")
        await until_seen(pilot, "Copied to the tmux buffer", "/clips/a.mp4")
        assert tmux.read_text() == "load-buffer -w -\n/clips/a.mp4"
        assert pilot.app.clipboard == ""


async def test_old_tmux_copies_to_its_buffer_only(
    tmux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFUSED", "-w")
    async with App[None]().run_test(size=(100, 20), notifications=True) as pilot:
        await copy(pilot.app.screen, "/clips/a.mp4")
        await until_seen(pilot, "Copied to the tmux buffer")
        assert "load-buffer -\n/clips/a.mp4" in tmux.read_text()


async def test_other_terminals_receive_osc_52(home: Path) -> None:
    async with App[None]().run_test(size=(100, 20), notifications=True) as pilot:
        await copy(pilot.app.screen, "/clips/a.mp4")
        await until_seen(pilot, "OSC 52", "/clips/a.mp4")
        await until(pilot, lambda: pilot.app.clipboard == "/clips/a.mp4")


async def test_terminal_without_clipboard_shows_the_path(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "linux")
    async with App[None]().run_test(size=(100, 20), notifications=True) as pilot:
        await copy(pilot.app.screen, "/clips/a.mp4")
        await until_seen(pilot, "no clipboard access", "/clips/a.mp4")
        assert pilot.app.clipboard == ""
