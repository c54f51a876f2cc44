"""`pv train --plan`: estimate the requirements of a run, without starting it."""

from collections.abc import Mapping
from typing import Any

from pvtool.output import Output, table
from pvtool.text import duration
from pvtool_core.estimate.requirements import (
    GIB,
    SUSTAINED,
    Counts,
    Estimate,
    Machine,
    architecture_of,
    passes_of,
    sustained,
)
from pvtool_core.models.locate import missing_weights
from pvtool_core.settings.jobs import PlanJob
from pvtool_core.settings.schema import Settings
from pvtool_core.store.events import CountsEvent, Event, MachineEvent
from pvtool_core.supervisor import run_short_job


def plan_of(settings: Settings, prompts: int, tflops: float | None) -> Estimate:
    """Estimate what training with these settings requires.

    `tflops` is the sustained throughput, if known.
    """
    folder, motion, _ = architecture_of(settings)
    job = PlanJob(**settings.sections(), architecture=str(folder), motion=str(motion or ""))
    found: dict[str, Mapping[str, Any]] = {}

    def keep(event: Event) -> None:
        if isinstance(event, MachineEvent | CountsEvent):
            found[event.type] = event.values

    run_short_job("plan", job, keep)
    machine = Machine(**{name: found["machine"][name] for name in Machine.__dataclass_fields__})
    rate = sustained(machine.name, settings.model.dtype) if tflops is None else tflops
    return Estimate(
        settings, Counts.of(found["counts"]), passes_of(settings, prompts), machine, rate
    )


def show(plan: Estimate, output: Output) -> None:
    """Print the estimate as tables, or as JSON, and report missing weights."""
    own, missing = architecture_of(plan.settings)[2], missing_weights(plan.settings)
    lacking = [error.message for error in missing]
    output.result({**facts(plan), "assumed": not own, "missing": lacking}, words(plan))
    if not own:
        output.say(
            f"{plan.settings.model.base_model} is not installed: estimated with the default "
            "model of its family."
        )
    for error in missing:
        output.say(f"{error.message} {error.hint}")


def facts(plan: Estimate) -> dict[str, Any]:
    """Return the estimate for programs: bytes, passes, operations and seconds."""
    phase, peak = plan.peak
    machine, passes = plan.machine, plan.passes
    return {
        "weights": plan.weights(),
        "phases": plan.phases(),
        "peak": {"phase": phase, "bytes": peak},
        "device": {"name": machine.name, "memory": machine.memory, "fits": plan.fits},
        "host": {**plan.host(), "memory": machine.host_memory},
        "disk": plan.disk(),
        "passes": {
            "iteration": passes.plain,
            "iteration_with_gradient": passes.with_gradient,
            "pairs": passes.pairs,
            "cache": passes.cache,
        },
        "tflop": {name: flops / 1e12 for name, flops in plan.flops().items()},
        "tflops": plan.tflops,
        "seconds": plan.seconds(),
    }


def words(plan: Estimate) -> str:
    """Return tables of memory, work and time, and whether it fits."""
    phase, peak = plan.peak
    held = [[f"  {name}", gib(size)] for name, size in plan.weights().items()]
    phases = [[name, gib(size)] for name, size in plan.phases().items()]
    host, disk = (
        [[name, gib(size)] for name, size in part.items()] for part in (plan.host(), plan.disk())
    )
    memory = [
        ["held throughout the run", gib(sum(plan.weights().values()))],
        *held,
        *phases,
        [f"peak ({phase})", gib(peak)],
    ]
    tables = [
        table(["device memory", "GiB"], memory),
        table(["host memory", "GiB"], host),
        table(["disk", "GiB"], disk),
        table(["work", "passes", "TFLOP", "time"], work(plan)),
    ]
    return "\n\n".join([*tables, verdict(plan)])


def work(plan: Estimate) -> list[list[str]]:
    """Return a row for an iteration, for each part of the run, and for the whole run."""
    passes, seconds = plan.passes, plan.seconds()
    counted = {
        "iteration": f"{passes.plain} + {passes.with_gradient} with gradient",
        "cache": f"{passes.pairs} pairs × {passes.pair}",
        "iterations": f"{plan.settings.training.iterations} iterations",
    }
    return [
        [
            name,
            counted.get(name, ""),
            f"{flops / 1e12:.4g}",
            duration(seconds[name]) if seconds else "",
        ]
        for name, flops in plan.flops().items()
    ]


def verdict(plan: Estimate) -> str:
    """Return whether the device has enough memory, and the source of the time estimate."""
    machine, peak = plan.machine, gib(plan.peak[1])
    if not machine.memory:
        fits = f"No GPU found; the run needs {peak} GiB of free GPU memory."
    else:
        answer = "is enough" if plan.fits else "is not enough"
        fits = f"{machine.name} has {gib(machine.memory)} GiB, which {answer} for {peak} GiB."
    if (loading := max(plan.host().values())) > machine.host_memory:
        fits += (
            f"\nCPU memory of {gib(machine.host_memory)} GiB is not enough for {gib(loading)} GiB."
        )
    if not plan.tflops:
        return f"{fits}\nUnknown throughput: add --tflops for a time estimate."
    source = (
        f"assumed to be {SUSTAINED:.0%} of the data sheet's peak" if machine.name else "as given"
    )
    return f"{fits}\nTime at {plan.tflops:.0f} TFLOP/s: {source}."


def gib(size: float) -> str:
    return f"{size / GIB:.2f}"
