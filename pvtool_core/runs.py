"""The run folder: the whole interface between an engine and everything else.

    config.toml  events.jsonl  status.json  exit.json  engine.log  engine.lock
    checkpoints/step-000400/  samples/  control/

`RunFolder` knows every path in it and every rule about it; nobody else builds a path in a run. Files are replaced
whole, events are appended with one write each, and a request is a file that the engine takes away when it answers.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import orjson
import psutil

from pvtool_core.config import from_table
from pvtool_core.errors import BrokenRun, Busy, Missing, PvError, Reported, SettingsError
from pvtool_core.paths import check_name, nearest, replace_file, sync_folder
from pvtool_core.private import make_private, tighten

T = TypeVar("T")
Event = dict[str, Any]
FileContent = bytes | Callable[[Path], object]

ADAPTER_FILE = "adapter.safetensors"
MANIFEST_FILE = "manifest.json"
HEARTBEAT_SECONDS = 1.0
_FOREIGN_HEARTBEAT_SECONDS = 30.0
_CLOCK_SECONDS = 0.05  # by which a file's time may lag behind the clock
_END_OF_TIME = 1e11  # in seconds: what no clock shows, and no calendar takes
_NEWEST_BYTES = 1 << 16
_SHOWN_BYTES = 200
_REPLAYED = frozenset({"step", "sample", "checkpoint", "metric"})


class State(StrEnum):
    """What a job is doing, or how it ended. `LOST` is never written: its engine is gone without a word."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"


class Request(StrEnum):
    """What can be asked of a running engine."""

    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    CHECKPOINT = "checkpoint"
    SAMPLE = "sample"


@dataclass(frozen=True, kw_only=True)
class Status:
    """A heartbeat. `started` is the process's own start time, so that a reused pid is not taken for it."""

    state: str
    step: int
    total: int
    time: float
    pid: int
    started: float
    boot: str
    host: str


@dataclass(frozen=True, kw_only=True)
class ExitRecord:
    """How an engine ended; `message` and `hint` are sentences for people, `kind` is the error's name, if it was one."""

    status: int
    state: str
    reason: str = ""
    kind: str = ""
    message: str = ""
    hint: str = ""
    time: float = 0.0

    @classmethod
    def of_error(cls, error: PvError, state: State = State.FAILED) -> Self:
        return cls(
            status=int(error.status),
            state=state,
            reason=error.message,
            kind=error.kind,
            message=error.message,
            hint=error.hint,
        )

    def error(self) -> PvError | None:
        """The error to raise in the process that reads this, or None if all went well."""
        return Reported(self.status, self.kind, self.message or self.reason, self.hint) if self.status else None


class RunFolder:
    """One job's folder. `path` need not exist before `create`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.config = path / "config.toml"
        self.events = path / "events.jsonl"
        self.status = path / "status.json"
        self.exit = path / "exit.json"
        self.log = path / "engine.log"
        self.lock_file = path / "engine.lock"
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.control = path / "control"

    def create(self) -> Self:
        """Make the folder and the ones in it. Raises FileExistsError if it is there already."""
        make_private(self.path.parent)
        self.path.mkdir(mode=0o700)
        for folder in (self.checkpoints, self.samples, self.control):
            folder.mkdir(mode=0o700)
        return self

    @contextmanager
    def lock(self) -> Generator[None]:
        """Hold the folder for one engine; the lock goes with the process, however it ends. Raises Busy."""
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(self.name) from error
            yield
        finally:
            os.close(descriptor)

    def announce(self, pid: int) -> None:
        """Say that process `pid`, just begun, is this folder's engine, for readers until its own heart beats."""
        try:
            before = self.read_status()
        except BrokenRun:  # what is broken is replaced here
            before = None
        step, total = (before.step, before.total) if before else (0, 0)
        facts = {"state": State.STARTING, "step": step, "total": total, **process_facts(pid), "time": time.time()}
        replace_file(self.status, json.dumps(facts).encode())

    def read_status(self) -> Status | None:
        """The newest heartbeat. Raises BrokenRun if the file is none."""
        return _read_record(self.status, Status)

    def read_exit(self) -> ExitRecord | None:
        """How the last engine ended. Raises BrokenRun if the file does not say it."""
        return _read_record(self.exit, ExitRecord)

    def write_exit(self, record: ExitRecord) -> None:
        replace_file(self.exit, json.dumps({**asdict(record), "time": time.time()}).encode())

    def clear_exit(self) -> None:
        """Forget how an earlier engine ended; the next one calls it once it holds the lock."""
        self.exit.unlink(missing_ok=True)

    def state(self) -> State:
        """What is true of this job now, told from its files and the machine's processes; lost where they are broken."""
        try:
            if ended := self.read_exit():
                return State(ended.state)
            status = self.read_status()
            if status is None:
                return State.NEW
            return State(status.state) if alive(status) else State.LOST
        except (BrokenRun, ValueError):
            return State.LOST

    def request(self, what: Request) -> None:
        """Ask something of the engine. Asking twice before it answers is asking once."""
        self.control.mkdir(exist_ok=True)
        replace_file(self.control / what.value, b"")

    def take_requests(self) -> list[Request]:
        """What was asked since the last call, oldest first; the requests are gone after it."""
        known = {request.value for request in Request}
        waiting = [path for path in self.control.glob("[!.]*") if path.name in known]
        waiting.sort(key=lambda path: (path.stat().st_mtime_ns, path.name))
        for path in waiting:
            path.unlink()
        return [Request(path.name) for path in waiting]

    def forget_requests(self) -> None:
        """Drop what was asked of an earlier engine, which did not live to answer; the engine calls it as it begins.

        What was asked after this one was announced is for this one.
        """
        try:
            status = self.read_status()
        except BrokenRun:
            status = None
        announced = status.time if status and status.pid == os.getpid() else math.inf
        for path in self.control.glob("[!.]*"):
            if path.stat().st_mtime < announced - _CLOCK_SECONDS:
                path.unlink()

    def write_checkpoint(self, step: int, files: Mapping[str, FileContent], keep: int | None = None) -> Path:
        """Write a checkpoint that is whole or absent, even through a kill or a full disk; keep only the `keep` newest.

        `files` maps names to bytes, or to functions that write the path they are given.
        """
        final = self.checkpoints / f"step-{step:06d}"
        temporary = self.checkpoints / f".{final.name}.writing"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            _write_files(temporary, step, files)
            tighten(temporary)
        except BaseException:
            shutil.rmtree(temporary)
            raise
        if final.exists():  # an engine that was killed after this step had written it, and a broken one may be replaced
            shutil.rmtree(final)
        temporary.rename(final)
        sync_folder(self.checkpoints)
        if keep is not None:
            for old in self.checkpoint_folders()[:-keep]:
                shutil.rmtree(old)
        return final

    def checkpoint_folders(self) -> list[Path]:
        """Folders of checkpoints by step, whole or not."""
        return sorted(path for path in self.checkpoints.glob("step-*") if path.name[5:].isdecimal())

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint that is as it was written."""
        return next((folder for folder in reversed(self.checkpoint_folders()) if checkpoint_is_whole(folder)), None)


def checkpoint_step(folder: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(folder.name.removeprefix("step-"))


def checkpoint_is_whole(folder: Path) -> bool:
    """Whether every file of the manifest is there with its sha256."""
    manifest = _read_json(folder / MANIFEST_FILE)
    if manifest is None:
        return False
    files: dict[str, str] = manifest["sha256"]
    return all((folder / name).is_file() and sha256_of(folder / name) == digest for name, digest in files.items())


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_files(folder: Path, step: int, files: Mapping[str, FileContent]) -> None:
    for name, content in files.items():
        path = folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    manifest = {"step": step, "sha256": {name: sha256_of(folder / name) for name in files}}
    replace_file(folder / MANIFEST_FILE, json.dumps(manifest, indent=1).encode())


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def _read_record(path: Path, cls: type[T]) -> T | None:
    try:
        record = _read_json(path)
        return None if record is None else from_table(cls, dict(record), path.name)
    except (ValueError, TypeError, SettingsError) as error:
        raise BrokenRun(path, "pv did not write it so") from error
    except OSError as error:
        raise BrokenRun(path, f"{error.strerror}") from error


class EventWriter:
    """Appends to events.jsonl, one write for each line; an unfinished line left by a kill or a full disk is cut off."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        _cut_torn_line(self._descriptor)

    def write(self, type: str, **values: Any) -> None:
        """Append an event. NaN and infinities, which JSON cannot hold, become null. Raises OSError on a full disk."""
        event = {"time": time.time(), "type": type, **values}
        line = (json.dumps(_finite(event), ensure_ascii=False, allow_nan=False) + "\n").encode()
        size = os.fstat(self._descriptor).st_size
        if os.write(self._descriptor, line) < len(line):
            os.ftruncate(self._descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events.jsonl")

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cut_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    end = size
    while end and os.pread(descriptor, 1, end - 1) != b"\n":
        end -= 1
    if end < size:
        os.ftruncate(descriptor, end)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast("list[Any]", value)]
    return value


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Events from byte `offset` on, and the offset to go on from; a half-written last line waits for the next call.

    After `drop_events_after` the file may be shorter than `offset`: then it is read anew from its beginning.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset if offset <= os.fstat(file.fileno()).st_size else 0)
            start = file.tell()
            content = file.read()
    except FileNotFoundError:
        return [], 0
    whole = content[: content.rfind(b"\n") + 1]
    return parse_events(whole), start + len(whole)


def parse_events(lines: bytes) -> list[Event]:
    """Whole lines as events; one that is none becomes an event `unreadable` with its `text`, at the time before it."""
    events: list[Event] = []
    time = 0.0
    for line in lines.splitlines():
        try:
            event = orjson.loads(line)
            if not (isinstance(event["type"], str) and 0 <= event["time"] < _END_OF_TIME):
                raise ValueError
            time = event["time"]
            events.append(event)
        except (ValueError, TypeError, KeyError):
            events.append(_unreadable(line, time))
    return events


def _unreadable(line: bytes, time: float) -> Event:
    return {"time": time, "type": "unreadable", "text": line[:_SHOWN_BYTES].decode(errors="replace")}


def newest_event(path: Path, type: str) -> Event | None:
    """The last event of that type, if it is near the end of the file; only the end is read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _NEWEST_BYTES))
            content = file.read(_NEWEST_BYTES)
    except FileNotFoundError:
        return None
    lines = content[: content.rfind(b"\n") + 1]
    return next((event for event in reversed(parse_events(lines)) if event["type"] == type), None)


def drop_events_after(path: Path, step: int) -> None:
    """Forget what was reported past `step`, for an engine that resumes there and will report it again."""
    events, _ = read_events(path)
    kept = [event for event in events if event["type"] not in _REPLAYED or event.get("step", 0) <= step]
    if len(kept) < len(events):
        replace_file(path, "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in kept).encode())


class Heartbeat:
    """Writes status.json every second from a thread of its own, so that a long step is not taken for a dead engine."""

    def __init__(self, folder: RunFolder, total: int = 0) -> None:
        self._path = folder.status
        self._facts = process_facts(os.getpid())
        self._state: dict[str, Any] = {"state": State.STARTING, "step": 0, "total": total}
        self._done = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def update(self, state: State | None = None, step: int | None = None, total: int | None = None) -> None:
        """Change what the next beat says; a changed state is written at once."""
        news = {"state": state, "step": step, "total": total}
        changed = state is not None and state != self._state["state"]
        self._state = {**self._state, **{key: value for key, value in news.items() if value is not None}}
        if changed:
            self._write()

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT_SECONDS):
            try:
                self._write()
            except OSError:  # a full disk must not silence the engine's own report of it; the next beat tries again
                continue

    def _write(self) -> None:
        with self._writing:
            replace_file(self._path, json.dumps({**self._state, **self._facts, "time": time.time()}).encode())

    def __enter__(self) -> Self:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def process_facts(pid: int) -> dict[str, Any]:
    """What tells a process of this machine from any other, as a heartbeat says it."""
    started = psutil.Process(pid).create_time()
    return {"pid": pid, "started": started, "boot": boot_id(), "host": socket.gethostname()}


def boot_id() -> str:
    """Names this boot of this machine, so that a pid from before a restart is not taken for a live one."""
    linux = Path("/proc/sys/kernel/random/boot_id")
    return linux.read_text().strip() if linux.exists() else f"{psutil.boot_time():.0f}"


def alive(status: Status) -> bool:
    """Whether the engine behind a heartbeat still lives.

    On this machine by its process; an engine of another host (a shared data folder) only by how fresh the heartbeat is.
    """
    if status.host != socket.gethostname():
        return time.time() - status.time < _FOREIGN_HEARTBEAT_SECONDS
    return status.boot == boot_id() and process_lives(status.pid, status.started)


def process_lives(pid: int, started: float) -> bool:
    """Whether the process of that pid is still the one that started then."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def list_runs(root: Path) -> list[RunFolder]:
    """Every run under `root`, oldest first."""
    folders = [RunFolder(path) for path in root.glob("[!.]*") if (path / "config.toml").is_file()]
    return sorted(folders, key=lambda folder: (folder.config.stat().st_mtime_ns, folder.name))


def find_run(root: Path, name: str) -> RunFolder:
    """The run of that name. Raises Missing, with the nearest name, or BadName."""
    folder = RunFolder(root / check_name("a run", name))
    if not folder.config.is_file():
        raise Missing("run", name, "`pv runs list` shows all there are.", nearest(name, root))
    return folder


def new_run(root: Path, identity: str) -> RunFolder:
    """Make the folder of a new run of `identity`, named after it and counted from 1."""
    number = 1
    while True:
        try:
            return RunFolder(root / f"{identity}-{number}").create()
        except FileExistsError:
            number += 1
