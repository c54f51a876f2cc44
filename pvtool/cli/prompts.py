"""`pv prompts`: prompt banks."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from pvtool.cli.cut_prompts import warn_of_cuts
from pvtool.cli.options import BankName, Json
from pvtool.output import Output
from pvtool.tables import Table
from pvtool.text import plain
from pvtool_core.store.prompts import Bank, Banks, read_prompt_file

app = typer.Typer(
    help="Prompt banks.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


def facts(bank: Bank) -> dict[str, Any]:
    """Return a bank as a table for programs."""
    origin = "yours" if bank.own else "shipped"
    return {
        "name": bank.name,
        "origin": origin,
        "prompts": len(bank.prompts),
        "description": bank.description,
    }


def _warn_of_long(bank: Bank) -> None:
    """Warn of prompts that are too long for at least one model family."""
    from pvtool_core.models.prompt_limits import shortest_limit

    limit = shortest_limit()
    cuts = [cut for prompt in bank.fill("person") if (cut := limit.cut(prompt))]
    warn_of_cuts(
        Output(), (dataclasses.replace(cut, encoder="text encoder of AnimateDiff") for cut in cuts)
    )


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List prompt banks."""
    banks = Banks()
    rows = [facts(banks.get(name)) for name in banks.names()]
    shown = Table.of(["name", "origin", "prompts", "description"], rows, optional=["origin"])
    Output(as_json).rows("banks", rows, shown, "No prompt banks.")


@app.command()
def show(name: BankName, as_json: Json = False) -> None:
    """Print the prompts of a bank, one per line."""
    bank = Banks().get(name)
    Output(as_json).result(
        {**facts(bank), "prompts": list(bank.prompts)}, "\n".join(map(plain, bank.prompts))
    )


@app.command()
def add(
    name: BankName,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", show_default=False)],
    description: Annotated[str, typer.Option(help="Description of a new bank.")] = "",
    as_json: Json = False,
) -> None:
    """Create a bank or add prompts to one. Each needs <V>; {noun} becomes man, woman or person."""
    banks = Banks()
    bank = (
        banks.extend(name, prompts)
        if name in banks.names()
        else banks.create(name, prompts, description)
    )
    _warn_of_long(bank)
    Output(as_json).result(facts(bank), f"{bank.name} has {len(bank.prompts)} prompts.")


@app.command("import")
def import_(
    name: Annotated[str, typer.Argument(metavar="BANK", show_default=False)],
    file: Annotated[
        Path,
        typer.Argument(
            help="Text file with one prompt per line, or a bank file.", show_default=False
        ),
    ],
    description: Annotated[str, typer.Option(help="Description of the new bank.")] = "",
    as_json: Json = False,
) -> None:
    """Create a bank from a file."""
    bank = Banks().create(name, read_prompt_file(file), description)
    _warn_of_long(bank)
    Output(as_json).result(facts(bank), f"{bank.name} has {len(bank.prompts)} prompts.")
