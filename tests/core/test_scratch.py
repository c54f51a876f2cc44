"""Temporary files of killed commands are deleted by the next one; those of live ones are kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pvtool_core.store.identities import Library
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.scratch import LOG_DAYS, held_folder, keep, sweep

HOLD = """
import sys, time
from pathlib import Path
from pvtool_core.store.identities import Library
with Library(Path(sys.argv[1])).staging() as folder:
    (folder / "photo.png").write_bytes(b"a face")
    print("ready", flush=True)
    time.sleep(600)
"""


def test_files_of_a_killed_command_are_deleted_by_the_next_one(
    tmp_path: Path,
) -> None:
    library = Library(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as adding:
        assert adding.stdout is not None
        assert adding.stdout.readline() == b"ready\n"
        library.names()
        assert len(list(tmp_path.glob(".adding-*/photo.png"))) == 1
        adding.send_signal(signal.SIGKILL)
    library.names()
    assert list(tmp_path.iterdir()) == []


def test_files_of_earlier_versions_are_deleted(tmp_path: Path) -> None:
    for name in (".adding-x", ".removing-y/mara"):
        (tmp_path / name / "faces").mkdir(parents=True)
        (tmp_path / name / "faces/000.png").write_bytes(b"a face")
    (tmp_path / "mara").mkdir()
    assert Library(tmp_path).names() == []
    assert [path.name for path in tmp_path.iterdir()] == ["mara"]


def test_working_folders_of_jobs_are_deleted_with_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path))
    jobs = tmp_path / "cache/jobs"
    with held_folder(jobs, "identify-") as live:
        for name in ("identify-dead", "identify-at-work", "plan-dead"):
            (jobs / name).mkdir()
        with RunFolder(jobs / "identify-at-work").lock():  # its pv was killed, its engine is alive
            Library().names()
            assert {path.name for path in jobs.iterdir()} == {live.name, "identify-at-work"}
    Library().names()
    assert list(jobs.iterdir()) == []


def test_log_of_a_failed_job_is_kept_for_some_days(tmp_path: Path) -> None:
    with held_folder(tmp_path, "identify-") as folder:
        keep(folder)
    sweep(tmp_path, "identify-")
    assert folder.exists()
    old = time.time() - (LOG_DAYS + 1) * 86400
    os.utime(folder / ".kept", (old, old))
    sweep(tmp_path, "identify-")
    assert not folder.exists()


def test_link_is_removed_without_its_target(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    (tmp_path / "library").mkdir()
    (tmp_path / "library/.adding-x").symlink_to(tmp_path / "mine")
    Library(tmp_path / "library").names()
    assert (tmp_path / "mine/file").read_text() == "mine"
    assert list((tmp_path / "library").iterdir()) == []
