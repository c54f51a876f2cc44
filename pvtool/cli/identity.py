"""`pv identity`: the identity library."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pvtool.cli.confirm import ask_for_consent, confirm
from pvtool.cli.options import IdentityName, Json, Yes, preset_names
from pvtool.cli.progress import JobProgress
from pvtool.jobs.identity_usage import IdentityUsage, usage_of
from pvtool.jobs.prepare import add_identity, rename_identity
from pvtool.output import Output
from pvtool.tables import Table
from pvtool.text import moment, plain
from pvtool_core.errors import PvError
from pvtool_core.settings.jobs import Noun
from pvtool_core.settings.toml import to_table
from pvtool_core.store.identities import Identity, Library
from pvtool_core.store.run_index import runs_of

app = typer.Typer(
    help="Identity library.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


def facts(identity: Identity) -> dict[str, Any]:
    """Return an identity as a table for programs."""
    about = {"name": identity.name, "class": identity.noun, "photos": len(identity.faces)}
    return {
        **about,
        "created": identity.record.created,
        "consent": identity.record.consent,
        "path": str(identity.folder),
    }


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the identity.", show_default=False)],
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="Photos; one is sufficient.", show_default=False),
    ],
    noun: Annotated[Noun, typer.Option("--class", help="Class noun in prompts.")] = "person",
    face: Annotated[
        int, typer.Option(min=0, help="Face to use, counted from the left, starting at 1.")
    ] = 0,
    consent: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            show_default=False,
            help="Consent statement, stored with the photos: who agreed, when, to what. Asked on a "
            "terminal, required otherwise.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(autocompletion=preset_names, help="Preset with the face models to use."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Detect and check the face in each photo, and store an identity.

    If one photo is refused, nothing is stored.
    """
    Library().check_free(name)
    statement = ask_for_consent() if consent is None else consent
    with JobProgress() as progress:
        identity = add_identity(name, images, noun, face, statement, preset, progress.on_event)
    text = f"Added {identity.name} ({identity.noun}) from {_photos(identity)}: {identity.folder}"
    Output(as_json).result(facts(identity), text)


def _photos(identity: Identity) -> str:
    count = len(identity.faces)
    return f"{count} photo{'s' if count > 1 else ''}"


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List identities."""
    library, output = Library(), Output(as_json)
    rows: list[dict[str, Any]] = []
    for name in library.names():
        try:
            rows.append({**facts(library.get(name)), "problem": ""})
        except PvError as error:
            output.say(f"Warning: {error.message}")
            about = {"name": name, "class": "", "photos": 0, "created": "", "consent": ""}
            rows.append({**about, "path": str(library.root / name), "problem": error.message})
    shown = Table.of(
        ["name", "class", "photos", "created"],
        [{**row, "created": moment(row["created"])} for row in rows],
    )
    output.rows("identities", rows, shown, "No identities. Add one with `pv identity add`.")


@app.command()
def show(name: IdentityName, as_json: Json = False) -> None:
    """Show photos, consent and runs of an identity."""
    identity = Library().get(name)
    runs = [run.name for run in runs_of(identity)]
    value = {
        **facts(identity),
        "faces": [to_table(face) for face in identity.record.faces],
        "runs": runs,
    }
    about = facts(identity)
    about["created"] = moment(about["created"])
    pairs = [[key, str(item)] for key, item in about.items()]
    pairs += [
        ["photo", f"{face.picture} (face {face.score:.2f})"] for face in identity.record.faces
    ]
    pairs += [["run", run] for run in runs]
    Output(as_json).result(value, Table.about(pairs))


@app.command()
def rename(name: IdentityName, new_name: str, as_json: Json = False) -> None:
    """Rename an identity.

    Its runs stay usable and keep their names.
    """
    identity = rename_identity(name, new_name)
    Output(as_json).result(facts(identity), f"Renamed {name} to {identity.name}.")


@app.command()
def remove(name: IdentityName, yes: Yes = False, as_json: Json = False) -> None:
    """Delete an identity and all its files."""
    output = Output(as_json)
    library = Library()
    identity = library.get(name)
    confirm(f"Delete {identity.name} and all its files?", yes)
    left = usage_of(identity)
    library.remove(name)
    value = {"removed": identity.name, "path": str(identity.folder), "left": asdict(left)}
    output.result(value, f"Removed {identity.name}.")
    _say_what_is_left(left, output)


def _say_what_is_left(left: IdentityUsage, output: Output) -> None:
    if left.runs:
        output.say(
            f"Runs that still exist: {', '.join(left.runs)}. Delete them with `pv runs remove`."
        )
    for what, folders in (
        ("Demo clips", left.demos),
        ("Batch records", left.batches),
        ("Clips", left.renders),
    ):
        for folder in folders:
            output.say(f"{what} that still exist: {folder}")
    output.say("Exported files and copies are not recorded: delete them yourself.")


@app.command()
def export(
    name: IdentityName,
    file: Annotated[
        Path | None, typer.Argument(help="Output file. [default: NAME.tar]", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an identity to one file, for another machine."""
    identity = Library().get(name)
    archive = (file or Path(f"{identity.name}.tar")).absolute()
    Library().export(identity.name, archive)
    Output(as_json).result(
        {"name": identity.name, "path": str(archive)}, f"Wrote {plain(str(archive))}"
    )


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(show_default=False)],
    name: Annotated[
        str | None, typer.Option(help="New name. [default: the name in the file]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Import an identity from an exported file."""
    identity = Library().import_(file, name)
    Output(as_json).result(facts(identity), f"Imported {identity.name}: {identity.folder}")
