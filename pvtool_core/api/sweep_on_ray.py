"""Work on the cells of a sweep on a Ray cluster: one task for each cell.

All machines share the data folder and the weights. A task leases its cell like any process, so that
clusters, shards and single machines can work on the same sweep; its engines are processes of the
machine on which it runs. Ray repeats the tasks of dead workers, which resume the runs.
"""

import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from pvtool_core.api.sweep import (
    SweepOptions,
    SweepOutcome,
    SweepWatcher,
    interrupted,
    noted_signals,
    run_cells,
)
from pvtool_core.errors import PvError, Reported, RunFailed, from_foreign
from pvtool_core.ray_session import ray_session, remote, slots
from pvtool_core.sweeps.cells import Cell

Problem = tuple[int, str, str, str]
"""Status, kind, message and hint of an error: the classes of errors cannot be pickled."""


def run_cells_on_ray(
    cells: Sequence[Cell], options: SweepOptions, address: str, watcher: SweepWatcher
) -> SweepOutcome:
    """Train, render and evaluate all cells on the cluster at `address`, or on a private one.

    SIGINT and SIGTERM stop the tasks, whose engines save their state. Raises Interrupted then,
    UsageError if no cluster is found.
    """
    stopped = threading.Event()
    with ray_session(address), noted_signals(stopped) as received:
        outcome = _Driver(cells, options, watcher, stopped).run()
    if received:
        raise interrupted(received[0] == signal.SIGTERM)
    return outcome


class _Driver:
    """Keeps the cluster busy with one task for each slot."""

    def __init__(
        self,
        cells: Sequence[Cell],
        options: SweepOptions,
        watcher: SweepWatcher,
        stopped: threading.Event,
    ) -> None:
        self._waiting, self._running = list(cells[::-1]), dict[Any, Cell]()
        self._options, self._watcher, self._stopped = options, watcher, stopped
        self._outcome = SweepOutcome()

    def run(self) -> SweepOutcome:
        cancelled = False
        while self._waiting or self._running:
            if self._stopped.is_set() and not cancelled:
                cancelled = True
                for task in self._running:
                    ray.cancel(task, recursive=False)
            if cancelled or (self._outcome.failed and not self._options.keep_going):
                self._waiting.clear()
            while self._waiting and len(self._running) < slots():
                self._start(self._waiting.pop())
            for task in ray.wait(list(self._running), num_returns=1, timeout=1.0)[0]:
                self._collect(task)
        return self._outcome

    def _start(self, cell: Cell) -> None:
        self._watcher.on_start(cell)
        self._running[remote(work_on).remote(cell, self._options)] = cell

    def _collect(self, task: Any) -> None:
        """Record how a task ended."""
        cell = self._running.pop(task)
        error: PvError | None = None
        try:
            if problem := ray.get(task):
                error = Reported(*problem)
        except RayError as lost:
            hint = "See the logs of Ray, and run the same command again."
            error = RunFailed(f"The Ray task failed: {type(lost).__name__}.", hint)
        if self._stopped.is_set() and error:
            return
        self._outcome.add(cell, error)
        self._watcher.on_end(cell, error)


def work_on(cell: Cell, options: SweepOptions) -> Problem | None:
    """Work on a cell in a Ray worker, and return its error."""
    try:
        error = run_cells([cell], replace(options, keep_going=True)).error
    except Exception as raised:
        error = from_foreign(raised)
    return error and (int(error.status), error.kind, error.message, error.hint)
