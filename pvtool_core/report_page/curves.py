"""Means over the steps of training as SVG, with their intervals as bands."""

import math
from collections.abc import Sequence

from pvtool_core.report_page.markup import Html, element, join
from pvtool_core.report_page.numbers import decimals, interval, known, number
from pvtool_core.report_page.report_format import (
    EvaluationReport,
    Interval,
    MetricInfo,
    definition,
)

WIDTH, HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 26
_TICKS = 4
_SAME = 1e-9  # smaller differences are those of rounding

Point = tuple[int, Interval]


def curves(report: EvaluationReport) -> Html:
    """Return a curve for each metric that some checkpoint has; empty without checkpoints."""
    checkpoints = report.get("checkpoints", ())
    measured = {name for checkpoint in checkpoints for name in checkpoint["means"]}
    reference = report["reference"] or ""
    base = report["methods"][reference]["means"] if reference in report["methods"] else {}
    figures: list[Html] = []
    for metric in [name for name in report["metrics"] if name in measured]:
        points = [
            (each["step"], each["means"][metric]) for each in checkpoints if metric in each["means"]
        ]
        level = base[metric]["mean"] if metric in base else None
        figures.append(_figure(definition(report, metric), points, level, reference))
    return join(figures)


def _figure(info: MetricInfo, points: Sequence[Point], level: float | None, name: str) -> Html:
    title = f"{info['label']} (reward)" if info["reward"] else info["label"]
    note = [element("small", f"dashed: {name}")] if level is not None else []
    drawing = draw(sorted(points, key=lambda point: point[0]), level, title)
    return element(
        "figure",
        element("figcaption", element("b", title), " ", *note),
        drawing,
        element("details", element("summary", "Values"), _values(points)),
        class_="curve",
    )


def _values(points: Sequence[Point]) -> Html:
    places = decimals(
        value for _, each in points for value in (each["mean"], each["low"], each["high"])
    )
    rows = [
        element(
            "tr",
            element("th", str(step), scope="row"),
            element("td", number(each["mean"], places)),
            element("td", interval(each["low"], each["high"], places)),
        )
        for step, each in points
    ]
    head = (element("th", name, scope="col") for name in ("Step", "Mean", "95 % interval"))
    return element("table", element("tr", *head), *rows, class_="plain")


def draw(points: Sequence[Point], level: float | None, title: str) -> Html:
    """Return the SVG of points in order of their steps; `level` is drawn as a dashed line."""
    shown = [(step, each) for step, each in points if known([each["mean"]])]
    ends = known(
        value for _, each in shown for value in (each["mean"], each["low"], each["high"])
    ) + known([level])
    if not shown:
        return element("p", "not measured", class_="missing")
    ticks = nice_ticks(min(ends), max(ends))
    low, high = ticks[0], ticks[-1]
    first, last = shown[0][0], shown[-1][0]

    def x(step: float) -> float:
        part = (step - first) / (last - first) if last > first else 0.5
        return _LEFT + part * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    places = max(0, -math.floor(math.log10(ticks[1] - ticks[0])))
    marks = [
        join(
            [
                element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y(tick), y2=y(tick), class_="grid"),
                element(
                    "text", number(tick, places), x=_LEFT - 6, y=y(tick) + 4, text_anchor="end"
                ),
            ]
        )
        for tick in ticks
    ]
    for step in step_ticks(first, last):
        marks.append(element("text", str(step), x=x(step), y=HEIGHT - 8, text_anchor="middle"))
    if level is not None and known([level]):
        marks.append(
            element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y(level), y2=y(level), class_="level")
        )
    for run in _with_intervals(shown):
        upper = [f"{x(step):.1f},{y(each['high'] or 0):.1f}" for step, each in run]
        lower = [f"{x(step):.1f},{y(each['low'] or 0):.1f}" for step, each in reversed(run)]
        marks.append(element("polygon", points=" ".join(upper + lower), class_="band"))
    line = " ".join(f"{x(step):.1f},{y(each['mean']):.1f}" for step, each in shown)
    marks.append(element("polyline", points=line, class_="line"))
    marks += [
        element("circle", cx=x(step), cy=y(each["mean"]), r=2.5, class_="dot")
        for step, each in shown
    ]
    return element(
        "svg", *marks, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title} by step"
    )


def _with_intervals(points: Sequence[Point]) -> list[list[Point]]:
    """Return the runs of consecutive points that have intervals."""
    runs: list[list[Point]] = [[]]
    for step, each in points:
        if len(known((each["low"], each["high"]))) == 2:
            runs[-1].append((step, each))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def step_ticks(first: int, last: int) -> list[int]:
    """Return round steps from the first to the last one."""
    if first == last:
        return [first]
    whole = {round(tick) for tick in nice_ticks(first, last)}
    return sorted(tick for tick in whole if first <= tick <= last)


def nice_ticks(low: float, high: float) -> list[float]:
    """Return at least two round values that enclose both: multiples of 1, 2 or 5 times 10^n."""
    size = max(abs(low), abs(high))
    width = high - low if high - low > _SAME * size else size
    width = width if width > _SAME else 1.0
    scale = 10.0 ** math.floor(math.log10(width / _TICKS))
    step = next(factor * scale for factor in (1, 2, 5, 10) if factor * scale * _TICKS >= width)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [place * step for place in range(first, max(last, first + 1) + 1)]
