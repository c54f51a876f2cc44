"""Files are in PV_HOME and readable by their owner only; other libraries report no usage."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pvtool_core.batches.folder import new_batch, write_items
from pvtool_core.paths import presets_dir
from pvtool_core.permissions import use_umask_for
from pvtool_core.store.runs import RunFolder
from tests.support.commands import Pv

PV = Path(sys.executable).with_name("pv")
SWITCHES = (
    "ORT_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_TELEMETRY",
    "RAY_USAGE_STATS_ENABLED",
    "DO_NOT_TRACK",
)


def loose(root: Path) -> list[str]:
    """Return every path from `root` down that other users may access, except links."""
    paths = [path for path in (root, *root.rglob("*")) if not path.is_symlink()]
    return [str(path) for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077]


@pytest.mark.slow
def test_an_added_identity_is_private_and_nothing_is_written_outside_of_pv_home(
    tmp_path: Path,
) -> None:
    """Real processes at a usual umask, without switches that disable usage reports."""
    home, user, scratch = (tmp_path / name for name in ("pv", "user", "scratch"))
    user.mkdir()
    scratch.mkdir()
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XDG_", *SWITCHES))
    }
    env |= {"HOME": str(user), "TMPDIR": str(scratch), "PV_HOME": str(home)}
    photo = presets_dir() / "tiny/samples/ada-woman.png"
    words = [
        "identity",
        "add",
        "ada",
        str(photo),
        "--adult",
        "--consent",
        "A drawn person.",
        "--json",
    ]
    added = subprocess.run(
        [PV, *words], env=env, umask=0o022, capture_output=True, text=True, check=False
    )
    assert added.returncode == 0, added.stderr
    assert loose(home / "data") + loose(home / "cache") == []
    assert [path for folder in (user, scratch) for path in folder.rglob("*")] == []


def test_runs_and_batches_are_created_private(home: Path, run: RunFolder) -> None:
    batch = new_batch(home / "data/batches")
    write_items(batch.items, [])
    assert loose(run.path) + loose(batch.path) == []


def test_only_clips_in_a_chosen_folder_follow_the_umask(home: Path) -> None:
    before = os.umask(0o022)
    try:
        for out, mask in (
            (None, 0o077),
            (home / "data/demo/ada-1", 0o077),
            (home.parent / "clips", 0o022),
        ):
            use_umask_for(out, 0o022)
            assert os.umask(mask) == mask
    finally:
        os.umask(before)


def test_permissions_of_readable_folders_are_corrected_by_the_next_command(
    pv: Pv, home: Path, mara: str
) -> None:
    sample, outside = home / "data/runs/mara-1/samples/step-1/0.mp4", home.parent / "theirs.txt"
    sample.parent.mkdir(parents=True)
    for file in (sample, outside):
        file.write_text("x")
        file.chmod(0o644)
    (home / "data/link").symlink_to(outside)
    (home / "data").chmod(0o755)
    assert pv("identity", "list").status == 0
    assert loose(home / "data") == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


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
