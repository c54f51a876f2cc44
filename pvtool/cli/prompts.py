"""`pv prompts`: prompt banks."""

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from pvtool.cli.cut_prompts import warn_of_cuts
from pvtool.cli.options import BankName, Json
from pvtool.output import Output, progress
from pvtool.tables import Table
from pvtool.text import plain
from pvtool_core.errors import BadName, BadPrompt
from pvtool_core.settings.jobs import Noun
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


@app.command()
def generate(
    name: Annotated[str, typer.Argument(metavar="BANK", show_default=False)],
    endpoint: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="OpenAI-compatible API, such as http://localhost:11434/v1.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(metavar="NAME", help="Language model.", show_default=False)],
    count: Annotated[int, typer.Option(min=1, max=1000, help="Number of prompts.")] = 50,
    noun: Annotated[
        Noun, typer.Option("--class", help="Class noun of the identities to train.")
    ] = "person",
    instructions: Annotated[
        str, typer.Option(metavar="TEXT", help="Further instructions for the language model.")
    ] = "",
    description: Annotated[str, typer.Option(help="Description of the new bank.")] = "",
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds for each request.")] = 120.0,
    as_json: Json = False,
) -> None:
    """Create a bank of prompts written by a language model, and check them.

    The API key is read from PV_LLM_KEY, or for OpenAI itself from OPENAI_API_KEY. Each prompt
    needs <V>, a motion, an appearance and a background; similar ones are rejected.
    """
    from pvtool_core.simulated_prompts.chat_api import KEY_VARIABLE, find_endpoint
    from pvtool_core.simulated_prompts.generation import generate_prompts

    output, banks = Output(as_json), Banks()
    banks.check_new(name)
    source = find_endpoint(endpoint, model, timeout)
    if source.is_key_exposed:
        output.say(f"Warning: {KEY_VARIABLE} is sent unencrypted to {source.host}.")
    with progress() as shown:
        generated = generate_prompts(
            source,
            count,
            noun=noun,
            wishes=instructions,
            others=_prompts_of_all(banks),
            report=lambda done: shown.update("prompts", done, count),
            say=shown.say,
        )
    bank = banks.create(
        name, generated.prompts, description or f"{count} prompts generated by {model}"
    )
    _warn_of_long(bank)
    output.result(
        {**facts(bank), "requests": generated.requests, "rejected": dict(generated.rejected)},
        f"{bank.name} has {len(bank.prompts)} prompts, {generated.rejections}.",
    )


def _prompts_of_all(banks: Banks) -> list[str]:
    """Return the prompts of all valid banks: evaluation prompts must not be trained on."""
    found: list[str] = []
    for name in banks.names():
        with suppress(BadPrompt, BadName):
            found += banks.get(name).prompts
    return found
