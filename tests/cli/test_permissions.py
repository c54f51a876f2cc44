"""Files about identities are readable by their owner only, with any umask."""

import os
import stat
import subprocess
import sys
from pathlib import Path

from pvtool_core.batches.folder import new_batch, write_items
from pvtool_core.paths import presets_dir
from pvtool_core.permissions import use_umask_for
from pvtool_core.store.runs import RunFolder
from tests.support.commands import Pv

PV = Path(sys.executable).with_name("pv")


def loose(root: Path) -> list[str]:
    """Return every path from `root` down that other users may access, except links."""
    paths = [path for path in (root, *root.rglob("*")) if not path.is_symlink()]
    return [str(path) for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077]


def test_an_added_identity_is_private_at_a_usual_umask(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {**os.environ, "PV_HOME": str(home)}

    def run(*words: str) -> None:
        done = subprocess.run(
            [str(PV), *words],
            env=environment,
            umask=0o022,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    picture = next((presets_dir() / "tiny/samples").glob("*-*.png"))
    run("identity", "add", "ada", str(picture), "--consent", "A drawn person.", "--preset", "tiny")
    assert loose(home / "data") + loose(home / "cache") == []


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
