"""The results of a sweep as tables of text: for terminals, Markdown and the page; and as CSV."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pvtool_core.report_page.numbers import decimals, interval, number

Results = Mapping[str, Any]
NOT_SIGNIFICANT = "n.s."
RESULTS, CSV, MARKDOWN, PAGE = "results.json", "results.csv", "results.md", "results.html"
"""Files of a sweep."""


@dataclass(frozen=True)
class TextTable:
    """A table of text under a title; all rows have as many cells as there are columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(results: Results) -> list[TextTable]:
    """Return the tables of results: means, differences, and the agreement with a paper."""
    found = [means_table(results), differences_table(results), order_table(results)]
    return [table for table in found if table.rows and len(table.columns) > 1]


def means_table(results: Results) -> TextTable:
    """Return the means of each row with 95 % intervals, and the paper's figures beside them."""
    columns = _columns(results)
    places = {name: _places(results, name) for name in results["metrics"]}
    rows: list[tuple[str, ...]] = []
    for row in results["rows"]:
        cells = [
            _mean(row["means"].get(name), places[name]) if ours else _figure(row["paper"].get(name))
            for ours, name, _ in columns
        ]
        rows.append((row["name"], *cells))
    for name, figures in results["paper"]["other_rows"].items():
        cells = ["" if ours else _figure(figures.get(column)) for ours, column, _ in columns]
        rows.append((name, *cells))
    title = "Means with 95 % intervals"
    return TextTable(title, ("", *(heading for _, _, heading in columns)), tuple(rows))


def differences_table(results: Results) -> TextTable:
    """Return the differences from the reference row; `n.s.`: not significant."""
    metrics = results["metrics"]
    rows = [
        (row["name"], *(_difference(row["differences"].get(name)) for name in metrics))
        for row in results["rows"]
        if row["differences"]
    ]
    title = f"Differences from {results['reference']}, over pairs of equal clips"
    return TextTable(title, ("", *(each["label"] for each in metrics.values())), tuple(rows))


def order_table(results: Results) -> TextTable:
    """Return how many pairs of rows differ in the direction in which the paper's figures do."""
    rows: list[tuple[str, ...]] = []
    for column, pairs in results["paper"]["order"].items():
        metric = results["paper"]["columns"][column]
        label = results["metrics"].get(metric, {}).get("label", metric)
        if pairs:
            counts = [sum(each["agrees"] is way for each in pairs) for way in (True, False, None)]
            rows.append((f"{column} ({label})", *map(str, counts)))
    columns = ("", "as in the paper", "opposite", "not significant")
    return TextTable("Pairs of rows in the order of the paper", columns, tuple(rows))


def notes_of(results: Results) -> list[str]:
    """Return sentences about what is missing from the tables."""
    notes: list[str] = []
    done, total = results["cells"]["done"], results["cells"]["total"]
    if done < total:
        shown = "; ".join(results["missing"][:5])
        more = f"; and {total - done - 5} more" if total - done > 5 else ""
        notes.append(f"{done} of {total} cells are complete. Missing: {shown}{more}.")
    if alarms := results["alarms"]:
        shown = "; ".join(f"{cell}: {' '.join(each)}" for cell, each in list(alarms.items())[:5])
        more = f"; and {len(alarms) - 5} more" if len(alarms) > 5 else ""
        notes.append(f"{len(alarms)} of {done} cells raise alarms: {shown}{more}")
    for name, reason in results["skipped"].items():
        notes.append(f"Skipped {name}: {reason}")
    return notes


def source_of(results: Results) -> str:
    """Return a sentence about the source of the paper's figures; empty without one."""
    source = results["paper"]["source"]
    return f"Figures of the paper: {source}" if source else ""


def markdown(results: Results) -> str:
    """Return the results as Markdown."""
    parts = [f"# {results['sweep']}"]
    parts += [_escape(results["description"])] if results["description"] else []
    for table in tables_of(results):
        head = [_line(map(_escape, table.columns)), _line("---" for _ in table.columns)]
        body = [_line([_escape(row[0]), *row[1:]]) for row in table.rows]
        parts += [f"## {_escape(table.title)}", "\n".join([*head, *body])]
    parts += [_escape(source_of(results))]
    parts += ["\n".join(f"- {_escape(note)}" for note in notes_of(results))]
    return "\n\n".join(filter(None, parts)) + "\n"


def comma_separated(results: Results) -> str:
    """Return the results as CSV, a line for each number: a mean, a difference or the paper's."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "kind", "metric", "value", "low", "high", "clips", "significant"])
    for row in results["rows"]:
        for kind, key in (("mean", "means"), ("difference", "differences")):
            for name, each in row[key].items():
                count = each["clips"] if kind == "mean" else each["pairs"]
                numbers = [each["mean"], each["low"], each["high"], count]
                writer.writerow([row["name"], kind, name, *numbers, each.get("significant", "")])
        _write_paper(writer, row["name"], row["paper"])
    for name, figures in results["paper"]["other_rows"].items():
        _write_paper(writer, name, figures)
    return out.getvalue()


def _write_paper(writer: Any, row: str, figures: Mapping[str, float]) -> None:
    for column, value in figures.items():
        writer.writerow([row, "paper", column, value, "", "", "", ""])


def _columns(results: Results) -> list[tuple[bool, str, str]]:
    """Return the columns: whether it is ours, its metric or column, and its heading.

    Those of the paper follow their metric, and those without one are last.
    """
    of_metric: dict[str | None, list[str]] = {}
    for column, metric in results["paper"]["columns"].items():
        known = metric if metric in results["metrics"] else None
        of_metric.setdefault(known, []).append(column)
    found: list[tuple[bool, str, str]] = []
    for name, each in results["metrics"].items():
        found.append((True, name, each["label"]))
        found += [(False, column, f"{column}, paper") for column in of_metric.get(name, ())]
    return found + [(False, column, f"{column}, paper") for column in of_metric.get(None, ())]


def _places(results: Results, metric: str) -> int:
    means = [row["means"].get(metric) for row in results["rows"]]
    return decimals(each["mean"] for each in means if each)


def _mean(mean: Mapping[str, Any] | None, places: int) -> str:
    if mean is None:
        return ""
    text = f"{number(mean['mean'], places)} {interval(mean['low'], mean['high'], places)}"
    return text.rstrip()


def _difference(change: Mapping[str, Any] | None) -> str:
    if change is None:
        return ""
    mean, low, high = change["mean"], change["low"], change["high"]
    places = decimals((mean, low, high))
    text = f"{number(mean, places, signed=True)} {interval(low, high, places, signed=True)}"
    return text.rstrip() if change["significant"] else f"{text.rstrip()} {NOT_SIGNIFICANT}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


_SPECIAL = str.maketrans({each: f"\\{each}" for each in "\\`*_[]<>|"})


def _escape(text: str) -> str:
    return text.translate(_SPECIAL)
