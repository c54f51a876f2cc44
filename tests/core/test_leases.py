"""Claims: of all that want the same clips one makes them, and what a dead process held is free again."""

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
Leases(Path(sys.argv[1])).__enter__().take("a")
os._exit(0)
"""


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Leases]:
    with Leases(tmp_path / ".claims") as claims:
        yield claims


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Leases]:
    with Leases(tmp_path / ".claims") as claims:
        yield claims


def age(folder: Path, seconds: float) -> None:
    """Let every claim have been renewed that long ago."""
    for claim in folder.glob(".claims/*"):
        os.utime(claim, (time.time() - seconds, time.time() - seconds))


def test_what_one_has_claimed_no_other_gets_until_it_is_given_back(
    ours: Leases, theirs: Leases
) -> None:
    assert ours.take("a")
    assert not theirs.take("a")
    assert theirs.take("b")
    ours.give_back("a")
    assert theirs.take("a")


def test_of_many_that_ask_at_once_one_gets_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        crowd = [Leases(tmp_path / ".claims").__enter__() for _ in range(8)]
        for key in map(str, range(50)):
            assert sum(pool.map(Leases.take, crowd, [key] * 8)) == 1
        for claims in crowd:
            claims.__exit__()


def leave_claim(folder: Path) -> None:
    """As a process does that is killed."""
    subprocess.run([sys.executable, "-c", TAKE, str(folder)], check=True)


def test_what_a_killed_process_held_is_free_at_once(tmp_path: Path, ours: Leases) -> None:
    leave_claim(tmp_path / ".claims")
    assert ours.take("a")


def from_elsewhere(folder: Path) -> None:
    """Make the one claim there is that of a process on another machine, whose processes we do not see."""
    (claim,) = folder.glob(".claims/*")
    claim.write_bytes(
        orjson.dumps({**orjson.loads(claim.read_bytes()), "host": "elsewhere", "pid": 1})
    )


def test_a_claim_of_another_machine_holds_as_long_as_it_is_renewed(
    tmp_path: Path, ours: Leases, theirs: Leases
) -> None:
    theirs.take("a")
    from_elsewhere(tmp_path)
    age(tmp_path, EXPIRED_SECONDS - 10)
    assert not ours.take("a")
    age(tmp_path, EXPIRED_SECONDS + 10)
    assert ours.take("a")


def test_a_process_that_was_held_up_learns_that_it_was_followed(
    tmp_path: Path, ours: Leases, theirs: Leases
) -> None:
    theirs.take("a")
    age(tmp_path, EXPIRED_SECONDS + 10)
    assert theirs.is_ours("a")
    assert ours.take("a")
    assert not theirs.is_ours("a")
    theirs.give_back("a")
    assert ours.is_ours("a")
    assert not theirs.take("a")


def test_a_claim_is_renewed_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEWED_SECONDS", 0.01)
    with Leases(tmp_path / ".claims") as claims:
        claims.take("a")
        age(tmp_path, 1000)
        end = time.monotonic() + 10
        while time.time() - next(tmp_path.glob(".claims/a.*")).stat().st_mtime > 100:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_claim_that_was_only_begun_to_be_written_holds(tmp_path: Path, ours: Leases) -> None:
    (tmp_path / ".claims/a.0").touch()
    assert not ours.take("a")
    age(tmp_path, EXPIRED_SECONDS + 10)
    assert ours.take("a")


def test_nothing_is_left_once_all_have_gone(tmp_path: Path) -> None:
    with Leases(tmp_path / ".claims") as one, Leases(tmp_path / ".claims") as other:
        one.take("a")
        other.take("b")
    assert not list(tmp_path.iterdir())


def test_the_folder_may_go_with_one_that_was_the_last_whenever_another_comes(
    tmp_path: Path,
) -> None:
    def come_and_go(number: int) -> None:
        for turn in range(150):
            with Leases(tmp_path / ".claims") as claims:
                claims.take(str((number + turn) % 3))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(8)))
    assert not list(tmp_path.iterdir())


def test_claiming_loads_nothing_heavy() -> None:
    words = "import sys, pvtool_core.rendering.leases; assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", words], check=True)


def test_what_the_dead_have_left_is_cleared_and_what_the_living_hold_is_not(tmp_path: Path) -> None:
    folder = tmp_path / ".claims"
    leave_claim(folder)
    (folder / ".now-here-1").touch()
    with Leases(folder) as living:
        living.take("other")
        with Leases(folder) as claims:
            claims.clear_up()
        assert [path.name for path in folder.iterdir()] == ["other.0"]
    assert not folder.exists()


def test_a_claim_that_a_full_disk_has_no_room_for_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / ".claims"
    with Leases(folder) as claims, monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", full)
        with pytest.raises(OSError, match="No space"):
            claims.take("key")
        assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "name", ["Thumbs.db", "a.0 (copy)", "a", "a.", "a.x", ".DS_Store", "a.1 2", "a.\u0663", "a.0.1"]
)
def test_what_only_lies_among_the_claims_is_left_alone(tmp_path: Path, name: str) -> None:
    with Leases(tmp_path / ".claims") as claims:
        (tmp_path / ".claims" / name).write_text("theirs")
        assert claims.take("a")
        assert claims.is_ours("a")
        claims.give_back("a")
        claims.clear_up()
    assert [path.name for path in (tmp_path / ".claims").iterdir()] == [name]


@pytest.mark.parametrize(
    "content", [b"{}", b"[]", b"7", b"null", b'{"pid": "x"}', b'{"pid": 1}', b"words", b"[" * 9999]
)
@pytest.mark.parametrize("name", ["a.0", "a.5", "a.999999999"])
def test_a_file_that_only_has_the_name_of_a_claim_holds_nothing(
    tmp_path: Path, ours: Leases, theirs: Leases, content: bytes, name: str
) -> None:
    (tmp_path / ".claims" / name).write_bytes(content)
    assert ours.take("a")
    assert ours.is_ours("a")
    assert not theirs.take("a")
    ours.give_back("a")
    assert theirs.take("a")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, link_to_device])
def test_a_folder_or_a_pipe_of_a_claims_name_holds_nothing(
    tmp_path: Path, ours: Leases, theirs: Leases, make: Callable[[Path], None]
) -> None:
    make(tmp_path / ".claims/a.0")
    make(tmp_path / ".claims/.now-here-1")
    assert ours.take("a")
    assert not theirs.take("a")
    ours.give_back("a")
    ours.clear_up()
    assert len(list((tmp_path / ".claims").iterdir())) == 2


def test_claims_are_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/syslog.1").touch()
    os.utime(tmp_path / "theirs/syslog.1", (1, 1))
    (tmp_path / ".claims").symlink_to("theirs")
    with (
        pytest.raises(InputRefused, match="is no folder of its own"),
        Leases(tmp_path / ".claims") as claims,
    ):
        claims.clear_up()
    assert (tmp_path / "theirs/syslog.1").exists()


def test_a_claim_that_was_renewed_in_the_future_has_expired(
    tmp_path: Path, ours: Leases, theirs: Leases
) -> None:
    theirs.take("a")
    from_elsewhere(tmp_path)
    age(tmp_path, -3600)
    assert ours.take("a")
