"""No files outside PV_HOME, and no usage reports of other libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pvtool_core.paths import presets_dir

SWITCHES = (
    "ORT_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_TELEMETRY",
    "RAY_USAGE_STATS_ENABLED",
    "DO_NOT_TRACK",
)


@pytest.mark.slow
def test_adding_an_identity_writes_nothing_outside_of_pv_home(tmp_path: Path) -> None:
    home, scratch = tmp_path / "user", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XDG_", *SWITCHES))
    }
    env |= {"HOME": str(home), "TMPDIR": str(scratch), "PV_HOME": str(tmp_path / "pv")}
    photo = presets_dir() / "tiny/samples/ada-woman.png"
    words = ["identity", "add", "ada", str(photo), "--consent", "a cartoon person"]
    command = [sys.executable, "-P", "-m", "pvtool.cli.main", *words]
    added = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert added.returncode == 0, added.stderr
    assert [path for folder in (home, scratch) for path in folder.rglob("*")] == []


def test_usage_reports_are_disabled_unless_the_user_enables_them() -> None:
    code = f"import os, pvtool_core; print([os.environ[name] for name in {SWITCHES!r}])"
    env = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    found = [
        subprocess.run(
            [sys.executable, "-c", code], env=env | more, capture_output=True, text=True, check=True
        ).stdout
        for more in ({}, {"DO_NOT_TRACK": "0"})
    ]
    assert found == ["['1', '1', '0', '1']\n", "['1', '1', '0', '0']\n"]
