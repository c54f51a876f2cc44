"""Read a passphrase from a file, the environment or a terminal; never from the command line."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pvtool_core.errors import UsageError, printable

VARIABLE = "PV_PASSPHRASE"
_MOST_BYTES = 1 << 12

PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        show_default=False,
        help=f"File whose first line is the passphrase. [default: ${VARIABLE}, or asked]",
    ),
]


def read_passphrase(file: Path | None, *, new: bool) -> str:
    """Return the passphrase; a `new` one is asked twice on a terminal.

    Raises UsageError without one, or for a file that cannot be read.
    """
    if file:
        found = _first_line(file)
    elif VARIABLE in os.environ:
        found = os.environ[VARIABLE]
    elif sys.stdin.isatty() and sys.stderr.isatty():
        found = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True)
    else:
        found = ""
    if not found:
        raise UsageError(
            "A passphrase is required.", f"Set {VARIABLE}, or use --passphrase-file FILE."
        )
    return found


def _first_line(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.readline(_MOST_BYTES).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(
            f"Cannot read the passphrase from {printable(file)}: {reason}.",
            "Use a readable text file.",
        ) from error
