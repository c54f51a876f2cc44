"""Ask for consent, and for confirmation before deleting; never waits without a terminal."""

import getpass
import sys
from datetime import datetime

import typer

from pvtool.text import plain
from pvtool_core.errors import InputRefused, Interrupted, UsageError
from pvtool_core.store.consent_record import Statement

_AUDIENCES = {
    "private": "shown to nobody else",
    "tests": "shown in tests and evaluations",
    "public": "published",
}


def ask_for_consent(text: str | None, adult: bool, scope: str | None, expires: str) -> Statement:
    """Return the consent statement; what is not given is asked on a terminal.

    Raises Interrupted if it is not confirmed, InputRefused if the person is not an adult.
    """
    if sys.stdin.isatty() and sys.stderr.isatty():
        if not adult and not typer.confirm("Is the person in these photos an adult?", err=True):
            raise InputRefused(
                "Nothing was added: the person is not an adult.", "Use photos of adults only."
            )
        adult = True
        if scope is None and text is None:
            question = "Scope of the consent: private, tests or public"
            scope = typer.prompt(question, default="private", err=True).strip()
        if text is None and scope in _AUDIENCES:  # an invalid scope is reported
            text = _confirmed(_statement(getpass.getuser(), scope, expires))
    return Statement(text=text or "", adult=adult, scope=scope or "private", expires=expires)


def _confirmed(statement: str) -> str:
    typer.echo(f'This statement is stored with the photos:\n  "{statement}"', err=True)
    if not typer.confirm("Do you confirm it?", err=True):
        raise Interrupted("Nothing was added: consent was not confirmed.")
    return statement


def _statement(user: str, scope: str, expires: str) -> str:
    """Return the statement that a user confirms on a terminal: who, when, and the scope."""
    today = datetime.now().astimezone().strftime("%d %B %Y")
    until = f" until {expires}" if expires else ""
    return (
        "The person in these photos is me, or has agreed to have videos generated of them with "
        f"this model{until}, to be {_AUDIENCES[scope]}. "
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
