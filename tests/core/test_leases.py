"""Leases: one process renders each clip, and the leases of dead processes are free again."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest

from pvtool_core.errors import InputRefused
from pvtool_core.rendering import leases as module
from pvtool_core.rendering.leases import EXPIRED_SECONDS, Leases
from tests.support.hostile import link_to_device

TAKE = """
import os, sys
from pathlib import Path
from pvtool_core.rendering.leases import Leases
Leases(Path(sys.argv[1])).__enter__().acquire("a")
os._exit(0)
"""


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Leases]:
    with Leases(tmp_path / ".claims") as leases:
        yield leases


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Leases]:
    with Leases(tmp_path / ".claims") as leases:
        yield leases


def age(folder: Path, seconds: float) -> None:
    """Change the renewal time of every lease to this many seconds ago."""
    for lease in folder.glob(".claims/*"):
        os.utime(lease, (time.time() - seconds, time.time() - seconds))


def test_a_lease_is_exclusive_until_it_is_released(ours: Leases, theirs: Leases) -> None:
    assert ours.acquire("a")
    assert not theirs.acquire("a")
    assert theirs.acquire("b")
    ours.release("a")
    assert theirs.acquire("a")


def test_one_of_many_concurrent_processes_gets_the_lease(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        crowd = [Leases(tmp_path / ".claims").__enter__() for _ in range(8)]
        for key in map(str, range(50)):
            assert sum(pool.map(Leases.acquire, crowd, [key] * 8)) == 1
        for leases in crowd:
            leases.__exit__()


def leave_lease(folder: Path) -> None:
    """Leave a lease like a killed process."""
    subprocess.run([sys.executable, "-c", TAKE, str(folder)], check=True)


def test_the_lease_of_a_killed_process_is_free_immediately(tmp_path: Path, ours: Leases) -> None:
    leave_lease(tmp_path / ".claims")
    assert ours.acquire("a")


def from_elsewhere(folder: Path) -> None:
    """Change the owner of the only lease to a process on another machine."""
    (lease,) = folder.glob(".claims/*")
    lease.write_bytes(
        orjson.dumps({**orjson.loads(lease.read_bytes()), "host": "elsewhere", "pid": 1})
    )


def test_a_lease_of_another_machine_holds_while_it_is_renewed(
    tmp_path: Path, ours: Leases, theirs: Leases
) -> None:
    theirs.acquire("a")
    from_elsewhere(tmp_path)
    age(tmp_path, EXPIRED_SECONDS - 10)
    assert not ours.acquire("a")
    age(tmp_path, EXPIRED_SECONDS + 10)
    assert ours.acquire("a")


def test_a_suspended_process_learns_that_it_lost_its_lease(
    tmp_path: Path, ours: Leases, theirs: Leases
) -> None:
    theirs.acquire("a")
    age(tmp_path, EXPIRED_SECONDS + 10)
    assert theirs.holds("a")
    assert ours.acquire("a")
    assert not theirs.holds("a")
    theirs.release("a")
    assert ours.holds("a")
    assert not theirs.acquire("a")


def test_a_lease_is_renewed_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEWED_SECONDS", 0.01)
    with Leases(tmp_path / ".claims") as leases:
        leases.acquire("a")
        age(tmp_path, 1000)
        end = time.monotonic() + 10
        while time.time() - next(tmp_path.glob(".claims/a.*")).stat().st_mtime > 100:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_lease_that_is_being_written_holds(tmp_path: Path, ours: Leases) -> None:
    (tmp_path / ".claims/a.0").touch()
    assert not ours.acquire("a")
    age(tmp_path, EXPIRED_SECONDS + 10)
    assert ours.acquire("a")


def test_no_files_are_left_once_all_processes_have_ended(tmp_path: Path) -> None:
    with Leases(tmp_path / ".claims") as one, Leases(tmp_path / ".claims") as other:
        one.acquire("a")
        other.acquire("b")
    assert not list(tmp_path.iterdir())


def test_the_last_process_may_remove_the_folder_while_another_one_starts(
    tmp_path: Path,
) -> None:
    def come_and_go(number: int) -> None:
        for turn in range(150):
            with Leases(tmp_path / ".claims") as leases:
                leases.acquire(str((number + turn) % 3))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(8)))
    assert not list(tmp_path.iterdir())


def test_leases_import_neither_torch_nor_numpy() -> None:
    words = "import sys, pvtool_core.rendering.leases as leases; "
    words += "assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", words], check=True)


def test_only_leases_of_dead_processes_are_cleared(tmp_path: Path) -> None:
    folder = tmp_path / ".claims"
    leave_lease(folder)
    (folder / ".now-here-1").touch()
    with Leases(folder) as living:
        living.acquire("other")
        with Leases(folder) as leases:
            leases.clear_expired()
        assert [path.name for path in folder.iterdir()] == ["other.0"]
    assert not folder.exists()


def test_a_full_disk_leaves_no_empty_lease_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / ".claims"
    with Leases(folder) as leases, monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", full)
        with pytest.raises(OSError, match="No space"):
            leases.acquire("key")
        assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "name", ["Thumbs.db", "a.0 (copy)", "a", "a.", "a.x", ".DS_Store", "a.1 2", "a.\u0663", "a.0.1"]
)
def test_other_files_in_the_folder_are_kept(tmp_path: Path, name: str) -> None:
    with Leases(tmp_path / ".claims") as leases:
        (tmp_path / ".claims" / name).write_text("theirs")
        assert leases.acquire("a")
        assert leases.holds("a")
        leases.release("a")
        leases.clear_expired()
    assert [path.name for path in (tmp_path / ".claims").iterdir()] == [name]


@pytest.mark.parametrize(
    "content", [b"{}", b"[]", b"7", b"null", b'{"pid": "x"}', b'{"pid": 1}', b"words", b"[" * 9999]
)
@pytest.mark.parametrize("name", ["a.0", "a.5", "a.999999999"])
def test_a_file_without_a_valid_owner_is_not_a_lease(
    tmp_path: Path, ours: Leases, theirs: Leases, content: bytes, name: str
) -> None:
    (tmp_path / ".claims" / name).write_bytes(content)
    assert ours.acquire("a")
    assert ours.holds("a")
    assert not theirs.acquire("a")
    ours.release("a")
    assert theirs.acquire("a")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, link_to_device])
def test_a_folder_pipe_or_link_is_not_a_lease(
    tmp_path: Path, ours: Leases, theirs: Leases, make: Callable[[Path], None]
) -> None:
    make(tmp_path / ".claims/a.0")
    make(tmp_path / ".claims/.now-here-1")
    assert ours.acquire("a")
    assert not theirs.acquire("a")
    ours.release("a")
    ours.clear_expired()
    assert len(list((tmp_path / ".claims").iterdir())) == 2


def test_leases_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/syslog.1").touch()
    os.utime(tmp_path / "theirs/syslog.1", (1, 1))
    (tmp_path / ".claims").symlink_to("theirs")
    with (
        pytest.raises(InputRefused, match="is not a folder"),
        Leases(tmp_path / ".claims") as leases,
    ):
        leases.clear_expired()
    assert (tmp_path / "theirs/syslog.1").exists()


def test_a_lease_renewed_in_the_future_has_expired(
    tmp_path: Path, ours: Leases, theirs: Leases
) -> None:
    theirs.acquire("a")
    from_elsewhere(tmp_path)
    age(tmp_path, -3600)
    assert ours.acquire("a")
