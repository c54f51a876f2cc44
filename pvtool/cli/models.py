"""`pv models`: model weights."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pvtool.cli.attempts import Attempts
from pvtool.cli.confirm import confirm
from pvtool.cli.options import Json, ModelName, Yes, model_names
from pvtool.output import Output, progress
from pvtool.tables import Table
from pvtool_core.errors import Interrupted, PvError, SomeFailed
from pvtool_core.models.installed import Models, ModelState, in_words
from pvtool_core.models.registry import model_folder
from pvtool_core.settings.toml import to_table

app = typer.Typer(
    help="Model weights.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)

_COMMERCIAL = {"yes": "yes", "no": "no", "conditions": "on conditions"}


def facts(models: Models, name: str) -> dict[str, Any]:
    """Return a model as a table for programs; `size` is null if unknown."""
    entry, state = models.entry(name), models.state(name)
    size = models.size(name) if state is ModelState.HERE else entry.size
    about = {"name": name, "state": str(state), "size": size or None, "licence": entry.licence_line}
    return {**about, "commercial": entry.commercial, "purpose": entry.purpose, "title": entry.title}


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List known and installed models."""
    models = Models()
    rows = [facts(models, name) for name in models.names()]
    shown = Table.of(
        ["name", "state", "size", "purpose", "licence"],
        [{**row, "size": _size(row["size"])} for row in rows],
        optional=["purpose"],
    )
    Output(as_json).rows("models", rows, shown, "No models.")


@app.command()
def show(name: ModelName, as_json: Json = False) -> None:
    """Show source, files and licence of a model."""
    models = Models()
    about = {**facts(models, name), "path": str(model_folder(name)), "lacks": models.lacking(name)}
    entry, manifest = models.entry(name), models.manifest(name)
    files = [to_table(file) for file in manifest.files] if manifest else []
    value: dict[str, Any] = {
        **about,
        "sources": [to_table(source) for source in entry.sources],
        "files": files,
    }
    origin = (
        manifest.origin
        if manifest
        else ", ".join(source.hub or source.address for source in entry.sources)
    )
    words = {
        **about,
        "size": _size(value["size"]),
        "commercial": _COMMERCIAL[entry.commercial],
        "from": origin,
    }
    words["lacks"] = ", ".join(models.lacking(name)) or "nothing"
    head = Table.about([[key, str(item)] for key, item in words.items()])
    rows = [
        [file["path"], str(file["size"]), file["sha256"], "yes" if file["published"] else "no"]
        for file in files
    ]
    listing = [Table(["file", "bytes", "sha256", "published"], rows)] if rows else []
    Output(as_json).result(value, head, *listing)


@app.command()
def fetch(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            autocompletion=model_names,
            help="Model names, or organisation/repository of the hub.",
            show_default=False,
        ),
    ],
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            help="Mirror of the hub. [default: HF_ENDPOINT, or the hub]",
        ),
    ] = None,
    send_token: Annotated[
        bool,
        typer.Option("--send-token", help="Also send HF_TOKEN to the mirror."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch and verify models. An interrupted fetch resumes."""
    output = Output(as_json)
    models, attempts = Models(), Attempts(names, output)
    for name in attempts.names:
        with attempts.on(name):
            _fetch_one(models, name, endpoint, output, send_token)
    attempts.finish()


def _fetch_one(
    models: Models, name: str, endpoint: str | None, output: Output, send_token: bool
) -> None:
    from pvtool_core.models.fetching import Listener
    from pvtool_core.models.fetching import fetch as fetch_model

    try:
        with progress() as shown:
            listener = Listener(
                shown.say,
                lambda file, done, total: shown.update(
                    f"{name}, MiB", done >> 20, total >> 20, file
                ),
            )
            fetched = fetch_model(models, name, listener, endpoint, send_token)
    except KeyboardInterrupt:
        raise Interrupted(
            "The fetch was interrupted.", "Run the same command again to resume."
        ) from None
    words = f"Fetched {name}" if fetched else f"{name} is already installed"
    output.stream(
        {**facts(models, name), "path": str(model_folder(name)), "fetched": fetched},
        f"{words}: {model_folder(name)}",
    )


@app.command()
def add(
    name: ModelName,
    given: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE_OR_FOLDER...", help="One folder, or several files.", show_default=False
        ),
    ],
    link: Annotated[bool, typer.Option("--link", help="Link instead of copying.")] = False,
    licence: Annotated[
        str, typer.Option(help="Licence, if unknown to pv; recorded in every run.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Add local weights under a name of `pv models list` or a new one.

    They are checked like downloaded ones.
    """
    from pvtool_core.models.adding import add as add_model

    models = Models()
    lacking = add_model(models, name, given, link, licence)
    text = (
        f"{name} is incomplete: missing {', '.join(lacking)}. "
        f"Fetch them with `pv models fetch {name}`."
        if lacking
        else f"Added {name}: {model_folder(name)}"
    )
    Output(as_json).result(
        {**facts(models, name), "path": str(model_folder(name)), "lacks": lacking}, text
    )


@app.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]",
            autocompletion=model_names,
            help="Models to check. [default: all installed]",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every file again and compare its hash."""
    output = Output(as_json)
    models = Models()
    chosen = names or [name for name in models.names() if model_folder(name).exists()]
    errors = [error for name in chosen if (error := _verify_one(models, name, output))]
    if len(errors) == 1:
        raise errors[0]
    for error in errors:
        output.say(f"{error.message} {error.hint}")
    if errors:
        raise SomeFailed(len(errors), len(chosen))


def _verify_one(models: Models, name: str, output: Output) -> PvError | None:
    try:
        files = models.verify(name)
    except PvError as error:
        return error
    published = sum(file.published for file in files)
    count = "its file is" if len(files) == 1 else f"its {len(files)} files are"
    words = (
        "as published"
        if published == len(files)
        else f"unchanged ({published} with a published hash)"
    )
    output.stream(
        {"name": name, "files": len(files), "published": published}, f"{name}: {count} {words}."
    )
    return None


@app.command()
def remove(name: ModelName, yes: Yes = False, as_json: Json = False) -> None:
    """Delete a model; for a linked one, only the link."""
    models = Models()
    models.check_here(name)
    confirm(f"Delete {name} ({_size(models.size(name))})?", yes)
    models.remove(name)
    Output(as_json).result({"removed": name, "path": str(model_folder(name))}, f"Removed {name}.")


def _size(size: int | None) -> str:
    return in_words(size) if size else "?"
