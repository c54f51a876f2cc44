"""Killed, stopped and failed runs resume without loss."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pvtool_core.errors import ExitStatus
from pvtool_core.media.decode import frames_of
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.store.event_log import read_records
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import Request, RunFolder, checkpoint_is_whole
from tests.support.engines import Engines, wait_until

KILLS = 12
STEPS = 15


def weights(folder: RunFolder) -> dict[str, bytes]:
    """Return the tensors of adapter and optimizer in the newest checkpoint."""
    checkpoint = folder.latest_checkpoint()
    assert checkpoint is not None, folder.log.read_text()
    files = {path.name: load_file(path) for path in checkpoint.glob("*.safetensors")}
    return {
        f"{name} {key}": tensor.numpy().tobytes()
        for name, file in files.items()
        for key, tensor in file.items()
    }


def story(folder: RunFolder) -> list[tuple[str, object, object]]:
    """Return the events without times: each step with its loss, checkpoints, samples, scores."""
    events, _ = read_records(folder.events)
    told = {"step": "loss", "checkpoint": "path", "sample": "path", "scores": "scores"}
    return [
        (event["type"], event["step"], event[told[event["type"]]])
        for event in events
        if event["type"] in told
    ]


def steps_done(folder: RunFolder) -> int:
    events, _ = read_records(folder.events)
    return max((event["step"] for event in events if event["type"] == "step"), default=0)


def checkpoints(folder: RunFolder) -> list[str]:
    return [path.name for path in folder.checkpoint_folders()]


def check_whole(folder: RunFolder) -> None:
    """Check that all event lines, checkpoints, samples and the heartbeat are complete."""
    lines = folder.events.read_bytes().splitlines(keepends=True)
    assert all(json.loads(line) for line in lines if line.endswith(b"\n"))
    assert all(checkpoint_is_whole(checkpoint) for checkpoint in folder.checkpoint_folders())
    assert all(len(frames_of(sample)) for sample in folder.samples.glob("*/[!.]*.mp4"))
    assert folder.read_status() is not None
    assert folder.read_exit() is None


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_weights(
    engines: Engines, training: TrainJob, uninterrupted: RunFolder
) -> None:
    draw = random.Random(0)
    kills = runs = 0
    while kills < KILLS:
        runs += 1
        folder = engines.folder(f"killed-{runs}", training)
        while (pid := engines.start(folder)) and kill_within_steps(folder, pid, draw):
            kills += 1
            assert engines.wait() == -signal.SIGKILL
            assert folder.state() == State.LOST
            check_whole(folder)
        assert engines.wait() == 0, folder.log.read_text()
        assert weights(folder) == weights(uninterrupted)
        assert story(folder) == story(uninterrupted)
        assert folder.read_best() == uninterrupted.read_best()
        assert checkpoints(folder) == checkpoints(uninterrupted)
        assert sorted(path.name for path in folder.path.rglob("*writing*")) == []


def kill_within_steps(folder: RunFolder, pid: int, draw: random.Random) -> bool:
    """Kill the engine within the next few steps or, one time in four, before training.

    Return False if it ended first. Most engines live for more steps than between two
    checkpoints, so the run makes progress even on a slow machine.
    """
    wanted, resumed_at = draw.randrange(1, 7), checkpoint_step(folder)
    if draw.random() < 0.25:
        wait_until(folder.status.exists)
    else:
        wait_until(
            lambda: steps_done(folder) >= resumed_at + wanted or folder.read_exit() is not None
        )
    time.sleep(draw.uniform(0, 0.3))  # a random moment, not a wait for a condition
    if folder.read_exit() or steps_done(folder) == STEPS:
        return False
    os.kill(pid, signal.SIGKILL)
    return True


def checkpoint_step(folder: RunFolder) -> int:
    checkpoint = folder.latest_checkpoint()
    return int(checkpoint.name.removeprefix("step-")) if checkpoint else 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_engine_saves_a_checkpoint_on_sigterm(
    engines: Engines,
    training: TrainJob,
    uninterrupted: RunFolder,
    number: signal.Signals,
    status: int,
) -> None:
    folder = engines.folder(f"told-{number.name}", training)
    pid = engines.start(folder)
    wait_until(lambda: steps_done(folder) >= 4)
    os.kill(pid, number)
    assert engines.wait() == status
    ended = folder.read_exit()
    assert ended is not None
    assert (ended.status, ended.state) == (status, State.STOPPED)
    checkpoint = folder.latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == f"step-{steps_done(folder):06d}"
    assert engines.run(folder) == 0
    assert weights(folder) == weights(uninterrupted)
    steps = [event["step"] for event in read_records(folder.events)[0] if event["type"] == "step"]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_engine_continues_after_its_terminal_closes(
    engines: Engines, training: TrainJob, uninterrupted: RunFolder
) -> None:
    folder = engines.folder("hung-up", training)
    pid = engines.start(folder)
    wait_until(lambda: steps_done(folder) >= 2)
    os.kill(pid, signal.SIGHUP)
    assert engines.wait() == 0
    assert story(folder) == story(uninterrupted)


@pytest.mark.slow
def test_forked_engine_trains_to_the_weights_of_a_separate_process(
    engines: Engines, training: TrainJob
) -> None:
    job = dataclasses.replace(
        training, training=dataclasses.replace(training.training, iterations=2)
    )
    forked, separate = (engines.folder(name, job) for name in ("forked", "separate"))
    assert engines.run(forked) == engines.second(separate).returncode == 0
    assert story(forked) == story(separate)
    assert weights(forked) == weights(separate)


def test_forked_engine_reports_invalid_settings(engines: Engines, training: TrainJob) -> None:
    folder = engines.folder("invalid", training)
    folder.config.write_text("kind = 'nothing'")
    assert engines.run(folder) == ExitStatus.USAGE
    ended = folder.read_exit()
    assert ended and "kind: is 'nothing'" in ended.message
    assert "SettingsError" in folder.log.read_text()


@pytest.mark.slow
def test_second_engine_of_a_run_is_refused_without_effect_on_the_first(
    engines: Engines, training: TrainJob, uninterrupted: RunFolder
) -> None:
    folder = engines.folder("wanted-twice", training)
    pid = engines.start(folder)
    wait_until(lambda: steps_done(folder) >= 1)
    refused = engines.second(folder)
    assert refused.returncode == 75
    assert refused.stderr == "Another engine is working on 'wanted-twice'.\n"
    status = folder.read_status()
    assert status is not None
    assert status.pid == pid
    assert engines.wait() == 0
    assert story(folder) == story(uninterrupted)


@pytest.mark.slow
def test_paused_run_continues_and_stopped_run_ends_normally(
    engines: Engines, training: TrainJob, uninterrupted: RunFolder
) -> None:
    folder = engines.folder("paused", training)
    engines.start(folder)
    wait_until(lambda: steps_done(folder) >= 2)
    folder.request(Request.PAUSE)
    wait_until(lambda: folder.state() == State.PAUSED)
    before = steps_done(folder)
    time.sleep(0.5)
    assert steps_done(folder) == before
    folder.request(Request.RESUME)
    wait_until(lambda: steps_done(folder) >= before + 2)
    folder.request(Request.STOP)
    assert engines.wait() == 0
    assert folder.state() == State.STOPPED
    assert engines.run(folder) == 0
    assert weights(folder) == weights(uninterrupted)


def check_full_disk(folder: RunFolder) -> None:
    """Check for one error message and an unchanged last checkpoint."""
    ended = folder.read_exit()
    assert ended is not None, folder.log.read_text()
    assert (ended.status, ended.kind, ended.state) == (5, "DiskFull", State.FAILED)
    assert ended.message.startswith("The disk is full")
    assert all(checkpoint_is_whole(checkpoint) for checkpoint in folder.checkpoint_folders())
    assert not list(folder.checkpoints.glob(".*"))
    failed = [event for event in read_records(folder.events)[0] if event.get("state") == "failed"]
    assert [event["reason"] for event in failed] == [ended.message]


@pytest.fixture
def small_disk(engines: Engines) -> Generator[Path]:
    """Mount a file system of 300 kB for the runs; this needs root."""
    place = engines.home / "data/runs/small-disk"
    place.mkdir(parents=True)
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if not made or made.returncode:
        place.rmdir()
        pytest.skip("mounting needs root; another test limits the size of files")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_run_resumes_after_a_full_disk_once_there_is_space(
    engines: Engines, training: TrainJob, uninterrupted: RunFolder, small_disk: Path
) -> None:
    often = dataclasses.replace(
        training.training, checkpoint_every=1, keep_checkpoints=1000, sample_every=0
    )
    folder = engines.folder("small-disk/run", dataclasses.replace(training, training=often))
    assert engines.run(folder) == 5
    check_full_disk(folder)
    assert 0 < len(folder.checkpoint_folders()) < STEPS
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert engines.run(folder) == 0, folder.log.read_text()
    assert weights(folder) == weights(uninterrupted)


@pytest.mark.slow
def test_failed_checkpoint_keeps_the_previous_one(
    engines: Engines, training: TrainJob, uninterrupted: RunFolder
) -> None:
    folder = engines.folder("limited", training)
    pid = engines.start(folder)
    wait_until(lambda: len(folder.checkpoint_folders()) >= 1)
    os.kill(pid, signal.SIGKILL)
    engines.wait()
    before = weights(folder)
    checkpoint = folder.latest_checkpoint()
    assert checkpoint is not None
    engines.limit_file_size(max(path.stat().st_size for path in checkpoint.iterdir()) - 1)
    try:
        assert engines.run(folder) == 5
    finally:
        engines.limit_file_size(-1)
    check_full_disk(folder)
    assert weights(folder) == before
    assert engines.run(folder) == 0, folder.log.read_text()
    assert weights(folder) == weights(uninterrupted)


@pytest.mark.slow
def test_error_names_missing_weights(engines: Engines, training: TrainJob) -> None:
    gone = dataclasses.replace(training.model, base_model=str(engines.home / "nowhere"))
    folder = engines.folder("no-weights", dataclasses.replace(training, model=gone))
    assert engines.second(folder).returncode == 4
    ended = folder.read_exit()
    assert ended is not None
    assert ended.kind == "WeightsMissing"
    assert "Weights not found: " in ended.message


@pytest.mark.slow
def test_engine_refuses_invalid_settings(engines: Engines, training: TrainJob) -> None:
    folder = engines.folder("wrong", training)
    folder.config.write_text(folder.config.read_text().replace("learning_rate", "learning_rat"))
    assert engines.second(folder).returncode == 2
    ended = folder.read_exit()
    assert ended is not None
    assert "did you mean 'learning_rate'?" in ended.message
