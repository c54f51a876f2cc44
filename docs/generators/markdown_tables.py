"""Markdown tables with escaped cells."""

import html
import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"(`[^`]+`)")
_MARKS = re.compile(r"([\\*_\[\]])")


def escape(text: str) -> str:
    """Escape characters with a meaning in Markdown and HTML, except in code between backticks."""
    return "".join(
        part if _CODE.fullmatch(part) else _MARKS.sub(r"\\\1", html.escape(part, quote=False))
        for part in _CODE.split(text)
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are Markdown, in which only vertical bars are escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
