"""Helpers to wait for and read the text on the dashboard's screen."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from textual._compositor import LayoutUpdate
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


def screen_text(app: App[None]) -> str:
    """Return the text on the screen, row by row, as it would be sent to a terminal.

    An exported screenshot has the same text, but takes ten times as long.
    """
    rendered = app.screen._compositor.render_update(  # pyright: ignore[reportPrivateUsage]
        full=True,
        screen_stack=app._background_screens,  # pyright: ignore[reportPrivateUsage]
    )
    assert isinstance(rendered, LayoutUpdate)
    rows = ["".join(strip.text for strip in row) for row in rendered.strips]
    return "\n".join(row.replace("\xa0", " ").rstrip() for row in rows)


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
