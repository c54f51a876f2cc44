"""Documents describe the current code."""

import os
import re
from collections import Counter
from pathlib import Path

from pvtool_core.errors import ExitStatus
from tests.support.module_map import PAGE, cycles, modules, page_with_map

ROOT = Path(__file__).parent.parent
README_LINES = 150


def test_no_module_imports_itself_through_others() -> None:
    assert cycles() == []


def test_module_names_of_the_engine_are_unique() -> None:
    names = Counter(
        path.stem
        for name, path in modules().items()
        if name.startswith("pvtool_core.") and not name.startswith("pvtool_core.tinyworld")
    )
    assert [name for name, count in names.items() if count > 1 and name != "__init__"] == []


def test_the_architecture_page_maps_every_module() -> None:
    if os.environ.get("PV_WRITE_GOLDEN"):
        PAGE.write_text(page_with_map())
    assert PAGE.read_text() == page_with_map(), "PV_WRITE_GOLDEN=1 rewrites the map"


def test_the_readme_is_short_and_its_links_exist() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= README_LINES
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readmes_test_command_is_what_ci_runs() -> None:
    command = (ROOT / ".ci/run").read_text().splitlines()[-1]
    assert "-m tests" in command
    assert f"    {command}\n" in (ROOT / "README.md").read_text()


def test_every_exit_status_is_explained() -> None:
    for page in ("README.md", "docs/troubleshooting.md"):
        rows = re.findall(r"^\| ([\d, ]+) \|", (ROOT / page).read_text(), re.MULTILINE)
        numbers = [int(number) for row in rows for number in row.split(",")]
        assert sorted(numbers) == sorted(ExitStatus), page
