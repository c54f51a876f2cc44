"""Run folders: readers see complete files only, even if the writer is killed."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtool_core.errors import BrokenRun, Busy, DiskFull, ExitStatus, Missing, RunFailed
from pvtool_core.store.event_log import (
    EventWriter,
    drop_events_after,
    first_event_time,
    newest_records,
    parse_lines,
    read_records,
)
from pvtool_core.store.events import StepEvent, TelemetryEvent
from pvtool_core.store.liveness import Heartbeat, State
from pvtool_core.store.runs import (
    ExitRecord,
    Request,
    RunFolder,
    alive,
    find_run,
    list_runs,
    new_run,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "mara-1").create()


def write_events(path: Path, *events: dict[str, Any]) -> None:
    with EventWriter(path) as writer:
        for event in events:
            writer.append({"time": 1.0, **event})


@given(values=st.lists(json_values, max_size=5), cut=st.integers(0, 400))
def test_truncated_log_has_its_complete_lines_and_can_be_continued(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], cut: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    write_events(path, *({"type": "metric", "value": value} for value in values))
    whole, _ = read_records(path)
    assert [event["value"] for event in whole] == values
    os.truncate(path, max(0, path.stat().st_size - cut))
    left, _ = read_records(path)
    assert left == whole[: len(left)]
    write_events(path, {"type": "metric", "value": "after"})
    assert [event["value"] for event in read_records(path)[0]] == [
        *(event["value"] for event in left),
        "after",
    ]


@given(st.lists(st.integers(1, 60), max_size=20))
def test_log_read_in_parts_returns_every_event_once(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    write_events(folder / "whole", *({"type": "step", "step": step} for step in range(5)))
    content = (folder / "whole").read_bytes()
    steps: list[int] = []
    offset = 0
    for end in [*(sum(sizes[:i]) for i in range(len(sizes))), len(content)]:
        (folder / "growing").write_bytes(content[:end])
        events, offset = read_records(folder / "growing", offset)
        steps += [event["step"] for event in events]
    assert steps == list(range(5))


def test_missing_log_has_no_events(tmp_path: Path) -> None:
    assert read_records(tmp_path / "events.jsonl") == ([], 0)


def test_numbers_that_are_not_finite_become_null(folder: RunFolder) -> None:
    write_events(folder.events, {"type": "step", "loss": float("nan"), "all": [float("inf"), 1.0]})
    assert "NaN" not in folder.events.read_text()
    (event,) = read_records(folder.events)[0]
    assert (event["loss"], event["all"]) == (None, [None, 1.0])


def test_a_full_disk_leaves_no_half_line(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = EventWriter(folder.events)
    writer.write(StepEvent(step=1))
    real_write = os.write

    def write_a_part(descriptor: int, data: bytes) -> int:
        return real_write(descriptor, data[:7])

    monkeypatch.setattr(os, "write", write_a_part)
    with pytest.raises(OSError) as caught:
        writer.write(StepEvent(step=2))
    assert caught.value.errno == errno.ENOSPC
    assert [event["step"] for event in read_records(folder.events)[0]] == [1]
    assert folder.events.read_bytes().endswith(b"\n")


def test_only_events_after_the_checkpoint_are_removed_on_resume(
    folder: RunFolder,
) -> None:
    events = [
        {"type": "run", "state": "started"},
        *({"type": "step", "step": step} for step in (1, 2, 3)),
    ]
    events += [
        {"type": "sample", "step": 3},
        {"type": "warning", "message": "hot"},
        {"type": "checkpoint", "step": 2},
    ]
    write_events(folder.events, *events)
    drop_events_after(folder.events, 2)
    left = read_records(folder.events)[0]
    assert [(event["type"], event.get("step")) for event in left] == [
        ("run", None),
        ("step", 1),
        ("step", 2),
        ("warning", None),
        ("checkpoint", 2),
    ]


def test_a_second_engine_is_refused_even_from_another_process(folder: RunFolder) -> None:
    code = (
        "import sys, pathlib; from pvtool_core.store.runs import RunFolder; "
        "lock = RunFolder(pathlib.Path(sys.argv[1])).lock(); lock.__enter__(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(Busy), folder.lock():
            pass
        other.kill()
        other.wait()
        with folder.lock():
            pass


def test_incomplete_checkpoint_is_ignored(folder: RunFolder) -> None:
    first = folder.write_checkpoint(50, {"adapter.safetensors": b"one"})
    second = folder.write_checkpoint(
        100, {"adapter.safetensors": lambda path: path.write_bytes(b"two")}
    )
    assert folder.latest_checkpoint() == second
    (second / "adapter.safetensors").write_bytes(b"t")
    assert folder.latest_checkpoint() == first
    (first / "manifest.json").unlink()
    assert folder.latest_checkpoint() is None


def test_failed_checkpoint_keeps_the_last_one(folder: RunFolder) -> None:
    def no_space(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    first = folder.write_checkpoint(50, {"adapter": b"one"})
    with pytest.raises(OSError):
        folder.write_checkpoint(100, {"adapter": b"two", "optimizer": no_space})
    assert folder.latest_checkpoint() == first
    assert list(folder.checkpoints.iterdir()) == [first]


def test_only_the_newest_checkpoints_are_kept_and_one_can_be_written_again(
    folder: RunFolder,
) -> None:
    for step in (50, 100, 150, 150):
        folder.write_checkpoint(step, {"adapter": str(step).encode()})
        folder.remove_checkpoints(keep=2)
    assert [path.name for path in folder.checkpoint_folders()] == ["step-000100", "step-000150"]
    assert folder.latest_checkpoint() == folder.checkpoint_folders()[-1]


def test_requests_are_read_once_and_in_order(folder: RunFolder) -> None:
    for request in (Request.PAUSE, Request.SAMPLE, Request.SAMPLE, Request.STOP):
        folder.request(request)
        time.sleep(0.01)
    (folder.control / "dance").write_text("")
    assert folder.take_requests() == [Request.PAUSE, Request.SAMPLE, Request.STOP]
    assert folder.take_requests() == []


def test_heartbeat_distinguishes_live_and_dead_engines(folder: RunFolder) -> None:
    assert folder.state() == State.NEW
    with Heartbeat(folder.status, total=10) as heartbeat:
        heartbeat.update(State.RUNNING, step=3)
        status = folder.read_status()
        assert status is not None
        assert (status.step, status.total, folder.state()) == (3, 10, State.RUNNING)
    assert alive(status)
    assert not alive(replace(status, started=status.started - 100))
    assert alive(replace(status, boot="another machine of the same name"))
    assert not alive(replace(status, boot="before a restart", time=status.time - 3600))
    assert not alive(replace(status, pid=max(psutil.pids()) + 10_000))
    assert alive(replace(status, host="elsewhere"))
    assert not alive(replace(status, host="elsewhere", time=status.time - 3600))


def test_killed_engine_is_lost_and_others_have_their_recorded_state(
    folder: RunFolder,
) -> None:
    code = (
        "import sys, pathlib, time; from pvtool_core.store.runs import *; "
        "from pvtool_core.store.liveness import Heartbeat; "
        "Heartbeat(RunFolder(pathlib.Path(sys.argv[1])).status).__enter__(); "
        "print('beats', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE
    ) as engine:
        assert engine.stdout is not None
        engine.stdout.readline()
        assert folder.state() == State.STARTING
        engine.kill()
    assert folder.state() == State.LOST
    folder.write_exit(ExitRecord(status=0, state=State.FINISHED))
    assert folder.state() == State.FINISHED


def test_error_in_an_exit_record_is_read_unchanged(folder: RunFolder) -> None:
    folder.write_exit(ExitRecord.of_error(DiskFull("events.jsonl")))
    record = folder.read_exit()
    assert record is not None
    error = record.error()
    assert error is not None
    assert (error.status, error.kind) == (ExitStatus.RESOURCES, "DiskFull")
    assert error.message == "The disk is full while writing events.jsonl."


def test_runs_are_counted_listed_and_found(tmp_path: Path) -> None:
    runs = [new_run(tmp_path, "mara"), new_run(tmp_path, "mara"), new_run(tmp_path, "nora")]
    for run in runs:
        run.config.write_text("")
        time.sleep(0.01)
    assert [run.name for run in list_runs(tmp_path)] == ["mara-1", "mara-2", "nora-1"]
    assert find_run(tmp_path, "mara-2").path == runs[1].path
    with pytest.raises(Missing, match="Did you mean 'mara-"):
        find_run(tmp_path, "mara-11")


def test_exit_record_is_valid_json(folder: RunFolder) -> None:
    folder.write_exit(ExitRecord.of_error(RunFailed("It broke.")))
    record = json.loads(folder.exit.read_text())
    assert {"status": 1, "state": "failed", "reason": "It broke."}.items() <= record.items()


@given(st.binary(max_size=200))
def test_invalid_line_is_counted_as_unreadable_only(garbage: bytes) -> None:
    around = b'{"time": 7.0, "type": "step", "step": 1}\n'
    line = garbage.replace(b"\n", b"")
    first, middle, last = parse_lines(around + line + b"\n" + around)
    assert first == last == {"time": 7.0, "type": "step", "step": 1}
    assert middle["type"] == "unreadable"
    assert middle["time"] == 7.0


@pytest.mark.parametrize("line", [b"", b"\r", b"{\r\r", b"\r\n\r", b"\n\n"])
def test_carriage_returns_and_empty_lines_are_skipped(folder: RunFolder, line: bytes) -> None:
    events = [b'{"time": 7.0, "type": "step", "step": %d}\n' % step for step in (1, 2)]
    folder.events.write_bytes(line + b"\n" + events[0] + line + b"\n" + events[1])
    assert [event["step"] for event in newest_records(folder.events, "step", 3)] == [2, 1]
    assert first_event_time(folder.events) is None
    drop_events_after(folder.events, 1)
    assert [event["step"] for event in newest_records(folder.events, "step", 3)] == [1]
    assert folder.events.read_bytes() == line + b"\n" + events[0] + line + b"\n"


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b'{"state": "running"}', b"\xff\x00"])
def test_broken_files_make_a_run_lost_with_a_reason(folder: RunFolder, content: bytes) -> None:
    folder.status.write_bytes(content)
    assert folder.state() == State.LOST
    with pytest.raises(BrokenRun, match=r"status\.json of mara-1"):
        folder.read_status()
    folder.exit.write_bytes(content)
    assert folder.state() == State.LOST
    with pytest.raises(BrokenRun, match=r"exit\.json of mara-1"):
        folder.read_exit()


def test_the_newest_event_of_a_type_is_found_from_the_end(folder: RunFolder) -> None:
    assert newest_records(folder.events, "step", 3) == []
    with EventWriter(folder.events) as writer:
        for step in range(5000):
            writer.write(StepEvent(step=step))
        writer.write(TelemetryEvent(devices=()))
    with folder.events.open("ab") as file:
        file.write(b'{"time": 1.0, "type": "step", "step": 9')
    assert [event["step"] for event in newest_records(folder.events, "step", 3)] == [
        4999,
        4998,
        4997,
    ]


def test_other_folder_among_the_checkpoints_is_kept(folder: RunFolder) -> None:
    (folder.checkpoints / "step-copy").mkdir()
    assert folder.checkpoint_folders() == []


def test_engine_ignores_requests_to_an_earlier_engine(
    folder: RunFolder,
) -> None:
    folder.request(Request.STOP)
    folder.forget_requests()
    assert folder.take_requests() == []
    folder.request(Request.STOP)
    os.utime(folder.control / "stop", (time.time() - 60, time.time() - 60))
    folder.announce(os.getpid())
    folder.request(Request.PAUSE)
    folder.forget_requests()
    assert folder.take_requests() == [Request.PAUSE]
