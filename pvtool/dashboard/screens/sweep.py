"""Screen of the tables of a sweep, which `pv sweep` writes while it works."""

import asyncio
from collections.abc import Sequence

from textual import work
from textual.app import ComposeResult
from textual.containers import ScrollableContainer
from textual.widgets import Static

from pvtool.dashboard import keys
from pvtool.dashboard.screens.base import PollingScreen
from pvtool.dashboard.widgets.key_footer import KeyFooter
from pvtool.tables import Table
from pvtool.text import plain_lines
from pvtool_core.paths import sweeps_dir
from pvtool_core.untrusted import parse_json, read_regular

_MOST_BYTES = 1 << 26


class SweepScreen(PollingScreen):
    """The tables of a sweep, and of other sweeps that use the same run."""

    BINDINGS = keys.SWEEP
    DEFAULT_CSS = """
    SweepScreen {
        #title { height: 1; padding: 0 1; background: $panel; text-overflow: ellipsis; }
        #tables { padding: 1 1 0 1; }
        #text { width: auto; }
    }
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names, self._place = list(names), 0

    def compose(self) -> ComposeResult:
        yield Static(id="title", markup=False)
        with ScrollableContainer(id="tables"):
            yield Static(id="text", markup=False)
        yield KeyFooter()

    @work(exclusive=True, exit_on_error=False)
    async def reload(self) -> None:
        """Read the results of the current sweep and show them."""
        name = self._names[self._place]
        text = await asyncio.to_thread(read_tables, name)
        several = f"  ·  {self._place + 1} of {len(self._names)}" if len(self._names) > 1 else ""
        self.query_one("#title", Static).update(f"Sweep {name}{several}")
        self.query_one("#text", Static).update(text)

    def action_other(self, by: int) -> None:
        """Show another sweep of the run."""
        self._place = (self._place + by) % len(self._names)
        self.query_one("#tables").scroll_home(animate=False)
        self.reload()

    def action_line(self, by: int) -> None:
        """Scroll by one line."""
        self.query_one("#tables").scroll_relative(y=by, animate=False)


def read_tables(name: str) -> str:
    """Return the tables of a sweep as text, or why there are none."""
    from pvtool_core.sweeps.sweep_tables import RESULTS, notes_of, source_of, tables_of

    path = sweeps_dir() / name / RESULTS
    try:
        results = parse_json(read_regular(path, _MOST_BYTES))
        parts = [results["description"]]
        for table in tables_of(results):
            text = Table(["row", *table.columns[1:]], table.rows)
            parts += [f"{table.title}:", str(text)]
        parts += [source_of(results), "\n".join(notes_of(results))]
    except FileNotFoundError:
        return f"No results yet. `pv sweep` writes them to {path}."
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{path} cannot be read: {error}."
    return plain_lines("\n\n".join(filter(None, parts)))
