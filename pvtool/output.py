"""The only module that prints.

Results go to stdout, as JSON for programs; messages and progress go to stderr. Terminal escapes in
names, imported fields and file contents are escaped in everything that is printed as text.
"""

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

from pvtool.text import plain, plain_lines
from pvtool_core.errors import BatchRefused, PvError


class Output:
    """Output of a command.

    With `as_json`, stdout receives one JSON object, or one per line for streams.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    def result(self, value: Mapping[str, Any], text: str) -> None:
        """Print the result: `value` for programs, `text` for users."""
        _write(_compact(value) if self.as_json else plain_lines(text))

    def rows(
        self, key: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], empty: str
    ) -> None:
        """Print a list: `{key: rows}` for programs, a table of `columns` for users, or `empty`."""
        if self.as_json:
            _write(_compact({key: list(rows)}))
        elif rows:
            _write(
                plain_lines(
                    table(columns, [[str(row[column]) for column in columns] for row in rows])
                )
            )
        else:
            self.say(empty)

    def stream(self, value: Mapping[str, Any], text: str) -> None:
        """Print one of many results immediately."""
        self.result(value, text)
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Print one line to stderr, which is never part of the result."""
        print(plain(text), file=sys.stderr, flush=True)

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


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format columns with a heading, as wide as needed.

    Nothing is truncated, for searching and piping.
    """
    lines = [
        [column.upper().replace("_", " ") for column in columns],
        *([plain(cell) for cell in row] for row in rows),
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def colour_wanted() -> bool:
    """Return whether to use colour: on a terminal without NO_COLOR (no-color.org)."""
    return (
        sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


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


class BarProgress:
    """Progress bar for terminals; messages scroll above it."""

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

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(
                stderr=True,
                highlight=False,
                emoji=False,
                markup=False,
                no_color=not colour_wanted(),
            ),
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
            self._task = self._bar.add_task(stage, total=total or None, completed=done, note=note)
        self._bar.update(self._task, completed=done, total=total or None, note=note)

    def say(self, text: str) -> None:
        self._bar.console.print(plain(text))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
