"""Estimate the work that a sweep has left, without starting it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pvtool.jobs.planning import plan_of
from pvtool_core.batches.rates import estimate, scoring_seconds
from pvtool_core.errors import PvError
from pvtool_core.models.locate import resolve_settings
from pvtool_core.paths import runs_dir
from pvtool_core.settings.jobs import Setup
from pvtool_core.settings.schema import Settings
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import list_runs
from pvtool_core.store.summary import job_of, summarize_run
from pvtool_core.supervisor import shared_engines
from pvtool_core.sweeps.cell_scores import is_evaluated
from pvtool_core.sweeps.cells import Cell, run_of


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """The work left of a sweep, an upper bound; times in seconds, None if unknown, sizes in bytes.

    `clips` are those of the cells left, some of which may exist.
    """

    cells: int
    complete: int
    runs: int
    iterations: int
    clips: int
    training_seconds: float | None
    rendering_seconds: float | None
    scoring_seconds: float | None
    checkpoint_bytes: int
    trajectory_bytes: int

    def table(self) -> dict[str, Any]:
        """Return it as a table for JSON."""
        return asdict(self)


@shared_engines()
def plan_sweep(cells: Sequence[Cell], out: Path) -> SweepPlan:
    """Estimate the cells of a sweep that are not complete.

    Times are those measured on this machine; training falls back to the counts of `pv train
    --plan` on a known GPU. Short engine jobs without weights count the disk space.
    """
    left = [cell for cell in cells if not is_evaluated(out, cell)]
    untrained = [(cell, steps) for cell in left if (steps := _steps_left(cell))]
    rates = _Rates()
    people = {cell.identity.name for cell in left}
    own = sum(len(cell.shown) * len(cell.settings.evaluation.seeds) for cell in left)
    first = {cell.identity.name: cell for cell in left}.values()
    base = sum(len(cell.shown) * len(cell.settings.evaluation.seeds) for cell in first)
    disks = [rates.disk(cell.settings, len(cell.texts)) for cell, _ in untrained]
    return SweepPlan(
        cells=len(cells),
        complete=len(cells) - len(left),
        runs=len(untrained),
        iterations=sum(steps for _, steps in untrained),
        clips=own + base if people else 0,
        training_seconds=_sum(
            _times(rates.step(cell.settings, len(cell.texts)), steps) for cell, steps in untrained
        ),
        rendering_seconds=_sum(_rendering(cell, cell in first) for cell in left),
        scoring_seconds=_sum(_scoring(cell) for cell in left),
        checkpoint_bytes=sum(disk["checkpoints"] for disk in disks),
        trajectory_bytes=max((disk["trajectories"] for disk in disks), default=0),
    )


def _steps_left(cell: Cell) -> int:
    if cell.method:
        return 0
    run = run_of(cell)
    if run and run.state() == State.FINISHED:
        return 0
    done = summarize_run(run).step if run else 0
    return max(1, cell.settings.training.iterations - done)


def _rendering(cell: Cell, with_base: bool) -> float | None:
    """Return the seconds of a cell's clips; the steps before the adapter's are shared."""
    if cell.method:
        return None
    try:
        rate = estimate(Setup.of(resolve_settings(cell.settings)))
    except PvError:
        return None
    if rate is None or rate.tail is None or (with_base and rate.switch is None):
        return None
    clips = len(cell.shown) * len(cell.settings.evaluation.seeds)
    return clips * (rate.tail * (2 if with_base else 1) + (rate.switch or 0) * with_base)


def _scoring(cell: Cell) -> float | None:
    clips = 2 * len(cell.shown) * len(cell.settings.evaluation.seeds)
    return _times(scoring_seconds(cell.settings), clips)


class _Rates:
    """Seconds of an iteration and disk space, each looked up once for equal settings."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], float | None] = {}
        self._plans: dict[tuple[Any, ...], Any] = {}

    def step(self, settings: Settings, prompts: int) -> float | None:
        """Return the seconds of an iteration, measured or by the counts; None if unknown."""
        key = _cost(settings)
        if key not in self._known:
            measured = self._measured.get(key)
            seconds = {} if measured else self._plan(settings, prompts).seconds()
            whole = seconds.get("run")
            iterations = settings.training.iterations
            self._known[key] = measured or (whole / iterations if whole else None)
        return self._known[key]

    def disk(self, settings: Settings, prompts: int) -> dict[str, int]:
        """Return the bytes of the checkpoints and trajectories of a run."""
        return self._plan(settings, prompts).disk()

    def _plan(self, settings: Settings, prompts: int) -> Any:
        key = _cost(settings)
        if key not in self._plans:
            self._plans[key] = plan_of(settings, prompts)
        return self._plans[key]

    @cached_property
    def _measured(self) -> dict[tuple[Any, ...], float]:
        """Return the seconds of an iteration of existing runs, by what they depend on."""
        found: dict[tuple[Any, ...], float] = {}
        for run in list_runs(runs_dir()):
            try:
                job = job_of(run)
            except PvError:
                continue
            if seconds := summarize_run(run).seconds_per_step:
                found[_cost(job)] = seconds
        return found


def _cost(settings: Settings) -> tuple[Any, ...]:
    """Return the settings that the time of an iteration depends on most."""
    model, training = settings.model, settings.training
    size = (model.family, model.width, model.height, model.num_frames, model.dtype, model.device)
    steps = (settings.sampler.num_inference_steps, settings.adapter)
    rewards = (settings.semantic_reward.frames, settings.identity_reward.frames)
    kind = (
        training.objective,
        training.image_model,
        training.gradient,
        training.gradient_steps,
        training.recompute,
    )
    return (*size, *steps, *rewards, *kind)


def _times(each: float | None, count: int) -> float | None:
    return None if each is None else each * count


def _sum(values: Any) -> float | None:
    """Return the sum; None if a part is unknown."""
    known = list(values)
    return None if None in known else float(sum(known))
