"""`pv render`: plan clips, skip existing ones, and run engines for missing ones."""

import dataclasses
import gc
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from pvtool.cli import render_options as options
from pvtool.cli.batch import render_clips
from pvtool.cli.cut_prompts import warn_of_cuts
from pvtool.cli.options import ControlFrames, ControlNet, Json, Seeds
from pvtool.cli.options import Loras as LoraWords
from pvtool.cli.render_report import (
    FailureReport,
    list_clips,
    print_adapters,
    print_mistake,
)
from pvtool.jobs.settings import style_table
from pvtool.output import Output
from pvtool_core.api.machine import versions
from pvtool_core.batches.columns import parse_seeds
from pvtool_core.batches.plan import Defaults, choices_of, plan
from pvtool_core.batches.provenance import Provenance, provenance_of
from pvtool_core.batches.rows import Mistakes, Row, read_row_file, read_rows
from pvtool_core.errors import BadPrompt, PvError, UsageError
from pvtool_core.paths import check_utf8, exists
from pvtool_core.rendering.results import Outcome
from pvtool_core.settings.jobs import RenderJob
from pvtool_core.store.identities import Library
from pvtool_core.store.prompts import (
    KEYWORD,
    Banks,
    check_prompt,
    decode_prompts,
    read_prompt_stream,
)

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def render(
    words: options.Words = None,
    everyone: options.Everyone = False,
    sources: options.Sources = None,
    again: options.Again = None,
    seeds: Seeds = None,
    runs: options.Runs = None,
    methods: options.EncoderMethods = None,
    base: options.Base = False,
    base_models: options.BaseModels = None,
    strength: options.Strengths = None,
    start: options.Starts = None,
    start_sigma: options.StartSigmas = None,
    loras: LoraWords = None,
    sets: options.LoraSets = None,
    controlnet: ControlNet = None,
    control_frames: ControlFrames = None,
    width: options.Width = None,
    height: options.Height = None,
    frames: options.Frames = None,
    fps: options.Fps = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    negative: options.Negative = None,
    out: options.Out = Path("renders"),
    format: options.Format = None,
    codec: options.Codec = None,
    loop: options.Loop = None,
    upscale: options.Upscale = None,
    watermark: options.Watermark = None,
    sheet: options.Sheet = False,
    certificate: options.Certificate = None,
    key: options.Key = None,
    overwrite: options.Overwrite = False,
    likeness: options.Likeness = True,
    min_likeness: options.MinLikeness = None,
    max_tries: options.MaxTries = None,
    retries: options.Retries = 0,
    shard: options.Part = None,
    devices: options.Devices = None,
    on: options.On = "",
    address: options.Address = "",
    cache_size: options.CacheSize = "20GB",
    keep_going: options.KeepGoing = False,
    dry_run: options.DryRun = False,
    as_json: Json = False,
) -> None:
    """Render a clip for each identity, prompt, seed and LoRA set; complete clips are skipped.

    Several runs, base models, strengths and starts multiply the clips. Values in rows of --prompts
    override the options. --lora and --controlnet replace those of the training run.
    """
    part = options.parse_shard(shard)
    check_utf8(out.absolute(), "Use another folder with --out.")
    names, prompts = options.split_words(words or [], everyone, KEYWORD)
    origin = provenance_of(again, bool(runs or methods), names) if again else None
    encoding = options.encoding_of(
        origin.encoding if origin else {},
        formats=format,
        codec=codec,
        loop=loop,
        upscale=upscale,
        watermark=watermark,
        certificate=certificate,
        key=key,
    )
    choices = choices_of(
        {
            "base_model": base_models,
            "strength": strength,
            "start": start,
            "start_sigma": start_sigma,
            "width": width,
            "height": height,
            "frames": frames,
            "fps": fps,
            "steps": steps,
            "guidance": guidance,
            "negative": negative,
        }
    )
    job = RenderJob(
        items="",
        setups=(),
        out=str(out.absolute()),
        encoding=encoding,
        overwrite=overwrite,
        likeness=likeness,
        tries=options.parse_tries(likeness, min_likeness, max_tries),
        sheet=f"contact-sheet{part or ''}" if sheet else "",
        retries=retries,
        on=options.check_place(on, address, devices),
        address=address,
        cache_gigabytes=options.parse_gigabytes(cache_size),
        versions=versions(),
    )
    engines = options.parse_devices(devices)
    output = Output(as_json)
    people, corrupt = identities_of(names, everyone, origin)
    for error in corrupt.values():
        output.say(f"Warning: skipped identity: {error.message}")
    defaults = Defaults(
        people=people,
        seeds=seeds_of(seeds, origin),
        runs=tuple(dict.fromkeys(runs or [""])),
        methods=options.encoder_methods(methods, runs),
        base=base,
        strengths=choices.strengths or (origin.item.strength if origin else 1.0,),
        loras=options.lora_sets(loras, sets),
        settings=choices.settings,
        control=style_table(None, controlnet, control_frames).get("model", {}).get("control"),
        trained=(origin.item.identity, origin.trained) if origin else None,
    )
    left_out = {f"identity {name}": error.message for name, error in corrupt.items()}

    def leave_out(source: str, error: PvError) -> None:
        left_out[source or error.message] = f"{error.message} {error.hint}".strip()
        print_mistake(output, source, error)

    mistakes = Mistakes(leave_out if keep_going else None)
    with nothing_collected():
        rows = rows_of(prompts, sources or [], origin, mistakes)
        if not (keep_going and rows):
            mistakes.check()
        planned = plan(rows, defaults, out, encoding, part, mistakes)
    if not (keep_going and (planned.items or part)):
        mistakes.check()
    refused = len(mistakes.places) + len(corrupt)
    print_adapters(output, planned)
    warn_of_cuts(output, planned.all_cuts)
    if dry_run:
        list_clips(planned, job, output)
        Outcome(total=len(planned.items), refused=refused).raise_for_status()
        return
    make_folder(out)
    failures = FailureReport(planned, out, part, again)
    outcome = render_clips(planned, job, engines, output, left_out)
    if outcome.failed:
        failures.write(outcome.failed)
        failures.show(outcome.failed, output)
    elif outcome.error is None:
        failures.clear()
    dataclasses.replace(outcome, refused=refused).raise_for_status()


@contextmanager
def nothing_collected() -> Generator[None]:
    """Disable garbage collection, which takes seconds with a hundred thousand rows."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def identities_of(
    names: Sequence[str], everyone: bool, origin: Provenance | None
) -> tuple[tuple[str, ...], dict[str, PvError]]:
    """Return the identities for rows without one, and with --all the error of each corrupt one.

    Raises UsageError if the library is empty, or the error of an identity if all are corrupt.
    """
    if not everyone:
        return tuple(names) or ((origin.item.identity,) if origin else ()), {}
    library = Library()
    usable: list[str] = []
    corrupt: dict[str, PvError] = {}
    for name in library.names():
        try:
            usable.append(library.get(name).ref.name)
        except PvError as error:
            corrupt[name] = error
    if not usable and corrupt:
        raise next(iter(corrupt.values()))
    if not usable:
        raise UsageError("The library has no identities.", "Add one with `pv identity add`.")
    return tuple(usable), corrupt


def seeds_of(text: str | None, origin: Provenance | None) -> tuple[int, ...]:
    if text is None:
        return (origin.item.seed if origin else 0,)
    return tuple(parse_seeds(text))


def rows_of(
    prompts: Sequence[str], sources: Sequence[str], origin: Provenance | None, mistakes: Mistakes
) -> list[Row]:
    """Return the rows to render, and add invalid ones to `mistakes`.

    Raises UsageError without any row.
    """
    shown = origin is not None and (origin.item.adapter_sha256 or origin.item.reference)
    base = origin is not None and not shown
    rows: list[Row] = []
    for prompt in prompts:
        try:
            rows.append(Row(prompt=check_prompt(prompt), base=base))
        except BadPrompt as error:
            mistakes.add("", error)
    for source in sources:
        rows += rows_in(source, mistakes)
    if origin and not (prompts or sources):
        rows = [Row(prompt=origin.item.prompt, base=base)]
    if not rows and not mistakes.count:
        raise UsageError(
            "No prompts to render.",
            f"Add prompts with {KEYWORD}, or use --prompts FILE_OR_BANK.",
        )
    return rows


def rows_in(source: str, mistakes: Mistakes) -> list[Row]:
    """Read rows from standard input, a file, or the bank of that name if no such file exists."""
    if source == "-":
        content = read_prompt_stream("standard input", sys.stdin.buffer)
        return read_rows("-", decode_prompts("standard input", content), mistakes)
    banks = Banks()
    if not exists(Path(source)) and source in banks.names():
        return [
            Row(prompt=prompt, source=f"the bank {source}") for prompt in banks.get(source).prompts
        ]
    return read_row_file(Path(source), mistakes)


def make_folder(out: Path) -> None:
    """Create the output folder. Raises UsageError if clips cannot be written to it."""
    hint = "Use another folder with --out."
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"Cannot create output folder {out}: {_why(error)}.", hint) from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise UsageError(f"Cannot write to output folder {out}: permission denied.", hint)


def _why(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    return reason[:1].lower() + reason[1:]
