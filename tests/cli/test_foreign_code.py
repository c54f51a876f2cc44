"""Python files in the current folder are never run by subprocesses of pv."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pvtool
import pvtool_core
from pvtool_core.paths import presets_dir

MODULES = (
    "psutil",
    "random",
    "torch",
    "onnxruntime",
    "numpy",
    "json",
    "orjson",
    "cv2",
    "imageio_ffmpeg",
    "pvtool_core",
)
PV = Path(sys.executable).with_name("pv")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Create a folder whose modules record that they are imported, and act like the real ones."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(
            f"open({str(tmp_path / 'mark')!r}, 'a').write('{name} ')\nraise ImportError\n"
        )
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PV_HOME": str(folder.parent / "home")}
    return subprocess.run(
        [PV, *words], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300
    )


def assert_nothing_ran(hostile: Path) -> None:
    mark = hostile.parent / "mark"
    assert not mark.exists(), mark.read_text()


def test_the_engine_runs_no_code_of_the_current_folder(hostile: Path) -> None:
    photo = next((presets_dir() / "tiny/samples").glob("*.png"))
    added = run(
        hostile,
        "identity",
        "add",
        "ada",
        str(photo),
        "--preset",
        "tiny",
        "--adult",
        "--consent",
        "A cartoon.",
    )
    assert_nothing_ran(hostile)
    assert added.returncode == 0, added.stderr


def test_the_check_of_pickles_runs_no_code_of_the_current_folder(hostile: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, hostile / "weights.bin")
    added = run(hostile, "models", "add", "mine", "weights.bin")
    assert_nothing_ran(hostile)
    assert added.returncode == 0, added.stderr


def test_the_doctor_runs_no_code_of_the_current_folder(hostile: Path) -> None:
    asked = run(hostile, "doctor", "--json")
    assert_nothing_ran(hostile)
    assert "error" not in asked.stdout


def test_every_python_subprocess_excludes_the_current_folder() -> None:
    """New subprocesses must start with `-P`."""
    started = 0
    for package in (pvtool, pvtool_core):
        for path in Path(str(package.__file__)).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.List | ast.Tuple) and "sys.executable" in map(
                    ast.unparse, node.elts[:1]
                ):
                    assert ast.unparse(node.elts[1]) == "'-P'", path
                    started += 1
            if "sys.executable" in path.read_text():
                assert "-P" in path.read_text(), path
    assert started >= 3
