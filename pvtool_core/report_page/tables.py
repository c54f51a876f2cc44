"""Tables of means with intervals, of identities, and of definitions."""

from collections.abc import Iterable, Mapping, Sequence

from pvtool_core.report_page.markup import Html, element, join
from pvtool_core.report_page.numbers import decimals, interval, known, number
from pvtool_core.report_page.report_format import (
    Difference,
    EvaluationReport,
    Interval,
    Mean,
    MetricInfo,
    definition,
    ordered_methods,
)

COLOURS = 6
_PLOT_WIDTH, _PLOT_LINE = 140, 11
_DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", "": ""}


def swatch(number_: int) -> Html:
    """Return a spot in the colour of a method."""
    return element("span", class_=f"swatch m{number_ % COLOURS}", aria_hidden="true")


def results(report: EvaluationReport) -> Html:
    """Return the main table: a row per metric, and columns of means and differences."""
    methods = ordered_methods(report)
    compared = [name for name in methods if "differences" in report["methods"][name]]
    head = [
        element("th", "Metric", scope="col"),
        *(
            element("th", swatch(place), element("bdi", name), scope="col")
            for place, name in enumerate(methods)
        ),
        *(
            element(
                "th",
                element("bdi", name),
                " − ",
                element("bdi", str(report["reference"])),
                scope="col",
            )
            for name in compared
        ),
        element("th", "Intervals", scope="col", class_="plot"),
    ]
    measured = _measured(report["methods"][name]["means"] for name in methods)
    order = [*report["metrics"], *measured]
    judged = [name for name in dict.fromkeys(order) if name in measured]
    rewards = [name for name in judged if definition(report, name)["reward"]]
    judges = [name for name in judged if name not in rewards]
    groups = [
        ("Scores of clips", [_row(report, name, methods, compared) for name in judges]),
        (
            f"Distances of sets of clips from {report.get('fvd_reference', report['reference'])}",
            _set_rows(report, methods, len(compared)),
        ),
        (
            "Rewards: optimised in training, so not evidence of quality",
            [_row(report, name, methods, compared) for name in rewards],
        ),
    ]
    body = [
        element(
            "tbody",
            element("tr", element("th", title, colspan=len(head), scope="rowgroup")),
            *rows,
        )
        for title, rows in groups
        if rows
    ]
    return _table("Results by method", element("thead", element("tr", *head)), *body)


def _measured(columns: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for column in columns for name in column))


def _row(
    report: EvaluationReport, metric: str, methods: Sequence[str], compared: Sequence[str]
) -> Html:
    info = definition(report, metric)
    means = {name: report["methods"][name]["means"].get(metric) for name in methods}
    differences = {
        name: report["methods"][name].get("differences", {}).get(metric) for name in compared
    }
    there = [each for each in (*means.values(), *differences.values()) if each]
    places = decimals(
        value for each in there for value in (each["mean"], each["low"], each["high"])
    )
    return element(
        "tr",
        metric_heading(info, "row"),
        *(_mean(name, report, mean, places) for name, mean in means.items()),
        *(_difference(name, report, each, info, places) for name, each in differences.items()),
        element("td", interval_plot(list(means.values())), class_="plot"),
    )


def metric_heading(info: MetricInfo, scope: str) -> Html:
    """Return the heading of a metric's row or column."""
    direction = element("small", _DIRECTIONS[info["better"]]) if info["better"] else ""
    return element("th", info["label"], direction, scope=scope)


def _mean(method: str, report: EvaluationReport, mean: Mean | None, places: int) -> Html:
    if mean is None:
        return element("td", "not measured", data_label=method, class_="missing")
    total = report["methods"][method]["clips"]
    some = f"{mean['clips']} of {total} clips" if mean["clips"] != total else ""
    details = _details(interval(mean["low"], mean["high"], places), some)
    value = element("div", element("b", number(mean["mean"], places)), *details)
    return element("td", value, data_label=method)


def _difference(
    method: str,
    report: EvaluationReport,
    difference: Difference | None,
    info: MetricInfo,
    places: int,
) -> Html:
    label = f"{method} − {report['reference']}"
    if difference is None:
        return element("td", "not measured", data_label=label, class_="missing")
    verdict = _verdict(difference, info)
    interval_text = interval(difference["low"], difference["high"], places, signed=True)
    details = _details(interval_text, verdict)
    return element(
        "td",
        element("div", element("b", number(difference["mean"], places, signed=True)), *details),
        data_label=label,
        class_=verdict.partition(" ")[0],
    )


def _verdict(difference: Difference, info: MetricInfo) -> str:
    if not difference["significant"]:
        return "not significant"
    if not info["better"] or info["reward"]:
        return "significant"
    return "better" if (difference["mean"] > 0) == (info["better"] == "higher") else "worse"


def _details(*lines: str) -> list[str]:
    return [part for line in lines if line for part in (" ", element("small", line))]


def _set_rows(report: EvaluationReport, methods: Sequence[str], compared: int) -> list[Html]:
    sets = {name: report["methods"][name].get("sets", {}) for name in methods}
    rows: list[Html] = []
    for metric in _measured(sets.values()):
        values = {name: column.get(metric) for name, column in sets.items()}
        places = decimals(values.values())
        cells = [
            element("td", element("b", number(value, places)), data_label=name)
            if value is not None
            else element("td", class_="empty")
            for name, value in values.items()
        ]
        empty = element("td", class_="empty", colspan=compared + 1)
        rows.append(element("tr", metric_heading(definition(report, metric), "row"), *cells, empty))
    return rows


def interval_plot(means: Sequence[Interval | None]) -> Html:
    """Return the means and intervals of one row as dots and lines on a common axis, as SVG."""
    ends = known(
        value for each in means if each for value in (each["mean"], each["low"], each["high"])
    )
    low, high = min(ends, default=0.0), max(ends, default=0.0)

    def x(value: float) -> float:
        return 6 + (_PLOT_WIDTH - 12) * ((value - low) / (high - low) if high > low else 0.5)

    marks: list[Html] = []
    for line, each in enumerate(means):
        if each is None or not known([each["mean"]]):
            continue
        y, colour = (line + 0.5) * _PLOT_LINE, f"m{line % COLOURS}"
        if len(ends_of := known((each["low"], each["high"]))) == 2:
            left, right = map(x, ends_of)
            marks.append(element("line", x1=left, x2=right, y1=y, y2=y, class_=colour))
        marks.append(element("circle", cx=x(each["mean"]), cy=y, r=3.5, class_=colour))
    height = len(means) * _PLOT_LINE
    return element(
        "svg",
        *marks,
        viewBox=f"0 0 {_PLOT_WIDTH} {height}",
        width=_PLOT_WIDTH,
        height=height,
        aria_hidden="true",  # the numbers are in the same row
    )


def identities(report: EvaluationReport, photos: Mapping[str, Html]) -> Html:
    """Return the table of means by identity and method; `photos` are images by identity."""
    methods = ordered_methods(report)
    named = [each["methods"] for each in report["identities"].values()]
    measured = _measured(column for by_method in named for column in by_method.values())
    metrics = [name for name in dict.fromkeys([*report["metrics"], *measured]) if name in measured]
    places = {
        metric: decimals(column.get(metric) for by_method in named for column in by_method.values())
        for metric in metrics
    }
    head = element(
        "tr",
        element("th", "Identity", scope="col"),
        element("th", "Method", scope="col"),
        *(metric_heading(definition(report, metric), "col") for metric in metrics),
    )
    bodies: list[Html] = []
    for name, scores in report["identities"].items():
        shown = [method for method in methods if method in scores["methods"]]
        rows = [
            [
                element("th", swatch(methods.index(method)), element("bdi", method), scope="row"),
                *(
                    element(
                        "td",
                        number(scores["methods"][method].get(metric), places[metric]),
                        data_label=definition(report, metric)["label"],
                    )
                    for metric in metrics
                ),
            ]
            for method in shown
        ]
        heading = element(
            "th",
            photos.get(name, ""),
            element("bdi", name),
            _ceiling(scores.get("photos", {}).get("ceiling")),
            scope="rowgroup",
            rowspan=len(rows),
            class_="identity",
        )
        lines = [
            element("tr", *([heading] if not place else []), *row) for place, row in enumerate(rows)
        ]
        bodies.append(element("tbody", *lines))
    return _table("Means by identity", element("thead", head), *bodies)


def _ceiling(value: float | None) -> Html:
    if value is None:
        return Html()
    return element("small", f"photos {number(value, 3)}")


def _table(caption: str, *parts: Html) -> Html:
    table = element("table", element("caption", caption), *parts)
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)


def scores(
    report: EvaluationReport, columns: Sequence[tuple[str, Mapping[str, float | None]]]
) -> Html:
    """Return the table of all scores of a few clips, one column each."""
    metrics = _measured(column for _, column in columns)
    ordered = [name for name in dict.fromkeys([*report["metrics"], *metrics]) if name in metrics]
    rows: list[Html] = []
    for metric in ordered:
        places = decimals(column.get(metric) for _, column in columns)
        cells = (element("td", number(column.get(metric), places)) for _, column in columns)
        info = definition(report, metric)
        label = f"{info['label']} (reward)" if info["reward"] else info["label"]
        rows.append(element("tr", element("th", label, scope="row"), *cells))
    names = (element("th", element("bdi", name), scope="col") for name, _ in columns)
    head = element("tr", element("td"), *names)
    return element("table", element("thead", head), element("tbody", *rows), class_="plain")


def skipped(report: EvaluationReport) -> Html:
    """Return the list of metrics that were not measured, with the commands that help."""
    items = [
        element(
            "li",
            element("b", definition(report, name)["label"]),
            f": {each['reason']} ",
            *([element("code", each["command"])] if each["command"] else []),
        )
        for name, each in report.get("skipped", {}).items()
    ]
    return element("ul", *items)


def definitions(report: EvaluationReport) -> Html:
    """Return the definitions of all metrics with the hashes of their weights."""
    return element("dl", *(_definition(name, info) for name, info in report["metrics"].items()))


def _definition(name: str, info: MetricInfo) -> Html:
    facts = [_DIRECTIONS[info["better"]], "optimised in training" if info["reward"] else ""]
    weights = [
        element("li", f"{file} ", element("code", digest))
        for file, digest in info["weights"].items()
    ]
    return join(
        [
            element("dt", info["label"], " ", element("code", name)),
            element(
                "dd",
                " ".join(map(_sentence, filter(None, (info["description"], *facts)))),
                element("ul", *weights) if weights else "",
            ),
        ]
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
