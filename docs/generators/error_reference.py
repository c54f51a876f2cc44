"""The reference of exit statuses and errors, generated from the tree of errors."""

import importlib
from collections.abc import Generator

from markdown_tables import escape, table
from pvtool_core.errors import BatchRefused, ExitStatus, Interrupted, PvError, Reported

MODULES_WITH_ERRORS = ("pvtool_core.media.c2pa", "pvtool_core.media.ffmpeg")
"""Modules besides errors.py that define errors."""


def exit_statuses() -> str:
    """Return a table of exit statuses with their errors."""
    rows = [
        [f"`{status.value}`", status.name.lower(), ", ".join(map(_link, _kinds(status)))]
        for status in ExitStatus
    ]
    return table(["exit status", "name", "`kind` in JSON"], rows)


def errors() -> str:
    """Return a table of all errors with their meaning."""
    rows = [
        [f'<a id="{kind.__name__.lower()}"></a>`{kind.__name__}`', _status(kind), _meaning(kind)]
        for kind in error_types()
    ]
    return table(["`kind`", "exit status", "meaning"], rows)


def error_types() -> list[type[PvError]]:
    """Return all errors, each before the ones derived from it.

    Reported is not among them: it has the kind of the error that it repeats.
    """
    for module in MODULES_WITH_ERRORS:
        importlib.import_module(module)
    return [kind for kind in _below(PvError) if kind is not Reported]


def _below(root: type[PvError]) -> Generator[type[PvError]]:
    for kind in root.__subclasses__():
        if kind.__module__.startswith("pvtool_core."):
            yield kind
            yield from _below(kind)


def _kinds(status: ExitStatus) -> list[type[PvError]]:
    if status == ExitStatus.TERMINATED:
        return [Interrupted]
    return [kind for kind in error_types() if kind.status == status and kind is not BatchRefused]


def _link(kind: type[PvError]) -> str:
    return f"[`{kind.__name__}`](#{kind.__name__.lower()})"


def _status(kind: type[PvError]) -> str:
    if kind is BatchRefused:
        return "of the first invalid row"
    both = (ExitStatus.INTERRUPTED, ExitStatus.TERMINATED)
    statuses = both if kind is Interrupted else (kind.status,)
    return ", ".join(f"`{int(status)}`" for status in statuses)


def _meaning(kind: type[PvError]) -> str:
    paragraph = (kind.__doc__ or "").partition("\n\n")[0]
    return escape(" ".join(paragraph.split()))
