"""The distribution contains all needed files and declares all imports."""

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOADED_BY_OTHERS = {"hpsv2", "facexlib", "consisid-eva-clip", "sentencepiece", "protobuf"}
"""Declared without an import: the extra `hps` installs its checkpoints' licence and tools, and what
the extra `consisid` installs is loaded by name, and by transformers."""

IMPORTED_BY_NAME = {"wandb"}
"""Imported by its name only: it is too large to be installed for the tests."""


def declared() -> set[str]:
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def imported() -> set[str]:
    """Return distributions that the packages import, also inside functions and in subprocesses."""
    names: set[str] = set()
    for package in ("pvtool", "pvtool_core"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module.partition(".")[0])
    names -= {*sys.stdlib_module_names, "pvtool", "pvtool_core"}
    distributions = packages_distributions()
    return {canonicalize_name(distributions[name][0]) for name in names}


def test_every_imported_distribution_is_declared_and_no_other() -> None:
    assert imported() | LOADED_BY_OTHERS | IMPORTED_BY_NAME == declared()


@pytest.mark.slow
def test_the_wheel_holds_two_packages_with_presets_and_types(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"pvtool", "pvtool_core"}
    assert {
        "pvtool/py.typed",
        "pvtool_core/py.typed",
        "pvtool_core/presets/tiny.toml",
        "pvtool_core/presets/tiny/styles/poster.safetensors",
        "pvtool/dashboard/dashboard.tcss",
        "pvtool_core/report_page/page.css",
        "pvtool_core/report_page/page.js",
    } <= set(names)
    assert [name for name in names if "tinyworld" in name] == []
    assert presets_of_installed(wheel, tmp_path / "installed") == "pvtool_core/presets"


def presets_of_installed(wheel: Path, folder: Path) -> str:
    """Unpack the wheel as an installer does, and return where a program finds the presets there."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    code = "from pvtool_core.paths import presets_dir; print(presets_dir())"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, check=True, capture_output=True
    )
    path = Path(found.stdout.decode().strip())
    assert (path / "tiny.toml").is_file()
    return path.relative_to(folder.resolve()).as_posix()


def test_citation_and_changelog_name_the_version() -> None:
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()
