"""Snapshots of a batch and its history of events, read incrementally from files."""

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path

from pvtool.dashboard.follow.batch_history import BatchHistory
from pvtool.dashboard.follow.tail import Tail
from pvtool_core.batches.folder import BatchFolder, Relocation, read_refused
from pvtool_core.batches.listing import Listing, read_listing
from pvtool_core.errors import PvError
from pvtool_core.settings.jobs import RenderJob, read_job, require
from pvtool_core.store.events import ClipEvent
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import RunFolder
from pvtool_core.untrusted import open_regular

LIVE = (State.RUNNING, State.PAUSED, State.STARTING)
_STATES = (*LIVE, State.LOST, State.FAILED, State.STOPPED, State.FINISHED)
_CHUNK_BYTES = 1 << 20
_EVENTS_PER_TURN = 1_000  # processed before yielding to the event loop: a few milliseconds


@dataclass(frozen=True)
class Worker:
    """Worker of a batch; `problem` is its failure or an error reading its files."""

    name: str
    state: State
    device: str = ""
    problem: str = ""


@dataclass(frozen=True)
class BatchSnapshot:
    """State of a batch at one moment.

    `expected` is the number of listed clips, `out` the output folder, `refused` the omitted rows
    with their reasons. `recorded_out` differs from `out` if the batch was copied or moved with it.
    """

    name: str
    state: State = State.NEW
    workers: tuple[Worker, ...] = ()
    out: str = ""
    expected: int = 0
    problem: str = ""
    refused: tuple[tuple[str, str], ...] = ()
    recorded_out: str = ""

    def located(self, clip: ClipEvent) -> ClipEvent:
        """Return a clip with its present path instead of the recorded one."""
        if self.out == self.recorded_out:
            return clip
        moved = Relocation(Path(self.recorded_out), Path(self.out))
        return replace(clip, path=moved.moved(clip.path))

    @property
    def live(self) -> bool:
        """Return whether a worker is alive."""
        return self.state in LIVE


def take_snapshot(folder: BatchFolder) -> BatchSnapshot:
    """Read the state of a batch. Raises nothing, whatever its files contain."""
    found = [_read_worker(worker) for worker in folder.workers()]
    workers = tuple(worker for worker, _ in found)
    states = {worker.state for worker in workers}
    state = next((state for state in _STATES if state in states), State.NEW)
    job = next((job for _, job in found if job), None)
    recorded = job.out if job else ""
    out = folder.relocation(job).find(recorded) if job else ""
    problem = ""
    try:
        expected = _count_lines(folder.items)
    except OSError as error:
        expected, problem = 0, f"Cannot read items.jsonl: {error.strerror}."
    refused: dict[str, str] = {}
    try:
        refused = read_refused(folder.refused)
    except (OSError, ValueError):
        problem = problem or "Cannot read refused.jsonl."
    return BatchSnapshot(
        folder.name, state, workers, out, expected, problem, tuple(refused.items()), recorded
    )


def _read_worker(folder: RunFolder) -> tuple[Worker, RenderJob | None]:
    device, problem, job = "", "", None
    try:
        job = require(read_job(folder.config), RenderJob)
        device = job.setups[0].model.device if job.setups else ""
        exit_record = folder.read_exit()
        problem = (
            f"{exit_record.message} {exit_record.hint}".strip()
            if exit_record and exit_record.status
            else ""
        )
    except PvError as error:
        problem = error.message
    except OSError as error:  # removed or made unreadable meanwhile
        problem = f"{error.strerror}: {error.filename}"
    return Worker(folder.name, folder.state(), device, problem), job


def _count_lines(path: Path) -> int:
    with os.fdopen(open_regular(path), "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""))


class ListingFollower:
    """The clips that a batch lists; its file is read again only when it has changed.

    With `names_only`, the clips themselves are not kept.
    """

    def __init__(self, folder: BatchFolder, names_only: bool = False) -> None:
        self._names_only = names_only
        self.listing = Listing()
        self._path = folder.items
        self._stamp: tuple[int, int] | None = None

    def read(self) -> Listing:
        """Return the clips; those read before if the file cannot be read."""
        try:
            file = self._path.lstat()
            if (stamp := (file.st_mtime_ns, file.st_size)) != self._stamp:
                found = read_listing(self._path)
                self.listing = replace(found, clips={}) if self._names_only else found
                self._stamp = stamp
        except OSError:  # the snapshot reports it
            self._stamp = None
        return self.listing


def read_history(folder: BatchFolder) -> BatchHistory:
    """Read all events of a batch, of all its workers. Raises OSError."""

    async def read() -> BatchHistory:
        follower, more = BatchFollower(folder), True
        while more:
            _, more = await follower.read()
        return follower.history

    return asyncio.run(read())


class BatchFollower:
    """Reader of the events of all workers of a batch into a `BatchHistory`.

    A truncated or replaced file starts a new history. Only files are read in a thread: processing a
    chunk takes milliseconds, and two threads would block each other.
    """

    def __init__(self, folder: BatchFolder) -> None:
        self.history = BatchHistory()
        self._folder = folder
        self._tails: dict[str, Tail] = {}

    async def read(self) -> tuple[bool, bool]:
        """Read the next chunk of each worker.

        Return whether new events were read and whether more follow. Raises OSError.
        """
        new = more = False
        for worker in await asyncio.to_thread(self._folder.workers):
            tail = self._tails.setdefault(worker.name, Tail(worker.events))
            chunk = await asyncio.to_thread(tail.read)
            if chunk.restarted:
                self.history, self._tails = BatchHistory(), {}
                return True, True
            events = chunk.events()
            for first in range(0, len(events), _EVENTS_PER_TURN):
                await asyncio.sleep(0)
                self.history.add(worker.name, events[first : first + _EVENTS_PER_TURN])
            new, more = new or bool(events), more or chunk.more
        return new, more
