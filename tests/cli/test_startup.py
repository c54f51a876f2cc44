"""Commands start quickly: modules that must not be imported, help, and completion."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pvtool.cli.main import COMMANDS
from pvtool.text import shown

HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "onnxruntime",
    "insightface",
    "open_clip",
    "numpy",
    "PIL",
    "imageio",
    "textual",
)


def modules_after(words: list[str], home: Path) -> set[str]:
    """Return the modules that a real `pv` process had imported at its end."""
    code = (
        "import sys, atexit; sys.argv = ['pv', *sys.argv[1:]]; "
        "atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stderr)); "
        "from pvtool.cli.main import main; main()"
    )
    env = {**os.environ, "PV_HOME": str(home)}
    left = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=env, check=False
    )
    assert left.returncode == 0, left.stderr
    return set(left.stderr.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["identity", "list"],
        ["presets", "list"],
        ["models", "list"],
        ["cache", "show"],
        ["prompts", "show", "default"],
        ["runs", "list", "--json"],
    ],
    ids=" ".join,
)
def test_reading_commands_import_no_heavy_library(words: list[str], home: Path) -> None:
    assert not modules_after(words, home) & {*HEAVY, "rich", "textual"}


def test_help_imports_neither_commands_nor_rich(home: Path) -> None:
    loaded = modules_after(["--help"], home)
    assert not {
        name for name in loaded if name.startswith("pvtool.cli.") and name != "pvtool.cli.main"
    }
    assert not loaded & {"rich", "pydantic", "psutil"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_imports_no_heavy_library(command: str, home: Path) -> None:
    assert not modules_after([command, "--help"], home) & set(HEAVY)


def test_shell_completion_offers_existing_names(home: Path) -> None:
    (home / "config/prompts").mkdir(parents=True)
    (home / "config/prompts/seaside.toml").write_text("prompts = ['<V> swims']")
    env = {
        **os.environ,
        "PV_HOME": str(home),
        "_PV_COMPLETE": "complete_bash",
        "COMP_WORDS": "pv prompts show sea",
        "COMP_CWORD": "3",
    }
    pv = Path(sys.executable).with_name("pv")
    offered = subprocess.run([pv], capture_output=True, text=True, env=env, check=False)
    assert offered.stdout.split() == ["seaside"]


def run_pv(words: list[str], folder: Path, **changes: str) -> subprocess.CompletedProcess[bytes]:
    """Run a real `pv` process."""
    code = "from pvtool.cli.main import main; main()"
    env = {**os.environ, "PV_HOME": str(folder / "home"), **changes}
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, env=env, cwd=folder, check=False
    )


@pytest.mark.parametrize(
    "changes", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]
)
def test_ascii_output_causes_no_error(tmp_path: Path, changes: dict[str, str]) -> None:
    (tmp_path / "home/config/presets").mkdir(parents=True)
    shown = run_pv(["presets", "show", "tiny"], tmp_path, **changes)
    assert (shown.returncode, b"Traceback" in shown.stderr) == (0, False)
    listed = run_pv(["presets", "list", "--json"], tmp_path, **changes)
    assert listed.returncode == 0
    assert json.loads(listed.stdout.decode("ascii"))["presets"]
    if "LC_ALL" in changes:  # a UTF-8 name is invalid there
        return
    refused = run_pv(["identity", "show", "Zo\u00eb", "--json"], tmp_path, **changes)
    assert refused.returncode == 4
    assert "Zo\u00eb" in json.loads(refused.stdout.decode("ascii"))["error"]["message"]


@pytest.mark.parametrize("home", ["here", "~nobody-of-that-name/home", "/dev/null/home"])
def test_missing_home_in_a_deleted_folder_gives_no_traceback(tmp_path: Path, home: str) -> None:
    gone = tmp_path / "gone"
    code = (
        "import os, sys; folder = sys.argv.pop(1); "
        "os.mkdir(folder); os.chdir(folder); os.rmdir(folder); "
        "from pvtool.cli.main import main; main()"
    )
    words = [sys.executable, "-c", code, str(gone), "runs", "list"]
    env = {**os.environ, "PV_HOME": home}
    left = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert left.returncode == 2
    assert "The current folder was deleted." in left.stderr
    assert "Traceback" not in left.stderr


def test_absolute_path_is_shown_if_the_current_folder_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert shown(tmp_path / "clip.mp4") == str(tmp_path / "clip.mp4")


def test_error_for_deleted_current_folder(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    code = (
        "import os, sys; folder = sys.argv.pop(1); "
        "os.mkdir(folder); os.chdir(folder); os.rmdir(folder); "
        "from pvtool.cli.main import main; main()"
    )
    words = [
        sys.executable,
        "-c",
        code,
        str(gone),
        "render",
        "ada",
        "<V> runs",
        "--out",
        str(tmp_path / "out"),
    ]
    left = subprocess.run(words, capture_output=True, text=True, check=False)
    assert left.returncode == 2
    assert "The current folder was deleted." in left.stderr
    assert "Traceback" not in left.stderr
