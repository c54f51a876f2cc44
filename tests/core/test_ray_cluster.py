"""A batch on Ray: clips are rendered, failures are reported, and killed workers are replaced.

Ray is reachable from this machine only, and leaves no files behind.
"""

import ipaddress
import os
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from pvtool_core.batches.folder import group_items
from pvtool_core.rendering import ray_cluster
from pvtool_core.rendering.ray_cluster import render_group
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.store.events import ClipEvent
from tests.support.render_jobs import Engine, item, render_job, whole


@dataclass
class Observed:
    """State of Ray while a worker renders, and the killed worker."""

    sessions: dict[Path, int] = field(default_factory=dict[Path, int])
    listening: list[str] = field(default_factory=list[str])
    killed: int = 0


SESSIONS = {Path("/tmp"), Path(tempfile.gettempdir())}


def observe_and_kill_a_worker(observed: Observed, over: threading.Event) -> None:
    """Note the addresses and session folders of Ray once a worker renders, and kill the worker."""
    while not observed.killed and not over.is_set():
        time.sleep(0.05)
        with suppress(psutil.NoSuchProcess):
            processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
            at_work = [one for one in processes if one.name().startswith("ray::render_group")]
            if not at_work:
                continue
            connections = [each for one in processes for each in one.net_connections("inet")]
            observed.listening = [
                each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN
            ]
            sessions = [one for root in SESSIONS for one in root.glob(f"pv-ray-{os.getpid()}-*")]
            observed.sessions = {path: path.stat().st_mode & 0o777 for path in sessions}
            at_work[0].kill()
            observed.killed = at_work[0].pid


@pytest.mark.slow
def test_a_batch_on_ray_is_private_survives_a_killed_worker_and_reports_failures(
    run: Engine,
    job: TrainJob,
    adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    user = tmp_path / "user"
    user.mkdir()
    monkeypatch.setenv("HOME", str(user))
    prompts = ["a <V> woman waving", "a <V> woman asleep"]
    files: dict[str, Path | str] = {
        "strong": adapters["strong"],
        "base": "",
        "gone": tmp_path / "gone",
    }
    items = [
        item(tmp_path / f"{name}-{number}", 5, file, prompt)
        for number, prompt in enumerate(prompts)
        for name, file in files.items()
    ]
    wanted = render_job(job, *items, on="ray")
    observed, over = Observed(), threading.Event()
    killer = threading.Thread(target=observe_and_kill_a_worker, args=(observed, over))
    killer.start()
    ended = run(wanted)
    over.set()
    killer.join()

    assert observed.killed
    assert (ended.status, ended.message) == (6, "2 of 6 failed.")
    made = [tmp_path / f"{name}-{number}" for name in ("strong", "base") for number in (0, 1)]
    assert all(whole(wanted, clip) for clip in made)
    reasons = [event["reason"] for event in run.events if event.get("status") == "failed"]
    assert len(reasons) == 2
    assert all("gone." in reason for reason in reasons)
    assert not (tmp_path / ".claims").exists()

    assert observed.listening
    for address in observed.listening:
        assert ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback, address
    assert list(observed.sessions.values()) == [0o700]
    assert not any(session.exists() for session in observed.sessions)
    assert list(user.iterdir()) == []


def test_session_folders_of_killed_engines_only_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "_short_folder", lambda: str(tmp_path))
    dead = next(number for number in range(2**22, 0, -1) if not psutil.pid_exists(number))
    for name in (f"pv-ray-{dead}-x", f"pv-ray-{os.getpid()}-y", "pv-ray-nobody-z"):
        (tmp_path / name / "ray").mkdir(parents=True)
    ray_cluster.sweep_sessions()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"pv-ray-{os.getpid()}-y",
        "pv-ray-nobody-z",
    }


def test_a_missing_cluster_is_a_usage_error(run: Engine, job: TrainJob, tmp_path: Path) -> None:
    ended = run(render_job(job, item(tmp_path / "clip"), on="ray", address="nowhere:at-all"))
    assert ended.status == 2
    assert ended.message.startswith("No Ray cluster found at nowhere:at-all: ")


def test_a_task_returns_events_and_the_errors_of_failed_clips(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    clips = [item(tmp_path / "base", 5), item(tmp_path / "lost", 5, tmp_path / "gone")]
    wanted = render_job(job, *clips)
    (group,) = group_items(wanted, clips)
    for expected in ("done", "skipped"):  # the worker keeps its model, but not the events
        result = render_group(wanted, group.prompts, replace(group, prompts=()))
        clip_events = [event for event in result.events if isinstance(event, ClipEvent)]
        statuses = {event.path: event.status for event in clip_events}
        assert statuses == {clips[0].clip: expected, clips[1].clip: "failed"}
        assert [(path, error.kind) for path, error in result.failed.items()] == [
            (clips[1].clip, "WeightsMissing")
        ]
        assert result.ended is None
