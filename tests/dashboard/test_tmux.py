"""The dashboard as it is used: in tmux, with real processes and a real engine on the tiny preset."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from pvtool_core.errors import PvError
from pvtool_core.paths import presets_dir
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import RunFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux on this machine"),
]

PV = f"{sys.executable} -P -m pvtool.cli.main"
SHORT = {
    "iterations": 5000,
    "cached_pairs": 2,
    "checkpoint_every": 20,
    "sample_every": 0,
    "sample_prompts": 1,
}


class Tmux:
    """A tmux server of its own, with one window that runs one command."""

    def __init__(self, folder: Path) -> None:
        self._words = ["tmux", "-S", str(folder / "socket"), "-f", "/dev/null"]
        self._folder = folder
        self._shots = 0

    def run(self, command: str) -> None:
        """Run a command in a new window of 120 × 40; what it leaves is its exit status."""
        left = self._folder / "left"
        left.unlink(missing_ok=True)
        words = [
            *self._words,
            "new-session",
            "-d",
            "-x",
            "120",
            "-y",
            "40",
            f"{command}; echo $? > {left}",
        ]
        subprocess.run(words, check=True)

    def press(self, *keys: str) -> None:
        subprocess.run([*self._words, "send-keys", *keys], check=True)

    def screen(self) -> str:
        words = [*self._words, "capture-pane", "-p"]
        return subprocess.run(words, check=False, capture_output=True, text=True).stdout

    def until(self, *words: str, seconds: float = 180) -> str:
        """Wait until all words are on the screen; keep it as a record of the drive."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            shown = self.screen()
            if all(word in shown for word in words):
                self._shots += 1
                (self._folder / f"{self._shots:02}.txt").write_text(shown)
                return shown
            time.sleep(0.2)
        raise AssertionError(f"{words} in vain:\n{self.screen()}")

    def status(self, seconds: float = 30) -> int:
        """The exit status of the command, once it has ended."""
        end = time.monotonic() + seconds
        while not (self._folder / "left").exists() and time.monotonic() < end:
            time.sleep(0.1)
        return int((self._folder / "left").read_text())

    def kill(self) -> None:
        """What a lost connection without tmux would do: the terminal is gone."""
        subprocess.run([*self._words, "kill-server"], check=False, capture_output=True)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home to be copied, in which Ada was added by the command."""
    home = tmp_path_factory.mktemp("house")
    photo = presets_dir() / "tiny/samples/ada-woman.png"
    words = [*PV.split(), "identity", "add", "ada", str(photo), "--consent", "a cartoon person"]
    environment = {**os.environ, "PV_HOME": str(home), "OMP_NUM_THREADS": "1"}
    subprocess.run(words, check=True, capture_output=True, env=environment)
    return home


@pytest.fixture
def home(house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PV_HOME with Ada in it."""
    for name in ("TMUX", "NO_COLOR", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    return shutil.copytree(house, tmp_path / "home")


@pytest.fixture
def tmux(home: Path) -> Generator[Tmux]:
    server = Tmux(home.parent)
    yield server
    server.kill()


def step_of(folder: RunFolder) -> int:
    status = folder.read_status()
    assert status
    return status.step


def test_a_run_is_started_watched_steered_left_found_killed_and_resumed(
    tmux: Tmux, home: Path
) -> None:
    folder = RunFolder(home / "data/runs/ada-1")
    sets = " ".join(f"--set training.{name}={value}" for name, value in SHORT.items())
    try:
        tmux.run(f"{PV} train ada --watch {sets}")
        tmux.until("ada-1", "Overview", "Samples", seconds=30)
        tmux.until("● running", "ICR 0.", "SCR ")
        pause_and_go_on(tmux, folder)
        tmux.press("s")
        tmux.press("]", "]")
        tmux.until("newest", "playing", "samples/step-")

        tmux.press("q")
        assert tmux.status() == 0
        assert folder.state() == State.RUNNING

        tmux.run(f"{PV} runs watch ada-1")
        tmux.until("● running", "ICR 0.")
        kill_and_resume(tmux, folder)
        tmux.kill()
        time.sleep(0.5)
        assert folder.state() == State.RUNNING, "a lost terminal ended the run"

        tmux.run(f"{PV} dashboard")
        tmux.until("ada-1", "● running")
        tmux.press("Enter")
        tmux.until("Overview", "ICR 0.")
        tmux.press("S")
        tmux.until("■ stopped")
        assert folder.latest_checkpoint()
        tmux.press("q")
        assert tmux.status() == 0
    finally:
        end(folder)


def pause_and_go_on(tmux: Tmux, folder: RunFolder) -> None:
    """Nothing moves while a run is held."""
    tmux.press("p")
    tmux.until("‖ paused")
    held = step_of(folder)
    time.sleep(1.0)
    assert step_of(folder) == held
    tmux.press("p")
    tmux.until("● running")


def kill_and_resume(tmux: Tmux, folder: RunFolder) -> None:
    """A killed engine is shown as dead within seconds, and a key brings it back."""
    tmux.press("c")
    while not folder.checkpoint_folders():
        time.sleep(0.1)
    status = folder.read_status()
    assert status
    os.kill(status.pid, 9)
    tmux.until("✗ lost", "r goes on from step", seconds=5)
    tmux.press("r")
    tmux.until("● running", "ICR 0.")


def test_without_a_terminal_watching_is_plain_lines_to_the_end(home: Path) -> None:
    sets = [f"--set=training.{name}={value}" for name, value in {**SHORT, "iterations": 3}.items()]
    words = [*PV.split(), "train", "ada", "--watch", *sets]
    left = subprocess.run(
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert left.returncode == 0, left.stderr
    assert "training" in left.stderr
    assert "\x1b" not in left.stderr + left.stdout
    assert left.stdout.startswith("ada-1 is finished: ")


def end(folder: RunFolder) -> None:
    """Leave no engine behind."""
    try:
        status = folder.read_status()
    except PvError:
        status = None
    if status and folder.state() in {State.STARTING, State.RUNNING, State.PAUSED}:
        os.kill(status.pid, 9)
