"""Gauges of a run's machine: meters of all devices, and the run's own ones over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textual.app import ComposeResult
from textual.containers import Grid, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from pvtool.dashboard.follow.run import RunView
from pvtool.dashboard.follow.run_history import Device, RunHistory, gib
from pvtool.dashboard.marks import bar
from pvtool.dashboard.widgets.plot import Curve, Plot, View
from pvtool_core.store.liveness import LIVE, State

_GAUGES = {
    "memory_used": ("Memory", "GiB", None),
    "utilisation": ("Utilisation", "%", 100.0),
    "temperature": ("Temperature", "°C", 100.0),
    "power": ("Power", "W", None),
}
_HOST = {"memory": ("RAM", "GiB", None), "cpu": ("CPU", "cores", None)}
_NONE_YET = "No measurements yet; the engine takes one every few seconds."
_NO_MEASUREMENTS = "No measurements: the engine ended before the first one."
_NO_GPU = "No GPU: nvidia-smi reports none."
_FROM_ZERO = (0.0, 0.0)
_MAX_BAR, _MIN_BAR = 16, 4
_NEARLY_FULL = 0.95


class MachinePane(VerticalScroll):
    """Meters of all accelerators and the host, and plots of the devices of the run."""

    DEFAULT_CSS = """
    MachinePane {
        #meters { padding: 0 1; height: auto; }
        DevicePlots { height: 1fr; min-height: 7; grid-size: 2; grid-gutter: 0 1; }
    }
    """

    def __init__(self, view: View) -> None:
        super().__init__(can_focus=False)
        self._view = view
        self._rows: dict[int, DevicePlots] = {}

    def compose(self) -> ComposeResult:
        yield Static(_NONE_YET, id="meters")

    def show(self, run: RunView) -> None:
        """Draw the current values."""
        history = run.history
        live = run.summary.state in {*LIVE, State.NEW}
        self.query_one("#meters", Static).update(meters(history, live, self.size.width - 3))
        plotted = plotted_devices(history)
        for index, device in sorted(plotted.items()):
            curves = {name: [Curve(name, device.gauges[name], "main")] for name in _GAUGES}
            prefix = f"GPU {index} " if len(plotted) > 1 else ""
            totals = {"memory_used": device.memory_total, "power": device.power_limit}
            self._row(index, prefix).show(curves, totals)
        if len(history.process["memory"]):
            self._row(-1, "").show(host_curves(history), host_totals(history))

    def _row(self, index: int, prefix: str) -> "DevicePlots":
        if index not in self._rows:
            self._rows[index] = DevicePlots(self._view, _GAUGES if index >= 0 else _HOST, prefix)
            self._rows[index].set_class(index >= 0, "-accelerator")
            self.mount(self._rows[index], before=None if index < 0 else self._rows.get(-1))
        return self._rows[index]


class Memory(Vertical):
    """Used memory of the run's accelerators, or of the engine process without one."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self._plot = Plot("Memory", view, _FROM_ZERO, "GiB")

    def compose(self) -> ComposeResult:
        yield self._plot

    def show(self, run: RunView) -> None:
        """Draw the current values."""
        devices = plotted_devices(run.history)
        curves = [
            Curve(f"GPU {i}", device.gauges["memory_used"]) for i, device in sorted(devices.items())
        ]
        totals = [device.memory_total or 0.0 for device in devices.values()]
        self._plot.show(
            curves or [Curve("engine", run.history.process["memory"])],
            max(totals, default=None) if devices else host_totals(run.history).get("memory"),
        )


class DevicePlots(Grid):
    """A plot for each gauge of a device."""

    def __init__(
        self, view: View, gauges: Mapping[str, tuple[str, str, float | None]], prefix: str
    ) -> None:
        super().__init__()
        self._plots = {
            name: Plot(prefix + title, view, _FROM_ZERO, unit, total=total)
            for name, (title, unit, total) in gauges.items()
        }

    def compose(self) -> ComposeResult:
        yield from self._plots.values()

    def show(self, curves: Mapping[str, list[Curve]], totals: Mapping[str, float | None]) -> None:
        """Draw the curves of the gauges, from zero to the totals."""
        for name, drawn in curves.items():
            self._plots[name].show(drawn, totals.get(name))


def plotted_devices(history: RunHistory) -> dict[int, Device]:
    """Return the accelerator that the run uses, or all if it is unknown."""
    own = history.own_device
    return {own: history.devices[own]} if own in history.devices else history.devices


def host_curves(history: RunHistory) -> dict[str, list[Curve]]:
    """Return memory and CPU load of the engine, and those of the whole host if it reports them."""
    reported = history.host_reading is not None
    return {
        name: [
            Curve("engine", history.process[name]),
            *([Curve("host", history.host[name])] if reported else []),
        ]
        for name in _HOST
    }


def host_totals(history: RunHistory) -> dict[str, float | None]:
    """Return memory and cores of the host; None if it reports none."""
    host = history.host_reading
    return {"memory": gib(host.memory_total), "cpu": host.cores} if host else {}


@dataclass(frozen=True)
class Meter:
    """A line of measured values: a name, two bars with their texts, and other values."""

    name: str
    memory: tuple[float | None, str]
    load: tuple[float | None, str]
    rest: str = ""
    own: bool = False


def meters(history: RunHistory, live: bool, width: int) -> Content:
    """Return the newest values of all devices, one line each."""
    found = [device_meter(history, index) for index in sorted(history.devices)]
    found += [meter for meter in (host_meter(history), engine_meter(history)) if meter]
    if not found:
        return Content.styled(_NONE_YET if live else _NO_MEASUREMENTS, "$text-muted")
    lines = aligned(found, width)
    if not history.devices:
        lines.insert(0, Content.styled(_NO_GPU, "$text-warning"))
    return Content("\n").join(lines)


def device_meter(history: RunHistory, index: int) -> Meter:
    """Return the newest values of an accelerator."""
    device = history.devices[index]
    used, total = device.gauges["memory_used"].last, device.memory_total
    load, temperature, power = (
        device.gauges[name].last for name in ("utilisation", "temperature", "power")
    )
    parts = [f"{temperature:3.0f} °C"] if temperature is not None else []
    parts += [f"{power:4.0f} W"] if power is not None else []
    return Meter(
        f"GPU {index}  {device.name.removeprefix('NVIDIA ')}",
        (share(used, total), amount(used, total)),
        (share(load, 100), "" if load is None else f"{load:3.0f} %"),
        "  ".join(parts),
        own=len(history.devices) > 1 and index == history.own_device,
    )


def host_meter(history: RunHistory) -> Meter | None:
    """Return the newest values of the host, if it reports them."""
    if not (host := history.host_reading):
        return None
    used, total = gib(host.memory_used), gib(host.memory_total)
    free = gib(host.disk_free)
    return Meter(
        f"Host   {host.cores} cores" if host.cores else "Host",
        (share(used, total), amount(used, total)),
        (share(host.cpu, 100), "" if host.cpu is None else f"{host.cpu:3.0f} %"),
        "" if free is None else f"{free:.0f} GiB of disk free",
    )


def engine_meter(history: RunHistory) -> Meter | None:
    """Return the newest values of the engine process."""
    memory, cores = history.process["memory"].last, history.process["cpu"].last
    if memory is None:
        return None
    load = "" if cores is None else f"{100 * cores:.0f} % of a core"
    return Meter("Engine", (None, amount(memory, None)), (None, ""), load)


def aligned(found: Sequence[Meter], width: int) -> list[Content]:
    """Return the lines of meters in columns, with bars as wide as fits."""
    names = max(len(meter.name) for meter in found)
    memory = max(len(meter.memory[1]) for meter in found)
    load = max(len(meter.load[1]) for meter in found)
    rest = max(len(meter.rest) for meter in found)
    free = width - names - memory - load - rest - 11
    size = min(free // 2, _MAX_BAR) if free // 2 >= _MIN_BAR else 0
    return [
        Content.assemble(
            ("▸ " if meter.own else "  ", "bold $text-accent"),
            (f"{meter.name:<{names}}  ", "bold" if meter.own else ""),
            *metered(meter.memory, size, memory, "$text-warning"),
            *metered(meter.load, size, load, "$text-primary"),
            meter.rest,
        )
        for meter in found
    ]


def metered(value: tuple[float | None, str], size: int, width: int, full: str) -> list[Any]:
    """Return a bar of `size` cells and its text; `full` is the colour of a nearly full one."""
    fraction, text = value
    if fraction is None:
        drawn = (" " * size, "")
    else:
        drawn = (bar(fraction, size), full if fraction > _NEARLY_FULL else "$text-primary")
    return [drawn, f" {text:<{width}}  "]


def share(part: float | None, whole: float | None) -> float | None:
    """Return a fraction, if both values are known."""
    return None if part is None or not whole else part / whole


def amount(used: float | None, total: float | None) -> str:
    """Format GiB: `41.5 of 80.0 GiB`."""
    if used is None:
        return ""
    return f"{used:5.1f} of {total:.1f} GiB" if total else f"{used:5.1f} GiB"
