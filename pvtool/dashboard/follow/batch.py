"""One batch as files tell of it: what its engines do, and their events, read on piece by piece."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from pvtool.dashboard.follow.batch_history import BatchHistory
from pvtool.dashboard.follow.tail import Tail
from pvtool_core.batches.folder import BatchFolder, read_refused
from pvtool_core.errors import PvError
from pvtool_core.settings.jobs import RenderJob, read_job, require
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import RunFolder
from pvtool_core.untrusted import open_regular

LIVE = (State.RUNNING, State.PAUSED, State.STARTING)
_STATES = (*LIVE, State.LOST, State.FAILED, State.STOPPED, State.FINISHED)
_PIECE = 1 << 20
_EVENTS_AT_ONCE = 1_000  # added up before the loop may do something else: a few milliseconds


@dataclass(frozen=True)
class Worker:
    """One engine of a batch; `problem` is how it ended badly, or what cannot be read of it."""

    name: str
    state: State
    device: str = ""
    problem: str = ""


@dataclass(frozen=True)
class BatchSnapshot:
    """What one look at a batch found. `expected` is how many clips it lists, `out` where they are to lie,
    `refused` the rows that were left out, each with its reason."""

    name: str
    state: State = State.NEW
    workers: tuple[Worker, ...] = ()
    out: str = ""
    expected: int = 0
    problem: str = ""
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def live(self) -> bool:
        """Whether an engine works on it."""
        return self.state in LIVE


def look_at(folder: BatchFolder) -> BatchSnapshot:
    """Look at a batch once. Whatever its files hold, this raises nothing."""
    looks = [_worker(worker) for worker in folder.workers()]
    workers = tuple(worker for worker, _ in looks)
    states = {worker.state for worker in workers}
    state = next((state for state in _STATES if state in states), State.NEW)
    out = next((job.out for _, job in looks if job), "")
    problem = ""
    try:
        expected = _lines(folder.items)
    except OSError as error:
        expected, problem = 0, f"Cannot read items.jsonl: {error.strerror}."
    refused: dict[str, str] = {}
    try:
        refused = read_refused(folder.refused)
    except (OSError, ValueError):
        problem = problem or "Cannot read refused.jsonl."
    return BatchSnapshot(
        folder.name, state, workers, out, expected, problem, tuple(refused.items())
    )


def _worker(folder: RunFolder) -> tuple[Worker, RenderJob | None]:
    device, problem, job = "", "", None
    try:
        job = require(read_job(folder.config), RenderJob)
        device = job.setups[0].model.device if job.setups else ""
        ended = folder.read_exit()
        problem = f"{ended.message} {ended.hint}".strip() if ended and ended.status else ""
    except PvError as error:
        problem = error.message
    except OSError as error:  # removed, or made unreadable, while we look
        problem = f"{error.strerror}: {error.filename}"
    return Worker(folder.name, folder.state(), device, problem), job


def _lines(path: Path) -> int:
    with os.fdopen(open_regular(path), "rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(_PIECE), b""))


class BatchFollower:
    """Reads the events of all engines of a batch into a `Rendering`; files that begin anew make a new one.

    Only files are read in a thread: a piece is added up in milliseconds, and two threads would hold each other up.
    """

    def __init__(self, folder: BatchFolder) -> None:
        self.rendering = BatchHistory()
        self._folder = folder
        self._tails: dict[str, Tail] = {}

    async def read(self) -> tuple[bool, bool]:
        """Take in the next piece of each engine; whether there was something new, and whether there is more.

        Raises OSError.
        """
        new = more = False
        for worker in await asyncio.to_thread(self._folder.workers):
            tail = self._tails.setdefault(worker.name, Tail(worker.events))
            chunk = await asyncio.to_thread(tail.read)
            if chunk.anew:
                self.rendering, self._tails = BatchHistory(), {}
                return True, True
            events = chunk.events()
            for first in range(0, len(events), _EVENTS_AT_ONCE):
                await asyncio.sleep(0)
                self.rendering.add(worker.name, events[first : first + _EVENTS_AT_ONCE])
            new, more = new or bool(events), more or chunk.more
        return new, more
