"""A batch on Ray: clips are rendered, failures are reported, and killed workers are replaced."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pvtool_core.batches.folder import group_items
from pvtool_core.rendering.ray_cluster import render_group
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.store.events import ClipEvent
from tests.support.render_jobs import Engine, item, render_job, whole


def kill_a_worker_at_work(killed: list[int], over: threading.Event) -> None:
    while not killed and not over.is_set():
        for process in psutil.Process().children(recursive=True):
            if process.name().startswith("ray::render_group"):
                process.kill()
                killed.append(process.pid)
                return
        time.sleep(0.05)


@pytest.mark.slow
def test_a_batch_on_ray_survives_a_killed_worker_and_reports_failures(
    run: Engine, job: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    prompts = ["a <V> woman waving", "a <V> woman asleep"]
    items = [
        item(tmp_path / f"{name}-{number}", 5, file, prompt)
        for number, prompt in enumerate(prompts)
        for name, file in {
            "strong": adapters["strong"],
            "base": "",
            "gone": tmp_path / "gone",
        }.items()
    ]
    wanted = render_job(job, *items, on="ray")
    killed: list[int] = []
    over = threading.Event()
    killer = threading.Thread(target=kill_a_worker_at_work, args=(killed, over))
    killer.start()
    ended = run(wanted)
    over.set()
    killer.join()
    assert killed
    assert (ended.status, ended.message) == (6, "2 of 6 failed.")
    made = [tmp_path / f"{name}-{number}" for name in ("strong", "base") for number in (0, 1)]
    assert all(whole(wanted, clip) for clip in made)
    reasons = [event["reason"] for event in run.events if event.get("status") == "failed"]
    assert len(reasons) == 2
    assert all("gone." in reason for reason in reasons)
    assert not (tmp_path / ".claims").exists()


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
