"""`pv`: the list of commands, and the conversion of errors to exit statuses.

Only the called command is imported.
"""

import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.core import TyperGroup

from pvtool.output import Output, escape_unencodable
from pvtool_core.errors import ExitStatus, PvError, UsageError, from_foreign, is_utf8, printable
from pvtool_core.permissions import tighten_home

if TYPE_CHECKING:
    from typer import _click as click  # pyright: ignore[reportPrivateUsage]  # types of TyperGroup's methods

COMMANDS = {
    "demo": "Run the full pipeline on a sample identity: train, render, evaluate.",
    "identity": "Identity library: add, list, show, rename, remove, export, import.",
    "prompts": "Prompt banks: list, show, add, import, generate.",
    "presets": "Presets and their settings: list, show.",
    "models": "Model weights: list, show, fetch, add, verify, remove.",
    "train": "Train an adapter for an identity.",
    "runs": "Training runs: list, show, logs, watch, pause, resume, stop, checkpoint, sample, "
    "export, remove.",
    "dashboard": "Show and control runs and batches in the terminal.",
    "render": "Render clips of identities from prompts and seeds.",
    "renders": "Batches of clips: list.",
    "eval": "Evaluate a run or a folder of clips.",
    "verify": "Show how files are marked as AI-generated, and whether they are known here.",
    "sweep": "Train and evaluate a grid of settings, identities and seeds; tabulate it.",
    "study": "Blind human study: make, take, report.",
    "cache": "Trajectory cache: show, clear.",
    "doctor": "Check GPU, memory, disk, weights and codecs.",
}
_MODULES = {"eval": "evaluate"}
EPILOG = "Add --debug to any command for tracebacks."


class LazyCommands(TyperGroup):
    """Commands with one line of help each.

    The module of a command is imported when it is called.
    """

    def list_commands(self, ctx: "click.Context") -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: "click.Context", cmd_name: str) -> "click.Command | None":
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"pvtool.cli.{_MODULES.get(cmd_name, cmd_name)}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command

    def resolve_command(
        self, ctx: "click.Context", args: list[str]
    ) -> "tuple[str | None, click.Command | None, list[str]]":
        """Find the command; suggest the nearest ones for an unknown name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=3)
            hint = (
                f"Did you mean {' or '.join(f'`pv {name}`' for name in near)}?"
                if near
                else "See `pv --help`."
            )
            raise UsageError(f"No such command {args[0]!r}.", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: "click.Context", formatter: "click.HelpFormatter") -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=LazyCommands,
    help="Train a text-to-video model to generate one person from a few photos.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        Output().result({}, f"pv {version('pvtool')}")
        raise typer.Exit


@app.callback()
def pv(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options of `pv` itself."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    escape_unencodable()
    if os.environ.get("_PV_COMPLETE") == "complete_bash":
        from pvtool.cli.completion import complete_in_bash

        complete_in_bash(app)
        sys.exit(ExitStatus.DONE)
    output = Output(as_json="--json" in words)
    try:
        _check_working_folder()
        tighten_home()  # files of earlier versions may be readable for other users
        _check_words(words)
        status = app(words, prog_name="pv", standalone_mode=False)
    except typer.Abort:
        output.say("Aborted!")
        sys.exit(ExitStatus.FAILED)
    except Exception as error:
        _leave_for_usage(output, error, words)
        _leave(output, error, debug)
    finally:
        with suppress(PvError, OSError, RuntimeError):  # PV_HOME is invalid, as reported above
            tighten_home()  # folders created by this command
    sys.exit(status or ExitStatus.DONE)


def _leave_for_usage(output: Output, error: Exception, words: Sequence[str]) -> None:
    """Print the message of a usage error of typer and exit; their base class is not public."""
    show, status = getattr(error, "show", None), getattr(error, "exit_code", None)
    if show is None or status is None:
        return
    message = io.StringIO()
    show(file=message)
    output.usage(message.getvalue(), words)
    sys.exit(status)


def _check_working_folder() -> None:
    """Raise UsageError if the current folder was deleted."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UsageError(
            "The current folder was deleted.", "Change to another folder and try again."
        ) from error


def _check_words(words: Sequence[str]) -> None:
    """Raise UsageError for an argument that is not UTF-8.

    Names of photos are allowed, since photos are copied.
    """
    for word in words:
        if not is_utf8(word) and list(words[:2]) != ["identity", "add"]:
            hint = "Rename the file or folder, or use UTF-8."
            raise UsageError(
                f"Cannot use '{printable(word, whole=True)}': it is not valid UTF-8.", hint
            )


def _leave(output: Output, error: Exception, debug: bool) -> NoReturn:
    ours: PvError = from_foreign(error)
    output.error(ours)
    if debug:
        output.trace(error)
    sys.exit(ours.status)


if __name__ == "__main__":
    main()
