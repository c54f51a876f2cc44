"""`pv verify`: how files are marked as AI-generated, and whether they are known here."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pvtool.cli.options import Json
from pvtool.output import Output
from pvtool.text import plain, shown
from pvtool_core.errors import Unmarked

if TYPE_CHECKING:
    from pvtool_core.verification.verify import Verified

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_LONGEST_PROMPT = 60


@app.command()
def verify(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Clips, images, adapters or folders.", show_default=False
        ),
    ],
    crops: Annotated[
        bool,
        typer.Option(
            "--crops/--no-crops", help="Also search for watermarks of cropped clips; takes longer."
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Show content credentials, metadata and watermark of files, also of other programs' files.

    Works offline. The exit status is 0 if every file is marked as AI-generated, otherwise 3. A
    file without a mark is not proven to be a recording: marks can be removed.
    """
    from pvtool_core.media.c2pa_reader import can_read_credentials
    from pvtool_core.verification.verify import Verifier, files_in

    output, verifier = Output(as_json), Verifier(crops)
    if not can_read_credentials():
        output.say("Content credentials are not read: run `pip install pvtool[c2pa]`.")
    total = unmarked = 0
    for file in [file for path in paths for file in files_in(path)]:
        found = verifier.verify(file)
        total += 1
        unmarked += not found.is_marked
        output.stream(found.record(), "\n".join(map(plain, _lines(found))))
    if unmarked or not total:
        raise Unmarked(unmarked, total)


def _lines(found: "Verified") -> Iterator[str]:
    """Yield the lines about a file."""
    yield f"{shown(found.path)}: {'marked' if found.is_marked else 'no mark found'}"
    if credentials := found.credentials:
        says = "AI-generated" if credentials.generated else "not whether AI generated it"
        state = "changed after signing" if credentials.state == "invalid" else "unchanged"
        by = credentials.signer or "unknown"
        yield f"  content credentials: signed by {by} ({credentials.program}), {state}; {says}"
    if found.metadata is not None:
        yield f"  metadata: {_metadata(found)}"
    if found.watermark:
        match = found.watermark.match
        yield (
            f"  watermark: {found.watermark.method}, id {match.id}, {match.matching} of "
            f"{match.compared} bits; by chance {match.chance:.0e}"
        )
    if known := found.known:
        where = f": {known['path']}" if "path" in known else ""
        run = known["run"] and f"run {known['run']}" + (f"@{known['step']}" if where else "")
        words = [run or "base model"]
        if where:
            words += [known["identity"], f"“{_cut(known['prompt'])}”", f"seed {known['seed']}"]
        yield f"  known here: {', '.join(words)}{where}"
    if found.problem:
        yield f"  {found.problem}"


def _metadata(found: "Verified") -> str:
    """Return the metadata in short; only pv's have more than the mark."""
    facts = found.metadata or {}
    if found.kind == "adapter":
        consent = [f"{name} {facts[name]}" for name in sorted(facts) if name.startswith("consent")]
        return ", ".join([str(facts.get("format", "")), *consent])
    if not facts:
        return "AI-generated, by another program"
    parts = [str(facts.get("identity", "")), f"“{_cut(str(facts.get('prompt', '')))}”"]
    run = f"run {facts.get('run')}@{facts.get('step')}" if facts.get("run") else "base model"
    return ", ".join([f"pv, {run}", *parts, f"seed {facts.get('seed')}"])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_PROMPT else f"{text[:_LONGEST_PROMPT]}…"
