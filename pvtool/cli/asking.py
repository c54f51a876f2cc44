"""Asks before something is deleted; never waits for an answer where nobody can give one."""

import sys

import typer

from pvtool.plain import plain
from pvtool_core.errors import Interrupted, UsageError


def confirm(question: str, yes: bool) -> None:
    """Go on only if the user agrees. Raises UsageError without a terminal, Interrupted on a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("This deletes for good and there is no terminal to ask on.", "Give --yes.")
    if not typer.confirm(plain(question), err=True):
        raise Interrupted("Nothing was deleted.")
