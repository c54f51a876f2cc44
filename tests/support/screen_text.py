"""Helpers to wait for and read the text on the dashboard's screen."""

import html
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from textual.app import App
from textual.css.query import NoMatches
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widget import Widget

from pvtool.dashboard.app import Dashboard
from pvtool.terminal import Pictures, Terminal
from pvtool_core.paths import runs_dir
from pvtool_core.store.runs import RunFolder

S = TypeVar("S", bound=Screen[Any])
W = TypeVar("W", bound=Widget)

_TEXT = re.compile(
    r'<text [^>]*?x="([\d.]+)" y="([\d.]+)"[^>]*clip-path[^>]*>(.*?)</text>'
)  # except the title of the window
_CELL_WIDTH = 12.2
_CELL_HEIGHT = 24.4


def screen_text(app: App[None]) -> str:
    """Return the text on the screen, row by row, with words at their columns."""
    rows = [""] * app.size.height
    for x, y, text in _TEXT.findall(app.export_screenshot()):
        row = int(float(y) / _CELL_HEIGHT)
        rows[row] = rows[row].ljust(round(float(x) / _CELL_WIDTH)) + html.unescape(text).replace(
            "\xa0", " "
        )
    return "\n".join(row.rstrip() for row in rows)


async def until(pilot: Pilot[None], holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until a condition holds; fail with the text on the screen otherwise.

    Missing widgets, or widgets below a dialog, count as not ready.
    """
    for _ in range(round(seconds / 0.05)):
        with suppress(NoMatches):
            if holds():
                return
        await pilot.pause(0.05)
    raise AssertionError(f"timed out; on the screen:\n{screen_text(pilot.app)}")


async def until_screen(pilot: Pilot[None], kind: type[S]) -> S:
    """Wait until a screen of this class is on top, and return it."""
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))
    screen = pilot.app.screen
    assert isinstance(screen, kind)
    return screen


async def until_found(pilot: Pilot[None], kind: type[W], selector: str = "") -> W:
    """Wait until the top screen has a matching widget, and return it."""
    await until(pilot, lambda: _found(pilot, kind, selector))
    return _found(pilot, kind, selector)


def _found(pilot: Pilot[None], kind: type[W], selector: str) -> W:
    return (
        pilot.app.screen.query_one(selector, kind) if selector else pilot.app.screen.query_one(kind)
    )


async def until_seen(pilot: Pilot[None], *texts: str, seconds: float = 10.0) -> None:
    """Wait until all texts are on the screen."""
    await until(pilot, lambda: all(text in screen_text(pilot.app) for text in texts), seconds)


def dashboard(run: RunFolder | None = None) -> Dashboard:
    """Return the dashboard of the test's home, without images."""
    return Dashboard(
        Terminal(Pictures.OFF, tmux=False, colours="truecolor", cell=(10, 20)), runs_dir(), run
    )
