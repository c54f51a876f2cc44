"""The run folder: the only interface between an engine and other processes.

    config.toml  events.jsonl  status.json  exit.json  best.json  notes.json  engine.log
    engine.lock
    checkpoints/step-000400/  samples/  control/

A run folder may be a copy from anywhere: links, pipes and devices in it are never followed, opened
or waited for, though the folder itself may be reached through a link. `RunFolder` defines every
path in it. Files are replaced atomically, events are appended with one write each, and a request is
a file that the engine removes when it responds.
"""

import fcntl
import json
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, cast

from pvtool_core.errors import (
    BrokenRun,
    Busy,
    ExitStatus,
    Missing,
    PvError,
    Reported,
    SettingsError,
    UnsafeRun,
    UsageError,
)
from pvtool_core.files import WRITING, replace_file, sync_folder
from pvtool_core.hashes import sha256_of
from pvtool_core.paths import check_name, nearest
from pvtool_core.permissions import make_private, tighten
from pvtool_core.settings.toml import from_table
from pvtool_core.store.event_log import open_descriptor
from pvtool_core.store.liveness import (
    CHANGED_SECONDS,
    CLOCK_SECONDS,
    ENDED,
    FOREIGN_HEARTBEAT_SECONDS,
    State,
    Status,
    boot_id,
    process_facts,
    process_lives,
)
from pvtool_core.untrusted import (
    RECORD_BYTES,
    SMALL_BYTES,
    Irregular,
    TooLarge,
    exists,
    foreign_things,
    is_file,
    is_folder,
    parse_json,
    problem_of,
    read_regular,
    remove,
)

FileContent = bytes | Callable[[Path], object]

ADAPTER_FILE = "adapter.safetensors"
MANIFEST_FILE = "manifest.json"
_CHECKPOINT = re.compile(r"step-[0-9]{1,18}")
_UNFINISHED = re.compile(rf"\..+\.([0-9]{{1,18}}){re.escape(WRITING)}")


class Request(StrEnum):
    """Requests to a running engine."""

    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    CHECKPOINT = "checkpoint"
    SAMPLE = "sample"


@dataclass(frozen=True, kw_only=True)
class ExitRecord:
    """Outcome of an engine.

    `message` and `hint` are for users, `kind` is the name of the error, if any.
    """

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

    def is_possible(self) -> bool:
        """Return whether the values are possible."""
        return self.state in ENDED and self.status in set(ExitStatus) and math.isfinite(self.time)

    def error(self) -> PvError | None:
        """Return the error to raise in the process that reads this, or None after success."""
        return (
            Reported(self.status, self.kind, self.message or self.reason, self.hint)
            if self.status
            else None
        )


@dataclass(frozen=True, kw_only=True)
class BestCheckpoint:
    """The checkpoint whose samples have the highest held-out likeness so far."""

    step: int
    likeness: float

    def is_possible(self) -> bool:
        """Return whether the values are possible."""
        return self.step > 0 and math.isfinite(self.likeness)


@dataclass(frozen=True, kw_only=True)
class RunNotes:
    """The user's note on a run, and tags, which are words to filter by."""

    note: str = ""
    tags: tuple[str, ...] = ()


class RunFolder:
    """Folder of one job. `path` need not exist before `create`.

    `name` is that of the folder unless given, as for runs of other machines.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path
        self.name = name or path.name
        self.config = path / "config.toml"
        self.events = path / "events.jsonl"
        self.status = path / "status.json"
        self.exit = path / "exit.json"
        self.best = path / "best.json"
        self.notes = path / "notes.json"
        self.log = path / "engine.log"
        self.lock_file = path / "engine.lock"
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.control = path / "control"
        self.ballast = path / ".ballast"

    def create(self) -> Self:
        """Create the folder and its subfolders. Raises FileExistsError if it exists."""
        make_private(self.path.parent)
        self.path.mkdir(mode=0o700)
        for folder in (self.checkpoints, self.samples, self.control):
            folder.mkdir(mode=0o700)
        return self

    def check(self) -> None:
        """Check that the folder contains regular files and folders only, before a write.

        Raises UnsafeRun.
        """
        for path, problem in foreign_things(self.path):
            raise UnsafeRun(path, problem)
        for path in (self.events, self.log, self.ballast):
            if exists(path) and (problem := problem_of(path.lstat(), alone=True)):
                raise UnsafeRun(path, problem)

    @contextmanager
    def lock(self) -> Generator[None]:
        """Hold the folder for one engine, until the process ends in any way.

        Raises Busy, or UnsafeRun if the lock is not a regular file in the folder.
        """
        descriptor = open_descriptor(self.lock_file, os.O_RDWR | os.O_CREAT)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(self.name) from error
            yield
        finally:
            os.close(descriptor)

    def open_log(self) -> int:
        """Return a file descriptor that appends to the log of the engine. Raises UnsafeRun."""
        return open_descriptor(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, alone=True)

    def read_log(self) -> str:
        """Return the log of the engine; empty if none ever ran. Raises UnsafeRun."""
        try:
            with os.fdopen(open_descriptor(self.log), "rb") as file:
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def announce(self, pid: int) -> None:
        """Record that process `pid`, just started, is the engine of this folder.

        The record is valid until its first heartbeat; if there is one already, or the process has
        ended, nothing is written.
        """
        import psutil  # imported here for a fast start

        try:
            process = process_facts(pid)
        except psutil.NoSuchProcess:
            return
        try:
            before = self.read_status()
        except BrokenRun:  # a corrupt file is replaced here
            before = None
        step, total = (before.step, before.total) if before else (0, 0)
        facts = {
            "state": State.STARTING,
            "step": step,
            "total": total,
            **process,
            "time": time.time(),
        }
        replace_file(
            self.status, json.dumps(facts).encode(), unless=lambda: self._has_beaten(process)
        )

    def _has_beaten(self, process: Mapping[str, Any]) -> bool:
        try:
            status = self.read_status()
        except BrokenRun:
            return False
        same = status is not None and (status.pid, status.host) == (process["pid"], process["host"])
        return same and status is not None and abs(status.started - process["started"]) < 1.0

    def read_status(self) -> Status | None:
        """Return the newest heartbeat. Raises BrokenRun if the file is invalid."""
        return _read_record(self.status, Status, SMALL_BYTES)

    def read_exit(self) -> ExitRecord | None:
        """Return the outcome of the last engine. Raises BrokenRun if the file is invalid."""
        return _read_record(self.exit, ExitRecord, RECORD_BYTES)

    def write_exit(self, record: ExitRecord) -> None:
        replace_file(self.exit, json.dumps({**asdict(record), "time": time.time()}).encode())

    def clear_exit(self) -> None:
        """Remove the exit record of an earlier engine, while holding the lock."""
        self.exit.unlink(missing_ok=True)

    def exit_mark(self) -> tuple[int, int, int] | None:
        """Return a value that changes when another exit record is written; None without one."""
        try:
            found = self.exit.lstat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def state(self) -> State:
        """Return the state of the job, from its files and the processes of this machine.

        LOST if they are invalid.
        """
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
        """Send a request to the engine. It need not be repeated before a response."""
        replace_file(own_folder(self.control) / what.value, b"")

    def take_requests(self) -> list[Request]:
        """Return the requests since the last call, oldest first, and remove them."""
        waiting = self._waiting()
        for path, _ in waiting:
            path.unlink(missing_ok=True)
        return [Request(path.name) for path, _ in waiting]

    def _waiting(self) -> list[tuple[Path, float]]:
        """Return pending requests with their times, oldest first. Other files are ignored."""
        if not is_folder(self.control):
            return []
        files = [
            path for path in (self.control / request.value for request in Request) if is_file(path)
        ]
        return sorted(
            ((path, path.lstat().st_mtime) for path in files),
            key=lambda found: (found[1], found[0].name),
        )

    def forget_requests(self) -> None:
        """Remove requests to an earlier engine that died before it responded.

        The engine calls this when it starts. Requests made after this engine was announced are
        kept.
        """
        try:
            status = self.read_status()
        except BrokenRun:
            status = None
        announced = status.time if status and status.pid == os.getpid() else math.inf
        for path, asked in self._waiting():
            if asked < announced - CLOCK_SECONDS:
                path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove unfinished files of killed processes, while holding the lock.

        Unfinished files of live processes stay: one may be the process that started this engine.
        """
        within = [
            *_hidden(self.control),
            *_hidden(self.checkpoints),
            *chain(*map(_hidden, _folders_in(self.samples))),
        ]
        for begun in [*self.path.glob(f".*{WRITING}"), *within]:
            if begun.name.endswith(WRITING) and not writer_lives(begun):
                remove(begun)

    def read_best(self) -> BestCheckpoint | None:
        """Return the best checkpoint; None if no samples were scored.

        Raises BrokenRun if the file is invalid.
        """
        return _read_record(self.best, BestCheckpoint, SMALL_BYTES)

    def write_best(self, best: BestCheckpoint | None) -> None:
        """Record the best checkpoint, which must exist; None removes the record."""
        if best is None:
            self.best.unlink(missing_ok=True)
        else:
            replace_file(self.best, json.dumps(asdict(best)).encode())

    def read_notes(self) -> RunNotes:
        """Return the user's notes; empty ones if there are none.

        Raises BrokenRun if the file is invalid.
        """
        try:
            table = parse_json(read_regular(self.notes, SMALL_BYTES))
            return RunNotes(note=str(table["note"]), tags=tuple(map(str, table["tags"])))
        except FileNotFoundError:
            return RunNotes()
        except (Irregular, TooLarge) as error:
            raise BrokenRun(self.notes, f"it {error.problem}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise BrokenRun(self.notes, f"{type(error).__name__}: {error}") from error

    def write_notes(self, notes: RunNotes) -> None:
        """Replace the user's notes; empty ones remove the file.

        Raises UsageError if they are longer than what `read_notes` reads.
        """
        content = json.dumps(asdict(notes)).encode()
        if len(content) > SMALL_BYTES:
            raise UsageError("The note is too long.", f"Use less than {SMALL_BYTES >> 10} KiB.")
        if notes == RunNotes():
            self.notes.unlink(missing_ok=True)
        else:
            replace_file(self.notes, content)

    def remove_checkpoints(self, keep: int) -> None:
        """Remove all checkpoints but the `keep` newest and the best. Raises BrokenRun."""
        best = self.read_best()
        for old in self.checkpoint_folders()[:-keep]:
            if best is None or checkpoint_step(old) != best.step:
                shutil.rmtree(old)

    def write_checkpoint(
        self,
        step: int,
        files: Mapping[str, FileContent],
        facts: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a checkpoint.

        It is complete or absent, even after a kill or on a full disk. `files` maps names to bytes,
        or to functions that write to a given path. `facts` are added to the manifest.
        """
        final = own_folder(self.checkpoints) / f"step-{step:06d}"
        temporary = self.checkpoints / f".{final.name}{WRITING}"
        remove(temporary)
        temporary.mkdir()
        try:
            _write_files(temporary, step, files, facts or {})
            tighten(temporary)
        except BaseException:
            shutil.rmtree(temporary)
            raise
        if exists(final):  # written by an engine that was killed after this step, or corrupt
            remove(final)
        temporary.rename(final)
        sync_folder(self.checkpoints)
        return final

    def checkpoint_folders(self) -> list[Path]:
        """Return the checkpoint folders by step, complete or not."""
        return sorted(
            path for path in _folders_in(self.checkpoints) if _CHECKPOINT.fullmatch(path.name)
        )

    def latest_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint, or None."""
        return next(
            (
                folder
                for folder in reversed(self.checkpoint_folders())
                if checkpoint_is_whole(folder)
            ),
            None,
        )


def checkpoint_step(folder: Path) -> int:
    """Return the step of a checkpoint."""
    return int(folder.name.removeprefix("step-"))


def checkpoint_is_whole(folder: Path) -> bool:
    """Return whether the manifest is valid and every file in it exists with its SHA-256."""
    try:
        files: dict[str, str] = parse_json(read_regular(folder / MANIFEST_FILE, RECORD_BYTES))[
            "sha256"
        ]
        return (
            bool(files)
            and all(Path(name).name == name for name in files)
            and _all_as_listed(folder, files)
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _all_as_listed(folder: Path, files: Mapping[str, str]) -> bool:
    return all(sha256_of(folder / name, follow=False) == digest for name, digest in files.items())


def own_folder(path: Path) -> Path:
    """Return the path of a folder in a run, created if missing.

    Raises UnsafeRun if it is not a folder.
    """
    with suppress(FileExistsError):
        path.mkdir()
    if not is_folder(path):
        raise UnsafeRun(path, "is not a regular folder")
    return path


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder by name, without links to folders."""
    return [path for path in _entries(folder) if is_folder(path)]


def _hidden(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.name.startswith(".")]


def _entries(folder: Path) -> list[Path]:
    """Return the entries of a folder by name; empty if it is not a folder or not readable."""
    if not is_folder(folder):
        return []
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def writer_lives(begun: Path) -> bool:
    """Return whether the writer of an unfinished file is alive.

    Its process id is in the file's name; a process that started later is another one.
    """
    named = _UNFINISHED.fullmatch(begun.name)
    if not named:  # files without a process id are of an engine, which has not started
        return False
    import psutil  # imported here for a fast start

    try:
        process = psutil.Process(int(named[1]))
        lives = process.status() != psutil.STATUS_ZOMBIE
        return lives and process.create_time() <= begun.lstat().st_mtime + CHANGED_SECONDS
    except (psutil.Error, OSError, ValueError):
        return False


def checkpoint_facts(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint; empty without a manifest."""
    try:
        found = parse_json(read_regular(folder / MANIFEST_FILE, RECORD_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def averaged_checkpoints(folder: Path) -> list[str]:
    """Return those whose mean a checkpoint is, as RUN@STEP; empty for a trained one."""
    found = checkpoint_facts(folder).get("averaged")
    return [
        f"{each['run']}@{each['step']}"
        for each in (cast("list[Any]", found) if isinstance(found, list) else [])
        if isinstance(each, dict) and {"run", "step"} <= each.keys()
    ]


def _write_files(
    folder: Path, step: int, files: Mapping[str, FileContent], facts: Mapping[str, Any]
) -> None:
    for name, content in files.items():
        path = folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    manifest = {**facts, "step": step, "sha256": {name: sha256_of(folder / name) for name in files}}
    replace_file(folder / MANIFEST_FILE, json.dumps(manifest, indent=1).encode())


class _Record(Protocol):
    def is_possible(self) -> bool: ...


R = TypeVar("R", bound=_Record)


def _read_record(path: Path, cls: type[R], most: int) -> R | None:
    try:
        record = from_table(cls, dict(parse_json(read_regular(path, most))), path.name)
        if record.is_possible():
            return record
        raise ValueError(path.name)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, SettingsError) as error:
        raise BrokenRun(path, "invalid content") from error
    except Irregular as error:
        raise UnsafeRun(path, error.problem) from error
    except TooLarge as error:
        raise BrokenRun(path, f"it {error.problem}") from error
    except OSError as error:
        raise BrokenRun(path, f"{error.strerror}") from error


def list_runs(root: Path) -> list[RunFolder]:
    """Return every run under `root` by name, `ann-2` before `ann-10`."""
    folders = [RunFolder(path) for path in root.glob("[!.]*") if exists(path / "config.toml")]
    return sorted(folders, key=lambda folder: natural_key(folder.name))


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key that compares runs of digits in `name` as numbers."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def find_run(root: Path, name: str) -> RunFolder:
    """Return the run of that name. Raises Missing, with the nearest name, or BadName."""
    folder = RunFolder(root / check_name("a run", name))
    if not exists(folder.config):
        raise Missing("run", name, "See `pv runs list`.", nearest(name, root))
    return folder


def new_run(root: Path, identity: str) -> RunFolder:
    """Create the folder of a new run of `identity`, named after it and counted from 1."""
    number = 1
    while True:
        try:
            return RunFolder(root / f"{identity}-{number}").create()
        except FileExistsError:
            number += 1


def checkpoint_file_sha256(folder: Path, name: str) -> str | None:
    """Return the SHA-256 of a file in a checkpoint, or None if it differs from the manifest."""
    try:
        files: dict[str, str] = parse_json(read_regular(folder / MANIFEST_FILE, RECORD_BYTES))[
            "sha256"
        ]
        digest = sha256_of(folder / name, follow=False)
        return digest if files.get(name) == digest else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def alive(status: Status) -> bool:
    """Return whether the engine of a heartbeat is alive.

    On this machine its process decides; for an engine on another host (a shared data folder), the
    age of the heartbeat: one from the future counts as little as an old one. Another boot may be
    another host of the same name.
    """
    if status.host != socket.gethostname() or status.boot != boot_id():
        return abs(time.time() - status.time) < FOREIGN_HEARTBEAT_SECONDS
    return process_lives(status.pid, status.started, status.booted)
