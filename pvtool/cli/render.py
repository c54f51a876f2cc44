"""`pv render`: plans clips, leaves out those that are there, and has an engine make the others."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pvtool.choices import style_table, versions
from pvtool.cli.following import JobProgress
from pvtool.cli.options import (
    ControlFrames,
    ControlNet,
    IdentityName,
    Json,
    Loras,
    Seeds,
    bank_names,
    run_names,
)
from pvtool.facts import adapter_of, job_of, runs_of
from pvtool.output import Output
from pvtool.rendering import clip_facts, files_of, make_batch, missing_clips, run_batch
from pvtool.words import shown
from pvtool_core.clips import BASE, Names
from pvtool_core.columns import parse_seeds
from pvtool_core.config import (
    EncodingConfig,
    RenderItem,
    RenderJob,
    Settings,
    Setup,
    Table,
    TrainJob,
    from_table,
    merge,
    to_table,
)
from pvtool_core.errors import Missing, UsageError
from pvtool_core.library import Identity, Library
from pvtool_core.paths import runs_dir
from pvtool_core.prompts import Banks, check_prompts, fill, read_prompt_file
from pvtool_core.runs import RunFolder, checkpoint_step, find_run, sha256_of
from pvtool_core.weights import resolve_settings

app = typer.Typer(rich_markup_mode=None, add_completion=False)

FORMATS = ("mp4", "gif")


@app.command()
def render(
    name: IdentityName,
    prompts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT]...", show_default=False)] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--prompts", metavar="FILE_OR_BANK", help="A text file, one a line, or a bank.", autocompletion=bank_names
        ),
    ] = None,
    seeds: Seeds = "0",
    run: Annotated[str | None, typer.Option(autocompletion=run_names, help="The person's newest, if left out.")] = None,
    loras: Loras = None,
    controlnet: ControlNet = None,
    control_frames: ControlFrames = None,
    base: Annotated[bool, typer.Option("--base", help="Also without the adapter, to compare.")] = False,
    out: Annotated[Path, typer.Option(help="Where the clips go.")] = Path("renders"),
    format: Annotated[str, typer.Option(metavar="FORMATS", help="mp4, gif, or both with a comma.")] = "mp4",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make again what is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")] = False,
    as_json: Json = False,
) -> None:
    """One clip for each prompt and seed. What is there and whole is skipped.

    --lora and --controlnet take the place of those that the run was trained with.
    """
    output = Output(as_json)
    person = Library().get(name)
    folder = find_run(runs_dir(), run) if run else newest_run(person)
    job = job_of(folder)
    if job.identity.fingerprint != person.ref.fingerprint:
        other = "another person of that name" if job.identity.name == name else repr(job.identity.name)
        raise UsageError(f"{folder.name} was trained on {other}.", f"Give a run of {name}, or none.")
    if not prompts and not source:
        raise UsageError("There is nothing to render.", "Give prompts with <V> in them, or --prompts FILE_OR_BANK.")
    if style := style_table(loras, controlnet, control_frames):
        job = styled(job, style)
    given = [*(prompts or []), *(prompts_in(source) if source else ())]
    texts = [fill(prompt, job.identity.noun) for prompt in check_prompts(given, "the command")]
    items = plan(folder, job, texts, parse_seeds(seeds), out, base)
    encoding = EncodingConfig(formats=parse_formats(format))
    if dry_run:
        missing = set(items) if overwrite else set(missing_clips(items, (setup_of(job),), encoding))
        for item in items:
            state = "missing" if item in missing else "there"
            output.stream(clip_facts(item, state, encoding), f"{state:8} {shown(Path(item.clip))}")
        return
    make_folder(out)
    render_clips(job, items, out.absolute(), encoding, overwrite, output)


def styled(job: TrainJob, style: Table) -> TrainJob:
    """The run's settings with other LoRAs, or another ControlNet. Raises SettingsError, or WeightsMissing."""
    wanted = from_table(TrainJob, merge(to_table(job), style), "the command")
    return dataclasses.replace(wanted, model=resolve_settings(wanted).model)


def make_folder(out: Path) -> None:
    """Raises UsageError where there cannot be a folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"There can be no folder at {out}.", "Give another place with --out.") from error


def newest_run(person: Identity) -> RunFolder:
    """The newest run of an identity that has a whole checkpoint. Raises Missing."""
    for run in reversed(runs_of(person)):
        if run.latest_checkpoint():
            return run
    raise Missing("trained run of the identity", person.name, f"`pv train {person.name}` makes one.")


def prompts_in(source: str) -> tuple[str, ...]:
    """Prompts of a file, or of the bank of that name where there is no such file. Raises Missing or BadPrompt."""
    banks = Banks()
    if not Path(source).exists() and source in banks.names():
        return banks.get(source).prompts
    return read_prompt_file(Path(source))


def parse_formats(text: str) -> tuple[str, ...]:
    """Turn `mp4,gif` into formats. Raises UsageError."""
    formats = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [each for each in formats if each not in FORMATS]:
        raise UsageError(f"{unknown[0]!r} is no format.", f"Give {' or '.join(FORMATS)}, or both with a comma.")
    return formats


def plan(
    folder: RunFolder, job: TrainJob, prompts: Sequence[str], seeds: Iterable[int], out: Path, base: bool
) -> list[RenderItem]:
    """The clips of prompts × seeds by the run's newest checkpoint; with `base`, each after the same one without it."""
    adapter = adapter_of(folder)
    digest = sha256_of(adapter)
    person, out, names = job.identity.name, out.absolute(), Names(setup_of(job))
    trained: dict[str, Any] = {"adapter": str(adapter), "adapter_sha256": digest}
    trained |= {"run": folder.name, "step": checkpoint_step(adapter.parent)}
    items: list[RenderItem] = []
    for prompt in prompts:
        for seed in seeds:
            if base:
                clip = names.path(out, BASE, prompt, seed)
                items.append(RenderItem(identity=person, prompt=prompt, seed=seed, clip=clip))
            clip = names.path(out, person, prompt, seed, digest)
            items.append(RenderItem(identity=person, prompt=prompt, seed=seed, clip=clip, **trained))
    return items


def setup_of(settings: Settings) -> Setup:
    return Setup(model=settings.model, sampler=settings.sampler, adapter=settings.adapter)


def render_clips(
    settings: Settings,
    items: Sequence[RenderItem],
    out: Path,
    encoding: EncodingConfig,
    overwrite: bool,
    output: Output | None,
) -> None:
    """Make the clips that are not there, and tell of each unless `output` is None.

    Raises what the engine reports, SomeFailed when only some could be made.
    """
    setups = (setup_of(settings),)
    missing = list(items) if overwrite else missing_clips(items, setups, encoding)
    for item in items:
        if output and item not in missing:
            tell_clip(output, clip_facts(item, "skipped", encoding))
    if not missing:
        return
    job = RenderJob(items="", setups=setups, out=str(out), encoding=encoding, overwrite=overwrite, versions=versions())
    batch = make_batch(missing, job)
    with JobProgress() as progress:
        ended = run_batch(batch, missing, progress.on_event, lambda facts: output and tell_clip(output, facts))
    if ended.error:
        raise ended.error


def tell_clip(output: Output, facts: dict[str, Any]) -> None:
    """One line for a clip: its files for people, all that is known of it for programs."""
    if facts["status"] == "failed":
        output.stream(facts, f"failed   {shown(Path(facts['path']))}: {facts.get('reason', '')}")
        return
    for file in files_of(facts):
        output.stream({**facts, "path": str(file)}, f"{facts['status']:8} {shown(file)}")
