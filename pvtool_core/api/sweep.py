"""Sweep: train, render and evaluate the cells of a sweep, and resume it after any kill.

A lease for each cell ensures that processes and machines with a common data folder never work on
the same cell. What exists is reused: a finished run, complete clips, scores.
"""

import dataclasses
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from pvtool_core.api.batch import missing_clips, render_job, render_missing
from pvtool_core.api.evaluate import Choices, planned_clips, score
from pvtool_core.api.machine import check_devices
from pvtool_core.api.training import SweepCell, create_run
from pvtool_core.batches.plan import BatchPlan, Defaults, plan
from pvtool_core.batches.rows import Row
from pvtool_core.errors import ExitStatus, Interrupted, PvError, SomeFailed, from_foreign
from pvtool_core.paths import runs_dir, sweep_clips_dir, sweeps_dir
from pvtool_core.rendering.leases import Leases
from pvtool_core.settings.jobs import REPORT, SHEET, write_job
from pvtool_core.settings.toml import Table
from pvtool_core.store.evaluation_report import EVALUATION
from pvtool_core.store.events import Event, ignore
from pvtool_core.store.liveness import LIVE, State
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import job_of
from pvtool_core.supervisor import OnEvent, follow, run_to_end, shared_engines
from pvtool_core.sweeps.cell_scores import (
    SET_METRICS,
    cell_folder,
    clips_of,
    is_evaluated,
    mark_evaluated,
    set_groups,
)
from pvtool_core.sweeps.cells import Cell, cells_of, run_of
from pvtool_core.sweeps.sweep_file import Sweeps, with_changes
from pvtool_core.untrusted import exists

LEASES = ".sweep-claims"
TRAINING, RENDERING, EVALUATING = "training", "rendering", "evaluating"
"""Stages of a cell."""
_POLL_SECONDS = 2.0
Stop = Callable[[], bool]


class SweepWatcher:
    """Is told what happens in a sweep. The methods do nothing; subclasses show it.

    With several devices they are called by several threads, one at a time. On Ray, `on_start` and
    `on_end` are called only.
    """

    def on_start(self, cell: Cell) -> None:
        """Note that a task of Ray works on a cell."""

    def on_stage(self, cell: Cell, stage: str, total: int) -> None:
        """Begin to train, render or evaluate a cell, with so many iterations or clips."""

    def on_event(self, cell: Cell, event: Event) -> None:
        """Take an event of the cell's engine."""

    def on_end(self, cell: Cell, error: PvError | None) -> None:
        """Note that a cell is complete, or why it failed."""

    def on_wait(self, cells: Sequence[Cell]) -> None:
        """Note that the remaining cells are in the hands of other processes."""


@dataclass
class SweepOutcome:
    """What became of the cells: those that are complete, and the errors of those that failed."""

    done: list[Cell] = field(default_factory=list[Cell])
    failed: list[tuple[Cell, PvError]] = field(default_factory=list[tuple[Cell, PvError]])

    def add(self, cell: Cell, error: PvError | None) -> None:
        """Add a cell that is complete or has failed."""
        if error:
            self.failed.append((cell, error))
        else:
            self.done.append(cell)

    @property
    def error(self) -> PvError | None:
        """Return the error of the sweep: that of its cells if all failed, otherwise SomeFailed."""
        if not self.failed:
            return None
        if not self.done:
            return self.failed[0][1]
        total = len(self.done) + len(self.failed)
        hint = "The other cells are complete. Run the same command again to retry the failed ones."
        return SomeFailed(len(self.failed), total, hint)


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How a sweep is worked on.

    Attributes:
        out: Folder of the results and of the scores of the cells.
        devices: Devices, with a cell on each at a time; empty uses that of the settings.
        keep_going: Go on with the other cells if one fails.
    """

    out: Path
    devices: tuple[str, ...] = ()
    keep_going: bool = True


def sweep(
    file: str | Path,
    *,
    identities: Sequence[str] = (),
    overrides: Table | None = None,
    devices: Sequence[str] = (),
    out: str | Path | None = None,
    watcher: SweepWatcher | None = None,
) -> dict[str, Any]:
    """Train, render and evaluate a grid of settings, identities and seeds, and tabulate it.

    Runs, clips and scores that exist are reused, and several processes can work on the same sweep.

    Args:
        file: A TOML file, or the name of a shipped sweep.
        identities: Names of identities, instead of those of the file.
        overrides: Settings of all cells that take precedence over the file, as tables by section.
        devices: Devices, with a cell on each at a time. [default: the device of the settings]
        out: Folder of results and scores. [default: `sweeps/NAME` in the data folder]
        watcher: Is told what happens.

    Returns:
        The contents of results.json: means, intervals and differences by row and metric.

    Raises:
        Missing: The sweep does not exist.
        SettingsError: The file has mistakes, or names identities that do not exist.
        WeightsMissing: Weights of a variant are not installed.
        SomeFailed: Some cells failed; the error of the cells if all did.
        Interrupted: A signal stopped the sweep.
    """
    from pvtool_core.sweeps.result_files import write_results

    wanted = with_changes(Sweeps().get(str(file)), overrides or {}, tuple(identities))
    cells = cells_of(wanted, {})
    target = Path(out or sweeps_dir() / wanted.name).absolute()
    options = SweepOptions(out=target, devices=tuple(devices))
    outcome = run_cells(cells, options, watcher)
    score_sets(cells, options)
    results = write_results(wanted, cells, target)
    if outcome.error:
        raise outcome.error
    return results


def run_cells(
    cells: Sequence[Cell], options: SweepOptions, watcher: SweepWatcher | None = None
) -> SweepOutcome:
    """Train, render and evaluate all cells, or wait for other processes that work on them.

    SIGINT and SIGTERM stop the engines, which save their state. Raises Interrupted then.
    """
    check_devices(options.devices)
    worker = _Worker(cells, options, watcher or SweepWatcher())
    try:
        with Leases(sweep_clips_dir() / LEASES) as leases:
            if len(options.devices) < 2:
                worker.work(leases, next(iter(options.devices), ""))
            else:
                worker.work_in_parallel(leases)
    except Interrupted as error:
        raise interrupted(error.status == ExitStatus.TERMINATED) from error
    return worker.outcome


@shared_engines()
def score_sets(cells: Sequence[Cell], options: SweepOptions, on_event: OnEvent = ignore) -> None:
    """Compute the metrics of sets, such as FVD, of each variant whose cells are all complete.

    The features of clips are kept with their scores, so that this takes seconds.
    """
    for group in set_groups(options.out, cells):
        if exists(group.folder / REPORT):
            continue
        group.folder.mkdir(parents=True, exist_ok=True)
        clips = dict.fromkeys(clip for cell in group.cells for clip in clips_of(options.out, cell))
        people = [cell.identity.ref for cell in group.cells]
        wanted = tuple(name for name in group.cells[0].metrics if name in SET_METRICS)
        choices = Choices(metrics=wanted, scores=str(sweep_clips_dir()))
        score(group.cells[0].settings, people, tuple(clips), group.folder, choices, on_event)


def interrupted(terminated: bool) -> Interrupted:
    """Return the error of a sweep that a signal or a request to stop a run ended."""
    hint = "Run the same command again to continue the sweep."
    return Interrupted("The sweep was interrupted; its state is saved.", hint, terminated)


class _Worker:
    """Works on cells, in one thread or in one for each device."""

    def __init__(self, cells: Sequence[Cell], options: SweepOptions, watcher: SweepWatcher) -> None:
        self.outcome = SweepOutcome()
        self._options, self._watcher = options, watcher
        self._turn, self._stopped = threading.RLock(), threading.Event()
        self._waiting = deque(cells)

    @shared_engines()
    def work(self, leases: Leases, device: str) -> None:
        """Work on cells until each is complete or has failed, here or elsewhere."""
        elsewhere = 0
        while self._waiting and not self._stopped.is_set():
            try:
                cell = self._waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            if self._attempt(leases, cell, device):
                elsewhere = 0
                continue
            self._waiting.append(cell)
            elsewhere += 1
            if elsewhere >= len(self._waiting):  # all of them, so that there is nothing else to do
                self._tell(partial(self._watcher.on_wait, list(self._waiting)))
                self._stopped.wait(_POLL_SECONDS)
                elsewhere = 0

    def work_in_parallel(self, leases: Leases) -> None:
        """Work on cells in a thread for each device, until a signal stops all of them."""
        errors: list[BaseException] = []

        def take(device: str) -> None:
            try:
                self.work(leases, device)
            except BaseException as error:
                errors.append(error)
                self._stopped.set()

        threads = [
            threading.Thread(target=take, args=(device,)) for device in self._options.devices
        ]
        with noted_signals(self._stopped) as received:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if received:
            raise interrupted(received[0] == signal.SIGTERM)
        if errors:
            raise errors[0]

    def _attempt(self, leases: Leases, cell: Cell, device: str) -> bool:
        """Work on a cell; return False if another process does.

        Raises the cell's error unless the sweep keeps going, and always Interrupted.
        """
        if is_evaluated(self._options.out, cell):
            self._end(cell, None)
            return True
        with self._turn:
            held = leases.acquire(cell.key)
        if not held:
            return False
        try:
            if not is_evaluated(self._options.out, cell):
                self._complete(cell, device)
        except Interrupted:
            raise
        except (PvError, OSError) as error:
            ours = from_foreign(error)
            self._end(cell, ours)
            if not self._options.keep_going:
                raise ours from error
            return True
        finally:
            with self._turn:
                leases.release(cell.key)
        self._end(cell, None)
        return True

    def _complete(self, cell: Cell, device: str) -> None:
        """Train, render and evaluate a cell."""
        run = None if cell.method else self._trained(cell, device)
        planned = evaluation_of(cell, run)
        job = render_job(sweep_clips_dir(), likeness=False)
        if missing := missing_clips(planned, job):
            self._begin(cell, RENDERING, len(missing))
        devices = (device,) if device else ()
        render_missing(
            planned,
            job,
            self._on_event(cell),
            devices=devices,
            on_clip=self._on_event(cell),
            stop=self._stopped.is_set,
        ).raise_for_status()
        self._begin(cell, EVALUATING, len(planned.items))
        self._evaluate(cell, run, planned, device)

    def _trained(self, cell: Cell, device: str) -> RunFolder:
        """Return the finished run of a cell, which is created or resumed if necessary."""
        run = run_of(cell) or _create(cell, device)
        _join_sweep(run, cell.sweep)
        state = run.state()
        if state != State.FINISHED:
            self._begin(cell, TRAINING, cell.settings.training.iterations)
        if state in LIVE:  # its sweep was killed, and the engine continues
            follow(run, self._on_event(cell))
            state = run.state()
        if state != State.FINISHED:
            _move_to(run, device)
            run_to_end(run, self._on_event(cell), self._stopped.is_set)
        if run.state() != State.FINISHED:
            raise Interrupted(f"{run.name} was stopped.")
        return run

    def _evaluate(self, cell: Cell, run: RunFolder | None, planned: BatchPlan, device: str) -> None:
        """Score the clips; the run gets the report too if it was not evaluated."""
        settings, folder = cell.settings, cell_folder(self._options.out, cell)
        if device:
            model = dataclasses.replace(settings.model, device=device)
            settings = dataclasses.replace(settings, model=model)
        folder.mkdir(parents=True, exist_ok=True)
        choices = Choices(metrics=cell.metrics, scores=str(sweep_clips_dir()))
        report = score(
            settings,
            [cell.identity.ref],
            planned_clips(planned),
            folder,
            choices,
            self._on_event(cell),
            self._stopped.is_set,
        )
        if failed := report["failed"]:
            hint = "Run the same command again to try them again."
            raise SomeFailed(len(failed), len(planned.items), f"{failed[0]['reason']} {hint}")
        if run and not exists(own := run.path / EVALUATION):
            own.mkdir()
            for name in (REPORT, SHEET):
                shutil.copyfile(folder / name, own / name)
        mark_evaluated(self._options.out, cell, run.name if run else "")

    def _begin(self, cell: Cell, stage: str, total: int) -> None:
        self._tell(lambda: self._watcher.on_stage(cell, stage, total))

    def _on_event(self, cell: Cell) -> Callable[[Event], None]:
        return lambda event: self._tell(lambda: self._watcher.on_event(cell, event))

    def _end(self, cell: Cell, error: PvError | None) -> None:
        with self._turn:
            self.outcome.add(cell, error)
            self._watcher.on_end(cell, error)

    def _tell(self, say: Callable[[], None]) -> None:
        with self._turn:
            say()


@contextmanager
def noted_signals(stopped: threading.Event) -> Generator[list[signal.Signals]]:
    """Set an event at SIGINT and SIGTERM, which only the main thread receives."""
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def stop(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _create(cell: Cell, device: str) -> RunFolder:
    """Create the run of a cell, whose lease this process holds."""
    settings = cell.settings
    if device:
        model = dataclasses.replace(settings.model, device=device)
        settings = dataclasses.replace(settings, model=model)
    unfinished = runs_dir() / cell.run_name
    if exists(unfinished) and not exists(unfinished / "config.toml"):  # killed before it was whole
        shutil.rmtree(unfinished)
    made = SweepCell(key=cell.key, sweep=cell.sweep, run=cell.run_name)
    return create_run(cell.identity, settings, cell.texts, cell.preset, made)


def _join_sweep(run: RunFolder, sweep: str) -> None:
    """Record that this sweep uses the run too."""
    job = job_of(run)
    if sweep not in job.sweeps:
        write_job(run.config, dataclasses.replace(job, sweeps=(*job.sweeps, sweep)))


def _move_to(run: RunFolder, device: str) -> None:
    """Let a run that is resumed use the device of this worker."""
    job = job_of(run)
    if device and job.model.device != device:
        model = dataclasses.replace(job.model, device=device)
        write_job(run.config, dataclasses.replace(job, model=model))


def evaluation_of(cell: Cell, run: RunFolder | None) -> BatchPlan:
    """Plan the evaluation clips of a cell, with its adapter and of the base model.

    They are in one folder for all sweeps, so that cells share those of the base model. An encoder
    method has clips of its own only, since its base model may be another one.
    """
    defaults = Defaults(
        people=(cell.identity.name,),
        seeds=cell.settings.evaluation.seeds,
        runs=(run.name,) if run else (),
        methods=(cell.method,),
        base=run is not None,
    )
    return plan([Row(prompt=text) for text in cell.shown], defaults, sweep_clips_dir())
