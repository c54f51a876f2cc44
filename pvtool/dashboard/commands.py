"""Command palette: keys, runs and identities, found by any of their words."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

from textual.app import App
from textual.binding import Binding
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.screen import Screen
from textual.widget import Widget

from pvtool.dashboard import keys
from pvtool.dashboard.follow.all_runs import Runs
from pvtool_core.errors import PvError
from pvtool_core.store.identities import Library
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import RunSummary


class CommandsApp(Protocol):
    """Application as the commands use it."""

    runs: Runs
    summaries: list[RunSummary] | None

    def open(self, folder: RunFolder) -> None: ...

    def show(self, identity: str) -> None: ...


@dataclass(frozen=True)
class Command:
    """An entry: its name, the line below, other words that find it, and its effect."""

    name: str
    help: str
    words: str
    run: Callable[[], Any]
    listed: bool = True  # before anything is typed

    def score(self, query: str) -> float:
        """Return how well the words of a query match, all of them by beginnings."""
        wanted = query.lower().split()
        texts = (self.name, f"{self.name} {self.words}", f"{self.name} {self.words} {self.help}")
        for text, score in zip(texts, (1.0, 0.9, 0.6), strict=True):
            found = text.lower().replace("-", " ").split()
            if all(any(word.startswith(each) for word in found) for each in wanted):
                exact = all(each in found for each in wanted)
                return score + 0.1 * exact - 0.3 * (not self.listed)
        return 0.0


class Commands(Provider):
    """Commands of the current screen, then keys of other places, runs and identities."""

    async def startup(self) -> None:
        """Read the names of the identities."""
        try:
            names = await asyncio.to_thread(Library().names)
        except (PvError, OSError):  # reported by the screen of identities
            names = []
        app = cast("CommandsApp", self.app)
        self._commands = [
            *key_commands(self.app, self.screen),
            *run_commands(app),
            *(
                Command(f"Identity: {name}", "Show this identity", "", partial(app.show, name))
                for name in names
            ),
        ]

    async def discover(self) -> Hits:
        """Yield the commands that are listed before anything is typed."""
        for command in self._commands:
            if command.listed:
                yield DiscoveryHit(command.name, command.run, help=command.help)

    async def search(self, query: str) -> Hits:
        """Yield the commands that have the words of a query, or else those with its letters."""
        matcher = self.matcher(query)
        scored = [(command.score(query), command) for command in self._commands]
        if not any(score for score, _ in scored):
            scored = [(matcher.match(command.name), command) for command in self._commands]
        for score, command in scored:
            if score:
                yield Hit(score, matcher.highlight(command.name), command.run, help=command.help)


def key_commands(app: App[Any], screen: Screen[object]) -> Iterator[Command]:
    """Yield a command for each key: those of the current place act, others say where they do."""
    here = active_groups(screen)
    seen: set[str] = set()
    for group in [*here, *(name for name in keys.GROUPS if name not in here)]:
        for binding in keys.GROUPS[group]:
            if not isinstance(binding, Binding) or binding.tooltip in seen:
                continue
            seen.add(binding.tooltip)
            names = keys.display_names(binding.key)
            run = (
                partial(run_on_target, app, screen, screen.focused, binding.action)
                if group in here
                else partial(app.notify, f"{group}: key {names}", title=binding.tooltip)
            )
            words = f"{binding.description} {keys.words_for(binding.action)}"
            if not binding.action.startswith("command_palette"):
                yield Command(binding.tooltip, f"{group}, key {names}", words, run, group in here)


def run_commands(app: CommandsApp) -> Iterator[Command]:
    """Yield a command for each run."""
    for run in app.summaries or []:
        details = f"Open this run: {run.state}, step {run.step}/{run.iterations}, {run.preset}"
        show = partial(app.open, app.runs.folder(run.run))
        yield Command(f"Run: {run.run}", details, run.identity, show)


async def run_on_target(
    app: App[Any], screen: Screen[object], focused: Widget | None, action: str
) -> None:
    """Run an action on the focused widget, the screen or the application that has it."""
    method = f"action_{action.partition('(')[0].rpartition('.')[2]}"
    for target in (focused, screen, app):
        if target and hasattr(target, method):
            await target.run_action(action)
            return


def active_groups(screen: Screen[object]) -> list[str]:
    """Return the groups of keys active on a screen, those of the focused widget first."""
    tables = [widget.BINDINGS for widget in (screen.focused, screen) if widget]
    return [
        name
        for table in [*tables, keys.APP]
        for name, group in keys.GROUPS.items()
        if group is table
    ]
