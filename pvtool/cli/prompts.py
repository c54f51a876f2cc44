"""`pv prompts`: banks of simulated prompts."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from pvtool.cli.options import BankName, Json
from pvtool.cli.render_report import tell_cuts
from pvtool.output import Output
from pvtool.text import plain
from pvtool_core.store.prompts import Bank, Banks, read_prompt_file

app = typer.Typer(
    help="Prompt banks.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


def facts(bank: Bank) -> dict[str, Any]:
    """What programs are told about a bank."""
    origin = "yours" if bank.own else "shipped"
    return {
        "name": bank.name,
        "origin": origin,
        "prompts": len(bank.prompts),
        "description": bank.description,
    }


def _tell_long(bank: Bank) -> None:
    """Warn of prompts that are too long for one of the families of models; training on others reads all of them."""
    from pvtool_core.models.prompt_limits import shortest_limit

    limit = shortest_limit()
    cuts = [cut for prompt in bank.fill("person") if (cut := limit.cut(prompt))]
    tell_cuts(
        Output(), (dataclasses.replace(cut, encoder="text encoder of AnimateDiff") for cut in cuts)
    )


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every bank there is."""
    banks = Banks()
    rows = [facts(banks.get(name)) for name in banks.names()]
    Output(as_json).rows(
        "banks", rows, ["name", "origin", "prompts", "description"], "No bank is there."
    )


@app.command()
def show(name: BankName, as_json: Json = False) -> None:
    """A bank's prompts, one a line."""
    bank = Banks().get(name)
    Output(as_json).result(
        {**facts(bank), "prompts": list(bank.prompts)}, "\n".join(map(plain, bank.prompts))
    )


@app.command()
def add(
    name: BankName,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", show_default=False)],
    description: Annotated[str, typer.Option(help="Of a new bank.")] = "",
    as_json: Json = False,
) -> None:
    """Begin a bank of your own, or add prompts to one. Each needs <V>; {noun} becomes man, woman or person."""
    banks = Banks()
    bank = (
        banks.extend(name, prompts)
        if name in banks.names()
        else banks.create(name, prompts, description)
    )
    _tell_long(bank)
    Output(as_json).result(facts(bank), f"{bank.name} holds {len(bank.prompts)} prompts.")


@app.command("import")
def import_(
    name: Annotated[str, typer.Argument(metavar="BANK", show_default=False)],
    file: Annotated[
        Path, typer.Argument(help="A text file, one prompt a line, or a bank.", show_default=False)
    ],
    description: Annotated[str, typer.Option(help="Of the new bank.")] = "",
    as_json: Json = False,
) -> None:
    """Make a new bank from a file."""
    bank = Banks().create(name, read_prompt_file(file), description)
    _tell_long(bank)
    Output(as_json).result(facts(bank), f"{bank.name} holds {len(bank.prompts)} prompts.")
