"""Reads what a person would see on the dashboard's screen."""

import html
import re
from collections.abc import Callable

from textual.app import App
from textual.pilot import Pilot

_TEXT = re.compile(r'<text [^>]*?x="([\d.]+)" y="([\d.]+)"[^>]*clip-path[^>]*>(.*?)</text>')  # not the window's title
_CELL_WIDTH = 12.2
_CELL_HEIGHT = 24.4


def seen(app: App[None]) -> str:
    """The text on the screen, row by row, each word at its column."""
    rows = [""] * app.size.height
    for x, y, text in _TEXT.findall(app.export_screenshot()):
        row = int(float(y) / _CELL_HEIGHT)
        rows[row] = rows[row].ljust(round(float(x) / _CELL_WIDTH)) + html.unescape(text).replace("\xa0", " ")
    return "\n".join(row.rstrip() for row in rows)


async def until(pilot: Pilot[None], holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until something holds; fail with what is on the screen if it does not."""
    for _ in range(round(seconds / 0.05)):
        if holds():
            return
        await pilot.pause(0.05)
    raise AssertionError(f"in vain: {seen(pilot.app)}")


async def until_seen(pilot: Pilot[None], *words: str, seconds: float = 10.0) -> None:
    """Wait until all the words are on the screen."""
    await until(pilot, lambda: all(word in seen(pilot.app) for word in words), seconds)
