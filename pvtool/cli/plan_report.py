"""`pv train --plan`: estimate the requirements of a run, without starting it."""

from typing import Any

from pvtool.output import Output
from pvtool.tables import Table
from pvtool.text import figures
from pvtool_core.estimate.requirements import (
    GIB,
    SUSTAINED,
    Estimate,
    architecture_of,
)
from pvtool_core.models.locate import missing_weights


def show(plan: Estimate, output: Output) -> None:
    """Print the estimate as tables, or as JSON, and report missing weights."""
    own, missing = architecture_of(plan.settings)[2], missing_weights(plan.settings)
    lacking = [error.message for error in missing]
    output.result({**facts(plan), "assumed": not own, "missing": lacking}, *words(plan))
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


def words(plan: Estimate) -> list[str | Table]:
    """Return tables of memory, work and time, and whether it fits."""
    peak, _ = plan.peak
    held = [[f"  {name}", gib(size), ""] for name, size in plan.weights().items()]
    phases = [
        [name, gib(size), "← peak" if name == peak else ""] for name, size in plan.phases().items()
    ]
    memory = [*phases, ["held throughout the run", gib(sum(plan.weights().values())), ""], *held]
    host = [[f"RAM: {name}", gib(size)] for name, size in plan.host().items()]
    disk = [[f"disk: {name}", gib(size)] for name, size in plan.disk().items()]
    columns = ["part of the run", "passes", "work", *(["time"] if plan.tflops else [])]
    return [
        Table(["device memory by phase", "GiB", ""], memory),
        Table(["other memory", "GiB"], host + disk),
        Table(columns, work(plan)),
        verdict(plan),
    ]


def work(plan: Estimate) -> list[list[str]]:
    """Return a row for an iteration, for each part of the run, and for the whole run."""
    passes, seconds = plan.passes, plan.seconds()
    counted = {
        "iteration": f"{passes.plain} + {passes.with_gradient} with gradient",
        "cache": f"{passes.pairs} pairs × {passes.pair}",
        "iterations": f"{plan.settings.training.iterations} iterations",
    }
    return [
        [name, counted.get(name, ""), operations(flops)]
        + ([period(seconds[name])] if seconds else [])
        for name, flops in plan.flops().items()
    ]


def verdict(plan: Estimate) -> str:
    """Return whether the memory is enough, what to change otherwise, and the source of the time."""
    machine, peak = plan.machine, gib(plan.peak[1], 3)
    if not machine.memory:
        lines = [f"No GPU found; the run needs {peak} GiB of free GPU memory."]
    elif plan.fits:
        lines = [
            f"{machine.name} has {gib(machine.memory, 3)} GiB, which is enough for {peak} GiB."
        ]
    else:
        lines = [
            f"{machine.name} has {gib(machine.memory, 3)} GiB, which is not enough for {peak} GiB.",
            *(f"  --set {setting}: {effect}" for setting, effect in plan.remedies().items()),
            "  --preset: `pv presets list` names the memory that each preset needs",
        ]
        lines.insert(1, "To need less:")
    if (loading := max(plan.host().values())) > machine.host_memory:
        lines.append(
            f"CPU memory of {gib(machine.host_memory, 3)} GiB is not enough for "
            f"{gib(loading, 3)} GiB."
        )
    if not plan.tflops:
        lines.append("Unknown throughput: add --tflops for a time estimate.")
    else:
        assumed = f"assumed to be {SUSTAINED:.0%} of the data sheet's peak"
        source = assumed if machine.name else "as given"
        lines.append(f"Time at {plan.tflops:.0f} TFLOP/s: {source}.")
    return "\n".join(lines)


def gib(size: float, digits: int = 2) -> str:
    """Format bytes as GiB with two significant digits: `0.84`, `56`, `140`."""
    return figures(size / GIB, digits) if size >= 0.01 * GIB else "<0.01" if size else "0"


def operations(flops: float) -> str:
    """Format a number of operations: `20 PFLOP`."""
    prefix, unit = next(
        (pair for pair in (("E", 1e18), ("P", 1e15), ("T", 1e12)) if flops >= pair[1]),
        ("G", 1e9),
    )
    return f"{figures(flops / unit)} {prefix}FLOP"


def period(seconds: float) -> str:
    """Format a time with two significant digits: `6.7 s`, `12 min`, `3.2 h`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{figures(seconds / size)} {unit}"
    return f"{figures(seconds)} s"
