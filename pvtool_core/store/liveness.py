"""States of an engine, its heartbeat, and whether its process is alive."""

import json
import math
import os
import socket
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pvtool_core.files import replace_file

HEARTBEAT_SECONDS = 1.0
FOREIGN_HEARTBEAT_SECONDS = 30.0
CLOCK_SECONDS = 0.05  # largest delay of a file's time against the clock
CHANGED_SECONDS = 1.5  # largest difference between two readings of a process's start time
_MOST_STEPS = 1 << 53


class State(StrEnum):
    """State of a job, or its outcome.

    `LOST` is never written: the engine died without an exit record.
    """

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"


ENDED = frozenset({State.FINISHED, State.STOPPED, State.FAILED})
"""Final states in exit records."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A heartbeat.

    `started` is the start time of the process, which detects a reused process id. `booted` is the
    boot time by the same clock: their difference stays valid if the clock is set later.
    """

    state: str
    step: int
    total: int
    time: float
    pid: int
    started: float
    boot: str
    host: str
    booted: float = 0.0

    def is_possible(self) -> bool:
        """Return whether the values are possible."""
        counts = (
            0 <= self.step < _MOST_STEPS
            and 0 <= self.total < _MOST_STEPS
            and 0 < self.pid < _MOST_STEPS
        )
        return counts and all(map(math.isfinite, (self.time, self.started, self.booted)))


class Heartbeat:
    """Writes status.json every second from its own thread.

    A long step then does not look like a dead engine.
    """

    def __init__(self, path: Path, total: int = 0) -> None:
        self._path = path
        self._facts = process_facts(os.getpid())
        self._state: dict[str, Any] = {"state": State.STARTING, "step": 0, "total": total}
        self._done = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def update(
        self, state: State | None = None, step: int | None = None, total: int | None = None
    ) -> None:
        """Change the content of the next heartbeat; a changed state is written immediately."""
        news = {"state": state, "step": step, "total": total}
        changed = state is not None and state != self._state["state"]
        self._state = {
            **self._state,
            **{key: value for key, value in news.items() if value is not None},
        }
        if changed:
            self._write()

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT_SECONDS):
            try:
                self._write()
            except OSError:  # full disk: the engine reports it; try again with the next beat
                continue

    def _write(self) -> None:
        with self._writing:
            replace_file(
                self._path, json.dumps({**self._state, **self._facts, "time": time.time()}).encode()
            )

    def __enter__(self) -> Self:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def process_facts(pid: int) -> dict[str, Any]:
    """Return the fields of a heartbeat that identify a process on this machine."""
    import psutil  # imported here for a fast start

    started = psutil.Process(pid).create_time()
    here = {"boot": boot_id(), "host": socket.gethostname()}
    return {"pid": pid, "started": started, "booted": psutil.boot_time(), **here}


def boot_id() -> str:
    """Return an id of the current boot, to distinguish process ids before and after a restart."""
    linux = Path("/proc/sys/kernel/random/boot_id")
    if not linux.exists():
        import psutil  # imported here for a fast start

        return f"{psutil.boot_time():.0f}"
    return linux.read_text().strip()


def process_lives(pid: int, started: float, booted: float = 0.0) -> bool:
    """Return whether the process with this id is still the one that started then.

    With `booted`, the boot time by the clock at that time, later changes of the clock do not
    matter.
    """
    import psutil  # imported here for a fast start

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        since = process.create_time() - (psutil.boot_time() if booted else 0.0)
    except (psutil.NoSuchProcess, ValueError):  # an impossible process id
        return False
    return abs(since - (started - booted)) < CHANGED_SECONDS


LIVE = frozenset({State.STARTING, State.RUNNING, State.PAUSED})
