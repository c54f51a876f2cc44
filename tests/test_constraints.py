"""The constraints file pins the dependencies of pyproject.toml without naming a registry."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
PINNED = [Requirement(line) for line in re.findall(r"^([a-z].*?) \\$", CONSTRAINTS, re.MULTILINE)]


def versions_of(name: str) -> list[str]:
    return [
        str(pin.specifier).removeprefix("==")
        for pin in PINNED
        if pin.name.replace("-", "_") == name
    ]


def test_every_dependency_is_pinned_to_a_version_that_the_project_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in map(Requirement, project["dependencies"]):
        versions = versions_of(wanted.name.replace("-", "_"))
        assert versions, wanted.name
        assert all(wanted.specifier.contains(version) for version in versions), wanted.name


def test_every_pin_has_a_hash_and_the_file_names_no_address() -> None:
    entries = re.split(r"\n(?=[a-z])", CONSTRAINTS)[1:]
    assert len(entries) == len(PINNED)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in CONSTRAINTS
