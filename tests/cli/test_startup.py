"""The face answers at once: what it must not import, and what it says of itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pvtool.cli.main import COMMANDS

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
    """Names of the modules that a real `pv` process had imported when it left."""
    code = (
        "import sys, atexit; sys.argv = ['pv', *sys.argv[1:]]; "
        "atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stderr)); "
        "from pvtool.cli.main import main; main()"
    )
    env = {**os.environ, "PV_HOME": str(home)}
    left = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=env, check=False)
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
def test_no_command_that_only_reads_loads_a_heavy_library(words: list[str], home: Path) -> None:
    assert not modules_after(words, home) & {*HEAVY, "rich", "textual"}


def test_help_loads_no_command_and_no_rich(home: Path) -> None:
    loaded = modules_after(["--help"], home)
    assert not {name for name in loaded if name.startswith("pvtool.cli.") and name != "pvtool.cli.main"}
    assert not loaded & {"rich", "pydantic", "psutil"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_named_in_the_help_loads_and_helps_without_a_heavy_library(command: str, home: Path) -> None:
    assert not modules_after([command, "--help"], home) & set(HEAVY)


def test_the_shell_is_offered_the_names_there_are(home: Path) -> None:
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
