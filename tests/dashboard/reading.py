"""Reads what a person would see on the dashboard's screen."""

import html
import re
from collections.abc import Callable
from itertools import groupby

from textual.app import App
from textual.pilot import Pilot

_ROW = re.compile(r'<text [^>]*?y="([\d.]+)"[^>]*>(.*?)</text>')


def seen(app: App[None]) -> str:
    """The text on the screen, row by row."""
    found = _ROW.findall(app.export_screenshot())
    rows = ["".join(text for _, text in row) for _, row in groupby(found, key=lambda cell: cell[0])]
    return html.unescape("\n".join(rows)).replace("\xa0", " ")


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
