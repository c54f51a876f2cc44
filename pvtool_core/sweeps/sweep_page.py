"""The page of a sweep: its tables, and likeness against motion and prompt following as plots."""

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pvtool_core.report_page.curves import nice_ticks
from pvtool_core.report_page.markup import Html, element, join
from pvtool_core.report_page.numbers import known, number
from pvtool_core.report_page.page import write_document
from pvtool_core.sweeps.sweep_tables import Results, TextTable, notes_of, source_of, tables_of

WIDTH, HEIGHT = 440, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 16, 44
_COLOURS = 5
_MOTION = ("dynamic_flow", "motion", "dense_motion")


def write_sweep_page(results: Results, out: Path) -> None:
    """Write the results of a sweep as one HTML file that loads nothing else."""
    numbers = {row["name"]: place for place, row in enumerate(results["rows"])}
    tables = [_table(table, numbers) for table in tables_of(results)]
    plots = [
        _scatter(results, across, "likeness")
        for across in _axes(results)
        if "likeness" in results["metrics"]
    ]
    keys = element("p", element("kbd", "j"), " ", element("kbd", "k"), " next and previous row")
    figures = [element("h2", "Likeness against motion and prompts"), _legend(results)]
    figures.append(element("div", *plots, class_="scatters"))
    parts = [
        element(
            "header",
            element("h1", results["sweep"]),
            element("p", results["description"]),
            element("p", source_of(results)),
            *(element("p", note, class_="note") for note in notes_of(results)),
            class_="page",
        ),
        element(
            "main",
            *tables[:1],
            keys,
            *([element("section", *figures)] if plots else []),
            *tables[1:],
        ),
    ]
    script, style = (_own_file(f"sweep_page.{kind}") for kind in ("js", "css"))
    write_document(out, f"Sweep {results['sweep']}", parts, script=script, style=style)


def _own_file(name: str) -> str:
    return files("pvtool_core.sweeps").joinpath(name).read_text(encoding="utf-8")


def _legend(results: Results) -> Html:
    people = sorted({name for row in results["rows"] for name in row["identities"]})
    text = (
        "Each number is a row of the table, at its means, with their 95 % intervals. Small dots "
        f"are single identities: {', '.join(people)}."
    )
    return element("p", text)


def _axes(results: Results) -> list[str]:
    """Return the metrics that likeness is drawn against: one of motion, and prompt following."""
    motion = [name for name in _MOTION if name in results["metrics"]][:1]
    return [*motion, *(name for name in ("clip_t",) if name in results["metrics"])]


def _table(table: TextTable, numbers: Mapping[str, int]) -> Html:
    head = [element("th", name, scope="col") for name in table.columns]
    return element(
        "section",
        element("h2", table.title),
        element(
            "div",
            element(
                "table",
                element("thead", element("tr", *head)),
                element("tbody", *(_row(table, row, numbers.get(row[0])) for row in table.rows)),
                class_="rows",
            ),
            class_="scroll",
        ),
    )


def _row(table: TextTable, row: Sequence[str], place: int | None) -> Html:
    head = row[0] if place is None else join([_badge(place), row[0]])
    cells = (
        element("td", cell, data_label=column)
        for column, cell in zip(table.columns[1:], row[1:], strict=True)
    )
    about: dict[str, Any] = {} if place is None else {"data_row": str(place), "tabindex": "0"}
    return element("tr", element("th", head, scope="row"), *cells, **about)


def _badge(place: int) -> Html:
    return element("span", element("b", str(place)), class_=f"badge {_colour(place)}")


def _colour(place: int) -> str:
    """Return the class of a row's colour; the base model, which is the first, has its own."""
    return f"m{(place - 1) % _COLOURS + 1 if place else 0}"


def _scatter(results: Results, across: str, up: str) -> Html:
    """Return the plot of two metrics: a point with intervals for each row, and its identities."""
    labels = [results["metrics"][name]["label"] for name in (up, across)]
    rows = [
        (place, row)
        for place, row in enumerate(results["rows"])
        if {across, up} <= row["means"].keys()
    ]
    title = f"{labels[0]} against {labels[1]}"
    if not rows:
        return element("p", f"{title}: not measured", class_="missing")
    view = _View(nice_ticks(*_range(results, across)), nice_ticks(*_range(results, up)))
    marks = [*view.grid(), *(_marks(view, place, row, across, up) for place, row in rows)]
    middle = (HEIGHT - _BOTTOM + _TOP) / 2
    marks += [
        element(
            "text", f"{labels[1]} →", x=WIDTH - _RIGHT, y=HEIGHT - 8, text_anchor="end",
            class_="axis",
        ),
        element(
            "text", f"{labels[0]} →", x=12, y=middle, text_anchor="middle", class_="axis",
            transform=f"rotate(-90 12 {middle:g})",
        ),
    ]  # fmt: skip
    drawing = element("svg", *marks, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    return element("figure", element("figcaption", element("b", title)), drawing, class_="scatter")


def _range(results: Results, metric: str) -> tuple[float, float]:
    """Return the smallest and largest value of a metric in the plot."""
    means = [row["means"][metric] for row in results["rows"] if metric in row["means"]]
    values = known(each[end] for each in means for end in ("mean", "low", "high"))
    values += [
        own[metric]
        for row in results["rows"]
        for own in row["identities"].values()
        if metric in own
    ]
    return min(values), max(values)


class _View:
    """The mapping of values to the plot, by the ticks of both axes."""

    def __init__(self, across: Sequence[float], up: Sequence[float]) -> None:
        self._across, self._up = across, up

    def x(self, value: float) -> float:
        low, high = self._across[0], self._across[-1]
        return round(_LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self._up[0], self._up[-1]
        return round(HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)

    def grid(self) -> list[Html]:
        """Return lines and numbers at the ticks."""
        marks: list[Html] = []
        for tick in self._up:
            y, text = self.y(tick), number(tick, _decimals(self._up))
            line = element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid")
            label = element("text", text, x=_LEFT - 6, y=y + 4, text_anchor="end")
            marks += [line, label]
        for tick in self._across:
            x, text = self.x(tick), number(tick, _decimals(self._across))
            line = element("line", x1=x, x2=x, y1=_TOP, y2=HEIGHT - _BOTTOM, class_="grid")
            label = element("text", text, x=x, y=HEIGHT - _BOTTOM + 16, text_anchor="middle")
            marks += [line, label]
        return marks


def _decimals(ticks: Sequence[float]) -> int:
    return max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))


def _marks(view: _View, place: int, row: Mapping[str, Any], across: str, up: str) -> Html:
    """Return the point of a row, its intervals, and the points of its identities."""
    a, b = row["means"][across], row["means"][up]
    x, y = view.x(a["mean"]), view.y(b["mean"])
    marks = [
        element("circle", cx=view.x(own[across]), cy=view.y(own[up]), r=2.5, class_="one")
        for own in row["identities"].values()
        if {across, up} <= own.keys()
    ]
    if a["low"] is not None and a["high"] is not None:
        marks.append(element("line", x1=view.x(a["low"]), x2=view.x(a["high"]), y1=y, y2=y))
    if b["low"] is not None and b["high"] is not None:
        marks.append(element("line", x1=x, x2=x, y1=view.y(b["low"]), y2=view.y(b["high"])))
    marks.append(element("circle", cx=x, cy=y, r=9))
    marks.append(element("text", str(place), x=x, y=y + 4))
    marks.append(element("title", row["name"]))
    return element("g", *marks, class_=_colour(place), data_row=str(place))
