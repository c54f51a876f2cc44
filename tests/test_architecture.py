"""What the documents say of the house is true."""

import re
from pathlib import Path

from pvtool_core.errors import ExitStatus

ROOT = Path(__file__).parent.parent


def listed(document: str, heading: str) -> list[str]:
    """The names that begin the indented lines under a heading."""
    section = (ROOT / document).read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^    (\S+)", section, re.MULTILINE)


def test_the_readme_maps_every_file_there_is_and_no_other() -> None:
    packages = [ROOT / "pvtool", ROOT / "pvtool/cli", ROOT / "pvtool_core"]
    there = {
        path.relative_to(ROOT).as_posix() for package in packages for path in package.glob("*.py")
    }
    there = {path for path in there if not path.endswith("__init__.py")}
    mapped = [name for name in listed("README.md", "Where things are") if name.endswith(".py")]
    assert sorted(mapped) == sorted(there)


def test_every_folder_in_the_readmes_map_exists() -> None:
    folders = [name for name in listed("README.md", "Where things are") if name.endswith("/")]
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_the_readmes_test_command_is_what_ci_runs() -> None:
    command = (ROOT / ".ci/run").read_text().splitlines()[-1]
    assert "-m tests" in command
    assert f"    {command}\n" in (ROOT / "README.md").read_text()


def test_troubleshooting_explains_every_exit_status() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert sorted(map(int, rows)) == sorted(ExitStatus)
