"""Ask for consent, and for confirmation before deleting; never waits without a terminal."""

import getpass
import sys
from datetime import datetime

import typer

from pvtool.text import plain
from pvtool_core.errors import Interrupted, UsageError


def ask_for_consent() -> str:
    """Return the statement that the user confirms, or "" without a terminal.

    Raises Interrupted if refused.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return ""
    statement = _statement(getpass.getuser())
    typer.echo(f'This statement is stored with the photos:\n  "{statement}"', err=True)
    if not typer.confirm("Do you confirm it?", err=True):
        raise Interrupted("Nothing was added: consent was not confirmed.")
    return statement


def _statement(user: str) -> str:
    """Return the statement that a user confirms on a terminal: who, when, and the scope."""
    today = datetime.now().astimezone().strftime("%d %B %Y")
    return (
        "The person in these photos is me, or has agreed to have videos generated of them with "
        "this model. "
        f"Confirmed by {user} on {today}."
    )


def confirm(question: str, yes: bool) -> None:
    """Ask for confirmation.

    Raises UsageError without a terminal, Interrupted on a no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("Deleting needs confirmation on a terminal.", "Add --yes.")
    if not typer.confirm(plain(question), err=True):
        raise Interrupted("Nothing was deleted.")
