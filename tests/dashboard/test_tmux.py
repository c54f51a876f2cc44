"""Dashboard in tmux, with real processes and a real engine on the tiny preset."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from pvtool.cli.main import main
from pvtool_core import enroll, supervisor
from pvtool_core.errors import PvError
from pvtool_core.paths import presets_dir
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import RunFolder
from tests.support.in_process import start_engine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
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
    """Separate tmux server with one window that runs one command."""

    def __init__(self, folder: Path) -> None:
        self._command = ["tmux", "-S", str(folder / "socket"), "-f", "/dev/null"]
        self._folder = folder
        self._screens = 0

    def run(self, command: str) -> None:
        """Run a command in a new window of 120 × 40 cells and store its exit status."""
        status = self._folder / "status"
        status.unlink(missing_ok=True)
        arguments = [
            *self._command,
            "new-session",
            "-d",
            "-x",
            "120",
            "-y",
            "40",
            f"{command}; echo $? > {status}",
        ]
        subprocess.run(arguments, check=True)

    def press(self, *keys: str) -> None:
        subprocess.run([*self._command, "send-keys", *keys], check=True)

    def screen(self) -> str:
        command = [*self._command, "capture-pane", "-p"]
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout

    def until(self, *texts: str, seconds: float = 180) -> str:
        """Wait until all texts are on the screen, and store the screen for debugging."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            screen = self.screen()
            if all(text in screen for text in texts):
                self._screens += 1
                (self._folder / f"{self._screens:02}.txt").write_text(screen)
                return screen
            time.sleep(0.2)
        raise AssertionError(f"timed out waiting for {texts}:\n{self.screen()}")

    def status(self, seconds: float = 30) -> int:
        """Return the exit status of the command after its end."""
        end = time.monotonic() + seconds
        while not (self._folder / "status").exists() and time.monotonic() < end:
            time.sleep(0.1)
        return int((self._folder / "status").read_text())

    def kill(self) -> None:
        """Kill the server, which closes the terminal like a lost connection."""
        subprocess.run([*self._command, "kill-server"], check=False, capture_output=True)


@pytest.fixture(scope="module")
def home_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a home folder with the identity ada, to be copied."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PV_HOME", str(home))
        patch.setattr(supervisor, "start", start_engine)
        enroll(
            "ada",
            presets_dir() / "tiny/samples/ada-woman.png",
            consent="a cartoon person",
            adult=True,
        )
    return home


@pytest.fixture
def home(home_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set PV_HOME to a home folder with the identity ada."""
    for name in ("TMUX", "NO_COLOR", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    return shutil.copytree(home_template, tmp_path / "home")


@pytest.fixture
def tmux(home: Path) -> Generator[Tmux]:
    server = Tmux(home.parent)
    yield server
    server.kill()


def step_of(folder: RunFolder) -> int:
    status = folder.read_status()
    assert status
    return status.step


def test_run_is_started_watched_paused_killed_resumed_and_stopped(tmux: Tmux, home: Path) -> None:
    folder = RunFolder(home / "data/runs/ada-1")
    sets = " ".join(f"--set training.{name}={value}" for name, value in SHORT.items())
    try:
        tmux.run(f"{PV} train ada --watch {sets}")
        tmux.until("ada-1", "Overview", "Samples", seconds=30)
        tmux.until("● running", "ICR ", "SCR ")
        pause_and_resume(tmux, folder)
        tmux.press("s")
        tmux.press("]", "]")
        tmux.until("newest", "likeness", "samples/step-")

        tmux.press("q")
        assert tmux.status() == 0
        assert folder.state() == State.RUNNING

        tmux.run(f"{PV} runs watch ada-1")
        tmux.until("● running", "ICR ")
        kill_and_resume(tmux, folder)
        tmux.kill()
        time.sleep(0.5)
        assert folder.state() == State.RUNNING, "closing the terminal must not end the run"

        tmux.run(f"{PV} dashboard")
        tmux.until("ada-1", "● running")
        tmux.press("Enter")
        tmux.until("Overview", "ICR ")
        tmux.press("S")
        tmux.until("■ stopped")
        assert folder.latest_checkpoint()
        tmux.press("q")
        assert tmux.status() == 0
    finally:
        kill_engine(folder)


def pause_and_resume(tmux: Tmux, folder: RunFolder) -> None:
    """Check that a paused run makes no progress."""
    tmux.press("p")
    tmux.until("‖ paused")
    paused_at = step_of(folder)
    time.sleep(1.0)
    assert step_of(folder) == paused_at
    tmux.press("p")
    tmux.until("● running")


def kill_and_resume(tmux: Tmux, folder: RunFolder) -> None:
    """Check that a killed engine is shown as lost and can be resumed by a key."""
    tmux.press("c")
    while not folder.checkpoint_folders():
        time.sleep(0.1)
    status = folder.read_status()
    assert status
    os.kill(status.pid, 9)
    tmux.until("✗ lost", "Press r to resume from step", seconds=5)
    tmux.press("r")
    tmux.until("● running", "ICR ")


@pytest.mark.usefixtures("home", "engines_in_process")
def test_watch_without_a_terminal_prints_lines(capfd: pytest.CaptureFixture[str]) -> None:
    short = {f"training.{name}": value for name, value in {**SHORT, "iterations": 3}.items()}
    short["sampler.num_inference_steps"] = 4
    sets = [f"--set={name}={value}" for name, value in short.items()]
    with pytest.raises(SystemExit) as ended:
        main(["train", "ada", "--watch", *sets])
    out, err = capfd.readouterr()
    assert not ended.value.code, err
    assert "training" in err
    assert "\x1b" not in err + out
    assert out.startswith("ada-1 is finished.")
    assert "step-000003/adapter.safetensors" in out
    assert out.splitlines()[-1].startswith("next      pv render ada '")


def kill_engine(folder: RunFolder) -> None:
    """Kill the engine of a run."""
    try:
        status = folder.read_status()
    except PvError:
        status = None
    if status and folder.state() in {State.STARTING, State.RUNNING, State.PAUSED}:
        os.kill(status.pid, 9)
