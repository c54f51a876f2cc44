"""`pv cache`: size of the trajectory cache, and how to clear it."""

import os
from pathlib import Path

import pytest

from pvtool_core.store import trajectory_cache
from tests.support.commands import Pv, everything

DAY = 86_400.0


@pytest.fixture
def kept(home: Path) -> Path:
    """Create three trajectories, used a day apart, and a folder that is being written."""
    root = home / "cache/trajectories"
    for day in range(3):
        for name, size in (("switch", 3 << 20), ("final", 1 << 20)):
            path = root / f"key-{day}" / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * size)
            os.utime(path, (0, 1000 + day * DAY - (name == "final")))
    (root / "key-new").mkdir()
    return root


def test_show_counts_cached_trajectories(pv: Pv, kept: Path) -> None:
    shown = pv("cache", "show", "--json").json
    assert shown == {
        "path": str(kept),
        "entries": 3,
        "bytes": 12 << 20,
        "oldest_use": 1000.0,
        "newest_use": 1000 + 2 * DAY,
    }
    words = pv("cache", "show").out
    assert str(kept) in words and "12.0 MiB" in words and "1970-01-03" in words


def test_least_recently_used_trajectories_come_first(kept: Path) -> None:
    os.utime(kept / "key-0/switch.safetensors", (0, 9 * DAY))
    assert [entry.path.name for entry in trajectory_cache.entries(kept)] == [
        "key-1",
        "key-2",
        "key-0",
    ]


def test_clear_deletes_trajectories_only(pv: Pv, kept: Path, home: Path) -> None:
    (kept.parent / "models").mkdir()
    (kept.parent / "models/weights").write_bytes(b"x")
    answer = pv("cache", "clear", "--yes", "--json")
    assert (answer.status, answer.json) == (0, {"path": str(kept), "removed": 3, "bytes": 12 << 20})
    assert list(everything(home)) == ["cache/models/weights"]
    assert pv("cache", "clear").out == "The cache is empty.\n"


def test_clear_asks_for_confirmation(pv: Pv, kept: Path, home: Path) -> None:
    before = everything(home)
    answer = pv("cache", "clear")
    assert (answer.status, everything(home)) == (2, before)
    assert "--yes" in answer.err


def test_missing_cache_is_empty(pv: Pv, home: Path) -> None:
    shown = pv("cache", "show", "--json").json
    assert (shown["entries"], shown["bytes"], shown["oldest_use"]) == (0, 0, None)
    assert pv("cache", "show").out.splitlines()[1].split() == ["trajectories", "0"]
    assert not home.exists()


def test_entries_removed_by_another_process_cause_no_error(kept: Path) -> None:
    found = trajectory_cache.entries(kept)
    assert len(trajectory_cache.clear(kept)) == 3
    trajectory_cache.remove(kept, found)
    assert [path.name for path in kept.iterdir()] == ["key-new"]
