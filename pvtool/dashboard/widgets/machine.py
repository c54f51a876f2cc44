"""Gauges of a run's machine: each accelerator over time, and the engine process."""

from collections.abc import Mapping

from textual.app import ComposeResult
from textual.containers import Grid, Vertical, VerticalScroll
from textual.widgets import Static

from pvtool.dashboard.follow.run import RunView
from pvtool.dashboard.follow.run_history import Device
from pvtool.dashboard.plot.series import Extent
from pvtool.dashboard.widgets.plot import Curve, Plot, View

_GAUGES = {
    "memory_used": ("Memory", "GiB", None),
    "utilisation": ("Utilisation", "%", (0.0, 100.0)),
    "temperature": ("Temperature", "°C", None),
    "power": ("Power", "W", None),
}
_PROCESS = {"memory": ("Memory", "GiB", None), "cpu": ("Load", "% of a core", None)}
_NONE_YET = "No measurements yet; the engine takes one every few seconds."


class MachinePane(VerticalScroll):
    """Rows of plots, one for each accelerator and one for the engine process."""

    DEFAULT_CSS = """
    MachinePane {
        #none { color: $text-muted; padding: 1 2; }
        DevicePlots { height: 1fr; min-height: 9; }
        DevicePlots Grid { height: 1fr; grid-size: 2; grid-gutter: 0 1; }
        DevicePlots Static { height: 1; padding: 0 1; text-style: bold; }
    }
    """

    def __init__(self, view: View) -> None:
        super().__init__(can_focus=False)
        self._view = view
        self._rows: dict[int, DevicePlots] = {}

    def compose(self) -> ComposeResult:
        yield Static(_NONE_YET, id="none")

    def show(self, run: RunView) -> None:
        """Draw the current values."""
        history = run.history
        for index, device in sorted(history.devices.items()):
            row = self._row(index)
            curves = {name: Curve(name, device.gauges[name], "main") for name in _GAUGES}
            row.show(curves, device_summary(index, device), _from_zero_to(device.memory_total))
        if len(history.process["memory"]):
            row = self._row(-1)
            curves = {name: Curve(name, series, "main") for name, series in history.process.items()}
            row.show(curves, "Engine process")
        self.query_one("#none").display = not self._rows

    def _row(self, index: int) -> "DevicePlots":
        if index not in self._rows:
            self._rows[index] = DevicePlots(self._view, _GAUGES if index >= 0 else _PROCESS)
            self._rows[index].set_class(index < 0, "-engine")
            self.mount(self._rows[index])
        return self._rows[index]


class Memory(Vertical):
    """Used memory of the accelerators, or of the engine process without one."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self._plot = Plot("Memory", view, unit="GiB")

    def compose(self) -> ComposeResult:
        yield self._plot

    def show(self, run: RunView) -> None:
        """Draw the current values."""
        devices = [
            (f"GPU {i}", device.gauges["memory_used"])
            for i, device in sorted(run.history.devices.items())
        ]
        memory = devices or [("engine", run.history.process["memory"])]
        totals = [device.memory_total or 0.0 for device in run.history.devices.values()]
        self._plot.show(
            [Curve(label, series, "main") for label, series in memory],
            _from_zero_to(max(totals, default=None)),
        )


def _from_zero_to(total: float | None) -> Extent | None:
    """Return the range of a memory gauge, if the total is known."""
    return (0.0, total) if total else None


class DevicePlots(Vertical):
    """Heading and a plot for each gauge of a device."""

    def __init__(self, view: View, gauges: Mapping[str, tuple[str, str, Extent | None]]) -> None:
        super().__init__()
        self._heading = Static(markup=False)
        self._plots = {
            name: Plot(title, view, bounds, unit) for name, (title, unit, bounds) in gauges.items()
        }

    def compose(self) -> ComposeResult:
        yield self._heading
        with Grid():
            yield from self._plots.values()

    def show(self, curves: dict[str, Curve], heading: str, memory: Extent | None = None) -> None:
        """Draw the curves of the gauges; `memory` is the range of the memory plot."""
        self._heading.update(heading, layout=False)
        for name, curve in curves.items():
            self._plots[name].show([curve], memory if name == "memory_used" else None)


def device_summary(index: int, device: Device) -> str:
    """Return an accelerator and its newest values in one line."""
    used, total = device.gauges["memory_used"].last, device.memory_total
    parts = [f"GPU {index}  {device.name}"]
    if used is not None:
        parts.append(f"{used:.1f}" + (f" of {total:.1f}" if total else "") + " GiB")
    for name, unit in (("utilisation", " %"), ("temperature", " °C"), ("power", " W")):
        if (value := device.gauges[name].last) is not None:
            parts.append(f"{value:.0f}{unit}")
    return "   ".join(parts)
