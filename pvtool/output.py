"""The only module that prints.

Results go to stdout, as JSON for programs; messages and progress go to stderr. Terminal escapes in
names, imported fields and file contents are escaped in everything that is printed as text.
"""

import io
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TextIO

from pvtool.tables import Table
from pvtool.text import plain, plain_lines
from pvtool_core.errors import BatchRefused, PvError


class Output:
    """Output of a command.

    With `as_json`, stdout receives one JSON object, or one per line for streams.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    def result(self, value: Mapping[str, Any], *parts: str | Table) -> None:
        """Print the result: `value` for programs; `parts` for users, with empty lines between."""
        _write(_compact(value) if self.as_json else "\n\n".join(map(_text, parts)))

    def rows(self, key: str, rows: Sequence[Mapping[str, Any]], table: Table, empty: str) -> None:
        """Print a list: `{key: rows}` for programs, a table of them for users, or `empty`."""
        if self.as_json:
            _write(_compact({key: list(rows)}))
        elif rows:
            _write(_text(table))
        else:
            self.say(empty)

    def stream(self, value: Mapping[str, Any], *parts: str | Table) -> None:
        """Print one of many results immediately."""
        self.result(value, *parts)
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Print one line to stderr, which is never part of the result."""
        print(_marked(text), file=sys.stderr, flush=True)

    def signal(self, sequences: Sequence[str]) -> None:
        """Write control sequences to stderr, if it is a terminal."""
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            print(*sequences, sep="", end="", file=sys.stderr, flush=True)

    def error(self, error: PvError) -> None:
        """Print message and hint of an error; for programs also as an object."""
        if self.as_json:
            facts = {
                "kind": error.kind,
                "status": int(error.status),
                "message": error.message,
                "hint": error.hint,
            }
            _write(_compact({"error": facts}))
        red, normal = ("\x1b[31m", "\x1b[0m") if colour_wanted() else ("", "")
        text = "\n".join(map(plain, _lines(error)))
        print(f"{red}Error:{normal} {text}", file=sys.stderr, flush=True)
        if error.hint:
            self.say(error.hint)

    def usage(self, text: str, words: Sequence[str]) -> None:
        """Print Typer's message about the command line `words`, escaped."""
        for word in words:
            text = text.replace(word, plain(word)) if word else text
        print(plain_lines(text), file=sys.stderr, end="", flush=True)

    def trace(self, error: BaseException) -> None:
        """Print the traceback of an error, for `--debug`."""
        import traceback  # imported here for a fast start

        text = "".join(traceback.format_exception(error))
        raised: BaseException | None = error
        while raised:
            if isinstance(raised, PvError):
                text = text.replace(raised.message, "\n".join(map(plain, _lines(raised))))
            raised = raised.__cause__ or raised.__context__
        print(plain_lines(text), file=sys.stderr, end="", flush=True)


def _lines(error: PvError) -> Sequence[str]:
    """Return the lines of an error message: one, or one per invalid row of a batch."""
    return error.lines if isinstance(error, BatchRefused) else (error.message,)


def _text(part: str | Table) -> str:
    """Return a part of a result as text; a table fits the terminal, if there is one."""
    if isinstance(part, str):
        return plain_lines(part)
    if not sys.stdout.isatty():
        return str(part)
    width = shutil.get_terminal_size().columns
    return part.fitted(width, _takes_colour(sys.stdout))


def colour_wanted() -> bool:
    """Return whether to use colour in messages: on a terminal without NO_COLOR (no-color.org)."""
    return _takes_colour(sys.stderr)


def _takes_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _marked(text: str) -> str:
    """Return a message with escaped control characters, and a warning in colour."""
    before, warning, after = plain(text).partition("Warning:")
    if before or not warning or not colour_wanted():
        return plain(text)
    return f"\x1b[33m{warning}\x1b[0m{after}"


def on_terminal() -> bool:
    """Return whether stdin and stderr are terminals; the dashboard draws on stderr."""
    return sys.stdin.isatty() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


_JSON = json.JSONEncoder(ensure_ascii=False)
_ASCII_JSON = json.JSONEncoder()


def _compact(value: Mapping[str, Any]) -> str:
    return (_JSON if _is_utf8(sys.stdout.encoding) else _ASCII_JSON).encode(value)


def _is_utf8(encoding: str) -> bool:
    return encoding.replace("-", "").lower() == "utf8"


def escape_unencodable() -> None:
    """Make stdout and stderr escape characters that their encoding lacks instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _write(text: str) -> None:
    print(text)


class Progress(Protocol):
    """Progress display; `note` is shown beside it, such as the newest loss."""

    def update(self, stage: str, done: int, total: int, note: str = "") -> None: ...
    def say(self, text: str) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


def progress() -> Progress:
    """Return a progress bar on a terminal, otherwise progress as lines."""
    return (
        BarProgress()
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        else LineProgress()
    )


class LineProgress:
    """Progress for logs and pipes: lines at the start, at each tenth and at the end of a stage."""

    def __init__(self) -> None:
        self._last: tuple[str, int] = ("", -1)

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        tenth = 10 * done // total if total else 0
        if (stage, tenth) != self._last:
            self._last = (stage, tenth)
            count = f" {done}/{total}" if total else ""
            self.say(f"{stage}{count}{f'  {note}' if note else ''}")

    def say(self, text: str) -> None:
        print(plain(text), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


_WIDE = 100  # columns of a terminal


class BarProgress:
    """Progress bar for terminals; messages scroll above it, and notes are cut to one line."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        console = Console(
            stderr=True, highlight=False, emoji=False, markup=False, no_color=not colour_wanted()
        )
        elapsed = [TimeElapsedColumn()] if console.width >= _WIDE else []
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24 if console.width >= _WIDE else 12),
            MofNCompleteColumn(),
            *elapsed,
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            redirect_stdout=sys.stdout.isatty(),  # results scroll above the bar, or go to pipes
            redirect_stderr=False,
        )
        self._stage = ""
        self._task = self._bar.add_task("starting", total=None, note="")

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        stage, note = plain(stage), plain(note)
        if stage != self._stage:
            self._stage = stage
            self._bar.remove_task(self._task)  # a task keeps its total if the new stage has none
            self._task = self._bar.add_task(stage, total=total or None, completed=done, note="")
        note = self._fitted(note, len(stage) + len(f"{done}/{total}"))
        self._bar.update(self._task, completed=done, total=total or None, note=note)

    def _fitted(self, note: str, taken: int) -> str:
        """Return the first parts of a note that fit into the line; two spaces part them."""
        width = self._bar.console.width
        room, parts = width - taken - (40 if width >= _WIDE else 20), note.split("  ")
        while len(parts) > 1 and len("  ".join(parts)) > room:
            parts.pop()
        return "  ".join(parts)

    def say(self, text: str) -> None:
        from rich.text import Text

        message = Text(plain(text))
        message.highlight_words(["Warning:"] if text.startswith("Warning:") else [], "yellow")
        self._bar.console.print(message)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
