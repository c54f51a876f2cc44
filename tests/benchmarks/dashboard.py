"""Measure the dashboard: milliseconds during which it cannot handle keys, and memory.

    python -m tests.benchmarks.dashboard


Values are medians of several repeats; each row shows its limit. Textual runs without a terminal.
"""

import asyncio
import gc
import math
import os
import random
import statistics
import time
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import psutil
from textual.app import App, ComposeResult
from textual.containers import Grid
from textual.pilot import Pilot

from pvtool.dashboard.plot.paint import Painter
from pvtool.dashboard.plot.raster import configured_glyphs
from pvtool.dashboard.plot.series import Series
from pvtool.dashboard.plot.view import Curve, View
from pvtool.dashboard.widgets.plot import Plot

TURNS = 7


@dataclass(frozen=True)
class Row:
    """One row of the table: the measured quantity, its value, unit and limit."""

    what: str
    value: float
    unit: str
    most: float


def noisy_series(points: int, seed: int = 0) -> Series:
    draw = random.Random(seed)
    series = Series()
    for step in range(points):
        series.append(step, 1e9 + step * 2.5, 1 - math.exp(-3 * step / points) + draw.gauss(0, 0.1))
    return series


def smoothed(series: Series) -> Series:
    series.smooth(0.9, len(series))
    return series


def milliseconds(turn: Callable[[], object]) -> float:
    taken: list[float] = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        turn()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1000


def two_curves(points: int) -> list[Curve]:
    """Return a curve and an overlaid one."""
    return [
        Curve("icr", smoothed(noisy_series(points, 1))),
        Curve("other", smoothed(noisy_series(points, 2)), "overlay"),
    ]


def paint(curves: list[Curve], width: int, height: int) -> None:
    Painter(curves, viewed(curves), (0, 1), False, configured_glyphs(), width, height).paint()


def viewed(curves: list[Curve]) -> View:
    view = View()
    view.range = 0.0, curves[0].series.steps[-1]
    return view


def paint_rows(points: int, most: float) -> list[Row]:
    curves = two_curves(points)
    paint(curves, 38, 7)  # computes the extremes of all blocks, once
    what = f"paint 2 curves of {points:.0e} steps"
    return [
        Row(f"{what}, {size[0]}×{size[1]}", milliseconds(partial(paint, curves, *size)), "ms", most)
        for size in ((38, 7), (120, 20), (290, 60))
    ]


def append_row(points: int) -> Row:
    curves = two_curves(points)
    series = curves[0].series
    paint(curves, 120, 20)

    def turn() -> None:
        series.append(len(series), 1e9 + len(series) * 2.5, 0.5)
        smoothed(series)
        paint(curves, 120, 20)

    return Row(f"append to {points:.0e} steps and paint, 120×20", milliseconds(turn), "ms", 10)


def load_row(points: int) -> Row:
    return Row(f"append {points:.0e} steps", milliseconds(lambda: noisy_series(points)), "ms", 400)


def memory_row(points: int, count: int) -> Row:
    tracemalloc.start()
    kept = [smoothed(noisy_series(points, seed)) for seed in range(count)]
    for series in kept:
        series.raw.extent(0, points)
        if series.smoothed:
            series.smoothed.track.extent(0, points)
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Row(f"{count} series of {points:.0e} steps, smoothed", size / 1e6, "MB", 30)


class Plots(App[None]):
    """Six plots of two curves on one screen."""

    CSS = "Grid { grid-size: 2 3; }"

    def __init__(self, curves: list[list[Curve]]) -> None:
        super().__init__()
        self.view, self.all_curves = View(), curves

    def compose(self) -> ComposeResult:
        yield Grid(*(Plot("reward", self.view, (0, 1)) for _ in self.all_curves))

    def on_mount(self) -> None:
        for plot, curves in zip(self.query(Plot), self.all_curves, strict=True):
            plot.show(curves)


@asynccontextmanager
async def blocked_times() -> AsyncGenerator[list[float]]:
    """Measure how long the event loop is blocked, in milliseconds, about every millisecond."""
    away: list[float] = []

    async def watch() -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            away.append((time.perf_counter() - begun) * 1000 - 1)

    watcher = asyncio.create_task(watch())
    try:
        yield away
    finally:
        watcher.cancel()


async def loop_row(
    what: str, pilot: Pilot[None], do: Callable[[], Awaitable[object]], most: float
) -> Row:
    """Measure the longest blocking of the event loop after `do`, as median of several repeats."""
    worst: list[float] = []
    for _ in range(TURNS):
        async with blocked_times() as away:
            await do()
            await asyncio.sleep(1.0)
            worst.append(max(away))
    return Row(what, statistics.median(worst), "ms", most)


async def six_plots(points: int) -> list[Row]:
    app = Plots([two_curves(points) for _ in range(6)])
    async with app.run_test(size=(300, 80)) as pilot:
        app.query(Plot).first().focus()
        await pilot.pause(2)
        title = f"six plots of 2 × {points:.0e} steps, 300×80"
        return [
            await loop_row(f"{title}: change smoothing", pilot, lambda: pilot.press("m"), 100),
            await loop_row(f"{title}: zoom", pilot, lambda: pilot.press("plus"), 100),
            await loop_row(f"{title}: cursor", pilot, lambda: pilot.press("comma"), 100),
        ]


def show(rows: list[Row]) -> None:
    for row in rows:
        verdict = "" if row.value <= row.most else "  over the limit"
        print(f"{row.what:58} {row.value:9.2f} {row.unit:3} (limit {row.most:g}){verdict}")


def main() -> None:
    print(f"{os.cpu_count()} cores, load {psutil.getloadavg()[0]:.1f}; medians of {TURNS}\n")
    show([load_row(100_000), memory_row(100_000, 10)])
    show(paint_rows(100_000, 20))
    show(paint_rows(1_000_000, 100))
    show([append_row(100_000)])
    show(asyncio.run(six_plots(100_000)))


if __name__ == "__main__":
    main()
