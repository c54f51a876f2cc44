"""Run folders from untrusted sources: they cannot redirect writes or block readers."""

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pvtool_core import __main__ as engine
from pvtool_core.batches.folder import BatchFolder, list_batches
from pvtool_core.errors import BrokenRun, ExitStatus, SettingsError, UnsafeRun
from pvtool_core.files import replace_file
from pvtool_core.settings.jobs import read_job
from pvtool_core.store.event_log import EventWriter, drop_events_after, newest_records, read_records
from pvtool_core.store.events import StepEvent
from pvtool_core.store.liveness import State, Status, process_facts, process_lives
from pvtool_core.store.runs import ExitRecord, Request, RunFolder, alive, list_runs
from tests.support.hostile import DEEP_JSON, Outside, deadline, link_to_device, link_to_itself

__all__ = ["deadline"]

pytestmark = pytest.mark.usefixtures("deadline")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs/mara-1").create()


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    return Outside(tmp_path / "outside")


FILES = (
    "engine.log",
    "engine.lock",
    "events.jsonl",
    "status.json",
    "exit.json",
    "best.json",
    "config.toml",
    ".ballast",
)
FOLDERS = (
    "control",
    "checkpoints",
    "samples",
    "samples/step-000001",
    "checkpoints/step-000001",
    "evaluation",
)


@pytest.mark.parametrize(
    "name", [*FILES, *FOLDERS, ".status.json.77.writing", "control/stop", "notes"]
)
def test_engine_writes_only_to_its_folder(folder: RunFolder, outside: Outside, name: str) -> None:
    outside.put_in_place_of(folder.path / name)
    assert engine.main([str(folder.path)]) == ExitStatus.REFUSED
    outside.assert_untouched()


@pytest.mark.parametrize("name", ["engine.log", "events.jsonl", ".ballast"])
def test_file_with_a_second_hard_link_is_not_written_to(
    folder: RunFolder, outside: Outside, name: str
) -> None:
    os.link(outside.file, folder.path / name)
    assert engine.main([str(folder.path)]) == ExitStatus.REFUSED
    outside.assert_untouched()


def test_run_can_be_opened_through_a_link(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(folder.path.parent)
    reached = RunFolder(tmp_path / "data/mara-1")
    reached.check()
    with reached.lock(), EventWriter(reached.events) as events:
        events.write(StepEvent(step=1))
    reached.request(Request.STOP)
    assert reached.write_checkpoint(1, {"adapter": b"one"}) == reached.latest_checkpoint()
    assert folder.take_requests() == [Request.STOP]


def test_a_request_is_not_written_through_a_link(folder: RunFolder, outside: Outside) -> None:
    outside.put_in_place_of(folder.control)
    with pytest.raises(UnsafeRun, match="control is not a regular folder"):
        folder.request(Request.STOP)
    folder.forget_requests()
    assert folder.take_requests() == []
    outside.assert_untouched()


def test_only_request_files_are_removed(folder: RunFolder) -> None:
    (folder.control / "letter.txt").write_text("mine")
    (folder.control / "stop").mkdir()
    for path in folder.control.iterdir():
        os.utime(path, (1, 1))
    folder.request(Request.PAUSE)
    assert folder.take_requests() == [Request.PAUSE]
    folder.forget_requests()
    assert sorted(path.name for path in folder.control.iterdir()) == ["letter.txt", "stop"]


@pytest.mark.parametrize(
    "name", ["checkpoints", "checkpoints/step-000002", "checkpoints/.step-000002.writing"]
)
def test_checkpoints_are_not_written_or_deleted_through_a_link(
    folder: RunFolder, outside: Outside, name: str
) -> None:
    outside.put_in_place_of(folder.path / name)
    if name == "checkpoints":
        with pytest.raises(UnsafeRun):
            folder.write_checkpoint(2, {"adapter": b"two"})
    else:
        assert folder.write_checkpoint(2, {"adapter": b"two"}) == folder.latest_checkpoint()
    folder.remove_checkpoints(keep=1)
    outside.assert_untouched()


def test_link_with_a_temporary_name_is_not_written_through(
    tmp_path: Path, outside: Outside
) -> None:
    (tmp_path / f".file.{os.getpid()}.writing").symlink_to(outside.file)
    replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    outside.assert_untouched()


MANIFESTS = [
    b"",
    b"{}",
    b"[]",
    b"null",
    DEEP_JSON,
    b'{"sha256": []}',
    b'{"sha256": {}}',
    b'{"sha256": {"../x": "0"}}',
]


@pytest.mark.parametrize(
    "content", [*MANIFESTS, b'{"sha256": {"adapter": 7}}', b'{"sha256": {"nothing": "0"}}']
)
def test_checkpoint_with_invalid_manifest_is_ignored(folder: RunFolder, content: bytes) -> None:
    first = folder.write_checkpoint(1, {"adapter": b"one"})
    second = folder.write_checkpoint(2, {"adapter": b"two"})
    (second / "manifest.json").write_bytes(content)
    assert folder.latest_checkpoint() == first


@pytest.mark.parametrize("name", ["manifest.json", "adapter"])
def test_checkpoint_with_a_pipe_or_a_device_is_ignored(folder: RunFolder, name: str) -> None:
    first = folder.write_checkpoint(1, {"adapter": b"one"})
    for step, put in ((2, os.mkfifo), (3, link_to_device)):
        checkpoint = folder.write_checkpoint(step, {"adapter": b"two"})
        (checkpoint / name).unlink()
        put(checkpoint / name)
    (folder.checkpoints / "step-000004").write_text("a file")
    assert folder.latest_checkpoint() == first


def valid_status(**changes: object) -> bytes:
    facts = {
        "state": "running",
        "step": 1,
        "total": 2,
        "time": time.time(),
        **process_facts(os.getpid()),
    }
    return json.dumps({**facts, **changes}).encode()


def test_valid_status_is_accepted(folder: RunFolder) -> None:
    folder.status.write_bytes(valid_status())
    assert folder.state() == State.RUNNING


STATUSES = [
    *[
        DEEP_JSON,
        b'{"a":' * 5_000,
        b" " * (1 << 17),
        valid_status(pid=-1),
        valid_status(pid=10**30),
    ],
    *[
        valid_status(step=-1),
        valid_status(step=10**400),
        valid_status(time=10**400),
        valid_status(time=math.nan),
    ],
]


@pytest.mark.parametrize("content", STATUSES, ids=range(len(STATUSES)))
def test_run_with_invalid_status_is_broken(folder: RunFolder, content: bytes) -> None:
    folder.status.write_bytes(content)
    with pytest.raises(BrokenRun):
        folder.read_status()
    assert folder.state() == State.LOST


RECORDS = [
    DEEP_JSON,
    b'{"status": 0, "state": "running"}',
    b'{"status": 77, "state": "failed"}',
    b'{"status": 0, "state": "no"}',
    b'{"status": 1, "state": "failed", "message": "' + b"x" * (1 << 21) + b'"}',
]


@pytest.mark.parametrize("content", RECORDS, ids=range(len(RECORDS)))
def test_run_with_invalid_exit_record_is_broken(folder: RunFolder, content: bytes) -> None:
    folder.exit.write_bytes(content)
    with pytest.raises(BrokenRun):
        folder.read_exit()
    assert folder.state() == State.LOST


READERS: list[Callable[[RunFolder], object]] = [
    RunFolder.read_status,
    RunFolder.read_exit,
    RunFolder.read_log,
    lambda folder: read_job(folder.config),
    lambda folder: read_records(folder.events),
    lambda folder: newest_records(folder.events, "step", 1),
    lambda folder: EventWriter(folder.events),
    RunFolder.open_log,
]


MAKERS: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "device": link_to_device,
    "loop": link_to_itself,
}


@pytest.mark.parametrize("reader", READERS, ids=range(len(READERS)))
@pytest.mark.parametrize("what", [*MAKERS, "socket"])
def test_pipes_and_devices_are_refused_immediately(
    folder: RunFolder, reader: Callable[[RunFolder], object], what: str
) -> None:
    for path in (folder.status, folder.exit, folder.log, folder.config, folder.events):
        if what == "socket":
            socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))
        else:
            MAKERS[what](path)
    with pytest.raises(BrokenRun, match=r"is (a|no) "):
        reader(folder)


TOMLS = [
    *[
        b"kind = " + b"[" * 100_000,
        b"a." * 50_000 + b"a = 1",
        b'"a\\"".' * 50_000 + b"a = 1",
        b"[" + b"a . " * 50_000 + b"a]",
    ],
    *[
        b"kind = {" + b"a." * 50_000 + b"a = 1}",
        b"kind = " + b"1" * 5000,
        b"kind = 0x" + b"f" * 9000,
        b"\xff",
    ],
    *[
        b'kind = "train"\nrun = 1e999',
        b'kind = "train"\n"a\\u001bb" = 1',
        b'kind = "train"\nversions = {a = [[1]]}',
    ],
]


@pytest.mark.parametrize("content", TOMLS, ids=range(len(TOMLS)))
def test_invalid_settings_are_refused_quickly_with_one_message(
    folder: RunFolder, content: bytes
) -> None:
    folder.config.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read_job(folder.config)
    assert len(caught.value.message) < 5000
    assert caught.value.message.isprintable()


def test_oversized_settings_are_refused(folder: RunFolder) -> None:
    with folder.config.open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(BrokenRun, match="it is larger than"):
        read_job(folder.config)


def test_invalid_folder_does_not_hide_valid_ones(folder: RunFolder, tmp_path: Path) -> None:
    folder.config.write_text("")
    root = folder.path.parent
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe/config.toml")
    (root / "loop").mkdir()
    (root / "loop/config.toml").symlink_to("config.toml")
    (root / "file").write_text("")
    assert sorted(run.name for run in list_runs(root)) == ["loop", "mara-1", "pipe"]


def test_batch_counts_engine_folders_only(tmp_path: Path) -> None:
    batch = tmp_path / "20260101-000000-0000"
    for name in ("worker-0", "worker-0 (copy)", "worker-", "worker-x", "worker-1"):
        (batch / name).mkdir(parents=True)
        (batch / name / "config.toml").touch()
    (batch / "worker-2").symlink_to("worker-1")
    os.mkfifo(batch / "items.jsonl")
    assert [worker.name for worker in BatchFolder(batch).workers()] == ["worker-0", "worker-1"]
    assert [found.name for found in list_batches(tmp_path)] == [batch.name]


def test_events_with_wrong_types_do_not_cause_errors(
    folder: RunFolder,
) -> None:
    lines = [{"time": 1, "type": "step", "step": step} for step in ("x", None, [], 10**30, 1, 3)]
    folder.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    drop_events_after(folder.events, 2)
    assert 1 in [event["step"] for event in read_records(folder.events)[0]]


def test_long_incomplete_line_is_removed_quickly(folder: RunFolder) -> None:
    folder.events.write_bytes(b'{"time": 1, "type": "step"}\n' + b"x" * (1 << 25))
    EventWriter(folder.events).close()
    assert folder.events.read_bytes() == b'{"time": 1, "type": "step"}\n'


def begun_by(folder: RunFolder, pid: int) -> Path:
    path = folder.path / f".status.json.{pid}.writing"
    path.write_bytes(b"{")
    return path


def test_partial_files_of_live_processes_are_kept(folder: RunFolder) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        living = begun_by(folder, other.pid)
        folder.sweep()
        assert living.exists()
        other.kill()
    folder.sweep()
    assert not living.exists()
    reused = begun_by(folder, os.getpid())
    os.utime(reused, (time.time() - 3600 * 24 * 365, time.time() - 3600 * 24 * 365))
    folder.sweep()
    assert not reused.exists()


def test_partial_files_behind_a_link_are_kept(folder: RunFolder, outside: Outside) -> None:
    (outside.folder / ".a.1.writing").write_text("theirs")
    for name in ("samples/step-000001", "control", "checkpoints"):
        outside.put_in_place_of(folder.path / name)
    folder.sweep()
    outside.assert_untouched()
    assert (outside.folder / ".a.1.writing").exists()


def heartbeat_of(host: str, at: float) -> Status:
    ours = Status(state="running", step=1, total=2, time=at, **process_facts(os.getpid()))
    return replace(ours, host=host)


def test_future_heartbeat_of_another_host_does_not_mean_alive() -> None:
    now = time.time()
    assert alive(heartbeat_of("elsewhere", now))
    assert alive(heartbeat_of("elsewhere", now + 10))
    assert not alive(heartbeat_of("elsewhere", now + 3600))
    assert not alive(heartbeat_of("elsewhere", now - 3600))
    assert not alive(heartbeat_of("elsewhere", math.inf))


def test_clock_change_does_not_make_a_run_dead() -> None:
    """Both times were written while the clock was an hour behind."""
    here = heartbeat_of(socket.gethostname(), time.time())
    assert alive(replace(here, started=here.started - 3600, booted=here.booted - 3600))
    assert not alive(replace(here, started=here.started - 3600))
    assert process_lives(here.pid, here.started)


def test_engine_writes_exit_record_even_if_its_event_log_was_replaced(
    folder: RunFolder, outside: Outside
) -> None:
    class Beats:
        def update(self, _: State) -> None: ...

    outside.put_in_place_of(folder.events)
    engine.record_outcome(folder, Beats(), ExitRecord(status=0, state=State.STOPPED))  # pyright: ignore[reportArgumentType]
    assert folder.state() == State.STOPPED
    outside.assert_untouched()
