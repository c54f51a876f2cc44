"""The reference of all commands, generated from the Typer application."""

from collections.abc import Generator
from typing import Any

import typer

from markdown_tables import escape, table
from pvtool.cli.main import app


def commands() -> str:
    """Return a section for `pv` and for each command below it."""
    return "\n\n".join(_section(path, command) for path, command in walk())


def walk() -> Generator[tuple[str, Any]]:
    """Yield each command with its full name, such as `pv runs resume`.

    The classes of commands are private to typer, hence the type.
    """
    yield from _walk("pv", typer.main.get_command(app))


def _walk(path: str, command: Any) -> Generator[tuple[str, Any]]:
    yield path, command
    context = _context(path, command)
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            yield from _walk(f"{path} {name}", command.get_command(context, name))


def _context(path: str, command: Any) -> Any:
    return command.context_class(command, info_name=path, **command.context_settings)


def _section(path: str, command: Any) -> str:
    context = _context(path, command)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [f"{'#' * min(len(path.split()) + 1, 3)} `{path}`", *_help(command)]
    parts.append(f"```text\n{usage}\n```")
    if hasattr(command, "list_commands"):
        parts.append(_subcommands(context, path, command))
    parts += _parameters(context, command)
    return "\n\n".join(parts)


def _help(command: Any) -> list[str]:
    text = command.help or command.short_help or ""
    return [escape(" ".join(part.split())) for part in text.split("\n\n") if part.strip()]


def _subcommands(context: Any, path: str, command: Any) -> str:
    rows: list[list[str]] = []
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        anchor = f"{path} {name}".replace(" ", "-")
        rows.append([f"[`{path} {name}`](#{anchor})", escape(child.get_short_help_str(limit=200))])
    return table(["command", "purpose"], rows)


def _parameters(context: Any, command: Any) -> list[str]:
    """Return a table of the arguments and one of the options, if any."""
    records: dict[str, list[list[str]]] = {"argument": [], "option": []}
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            name, text = record
            records[parameter.param_type_name].append([f"`{name}`", escape(text)])
    return [table([kind, "meaning"], rows) for kind, rows in records.items() if rows]
