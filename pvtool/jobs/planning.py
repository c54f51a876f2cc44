"""Estimate the requirements of a run, with a short engine job that loads no weights."""

from collections.abc import Callable, Mapping
from typing import Any

from pvtool.text import duration
from pvtool_core.estimate.requirements import (
    GIB,
    Counts,
    Estimate,
    Machine,
    architecture_of,
    passes_of,
    sustained,
)
from pvtool_core.settings.jobs import PlanJob, check_trainable
from pvtool_core.settings.schema import Settings
from pvtool_core.store.events import CountsEvent, Event, MachineEvent
from pvtool_core.supervisor import run_short_job


def plan_of(
    settings: Settings,
    prompts: int,
    tflops: float | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Estimate:
    """Estimate what training with these settings requires.

    `tflops` is the sustained throughput, if known. Raises Interrupted once `stop` is true.
    """
    check_trainable(settings)
    folder, motion, _ = architecture_of(settings)
    job = PlanJob(**settings.sections(), architecture=str(folder), motion=str(motion or ""))
    found: dict[str, Mapping[str, Any]] = {}

    def keep(event: Event) -> None:
        if isinstance(event, MachineEvent | CountsEvent):
            found[event.type] = event.values

    run_short_job("plan", job, keep, stop)
    machine = Machine(**{name: found["machine"][name] for name in Machine.__dataclass_fields__})
    rate = sustained(machine.name, settings.model.dtype) if tflops is None else tflops
    return Estimate(
        settings, Counts.of(found["counts"]), passes_of(settings, prompts), machine, rate
    )


def short_estimate(plan: Estimate) -> str:
    """Format memory and time of a run in one line: `≈ 11 GiB of GPU memory, 40:00`."""
    peak, machine = plan.peak[1] / GIB, plan.machine
    text = f"≈ {peak:.1f} GiB" if peak < 10 else f"≈ {peak:.0f} GiB"
    if not machine.memory:
        text += " of GPU memory; no GPU found"
    elif not plan.fits:
        text += f"; {machine.name} has only {machine.memory / GIB:.0f} GiB"
    else:
        text += f" of {machine.memory / GIB:.0f} GiB"
    seconds = plan.seconds()
    return text + (f", {duration(seconds['run'])}" if seconds else ", time unknown")
