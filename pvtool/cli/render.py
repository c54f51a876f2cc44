"""`pv render`: plans clips, leaves out those that are there, and has engines make the others."""

import dataclasses
import gc
import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from pvtool.cli import render_options as options
from pvtool.cli.options import ControlFrames, ControlNet, Json, Seeds
from pvtool.cli.options import Loras as LoraWords
from pvtool.cli.progress import ClipProgress
from pvtool.cli.render_report import (
    FailureReport,
    list_clips,
    tell_adapters,
    tell_clip,
    tell_cuts,
    tell_mistake,
)
from pvtool.jobs.render import Outcome, clip_facts, make_batch, run_batch
from pvtool.jobs.settings import style_table, versions
from pvtool.output import Output
from pvtool_core.batches.columns import parse_seeds
from pvtool_core.batches.folder import write_refused
from pvtool_core.batches.plan import BatchPlan, Defaults, plan, states
from pvtool_core.batches.provenance import Provenance, provenance_of
from pvtool_core.batches.rows import Mistakes, Row, read_row_file, read_rows
from pvtool_core.errors import BadPrompt, PvError, SomeFailed, UsageError
from pvtool_core.paths import check_utf8, exists
from pvtool_core.settings.jobs import EncodingConfig, RenderItem, RenderJob
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
    everybody: options.Everybody = False,
    sources: options.Sources = None,
    again: options.Again = None,
    seeds: Seeds = None,
    run: options.Run = "",
    base: options.Base = False,
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
    sheet: options.Sheet = False,
    certificate: options.Certificate = None,
    key: options.Key = None,
    overwrite: options.Overwrite = False,
    retries: options.Retries = 0,
    at_once: options.AtOnce = "auto",
    shard: options.Part = None,
    devices: options.Devices = None,
    on: options.On = "",
    address: options.Address = "",
    cache_size: options.CacheSize = "20GB",
    keep_going: options.KeepGoing = False,
    dry_run: options.DryRun = False,
    as_json: Json = False,
) -> None:
    """One clip for each person, prompt, seed and LoRA set. What is there and whole is skipped.

    What a row of --prompts says wins over the options. --lora and --controlnet take the place of those that the run
    was trained with.
    """
    part = options.parse_shard(shard)
    check_utf8(out.absolute(), "Give another place with --out.")
    names, prompts = options.split_words(words or [], everybody, KEYWORD)
    origin = provenance_of(again, run, names) if again else None
    encoding = options.encoding_of(
        origin.encoding if origin else {},
        formats=format,
        codec=codec,
        loop=loop,
        upscale=upscale,
        certificate=certificate,
        key=key,
    )
    settings = options.setting_pairs(
        width=width,
        height=height,
        frames=frames,
        fps=fps,
        steps=steps,
        guidance=guidance,
        negative=negative,
    )
    job = RenderJob(
        items="",
        setups=(),
        out=str(out.absolute()),
        encoding=encoding,
        overwrite=overwrite,
        sheet=f"contact-sheet{part or ''}" if sheet else "",
        retries=retries,
        width=options.parse_at_once(at_once),
        on=options.check_place(on, address, devices),
        address=address,
        cache_gigabytes=options.parse_gigabytes(cache_size),
        versions=versions(),
    )
    engines = options.parse_devices(devices)
    output = Output(as_json)
    people, broken = whom(names, everybody, origin)
    for error in broken.values():
        output.say(f"Warning: {error.message} It is left out.")
    wanted = Defaults(
        people=people,
        seeds=seeds_of(seeds, origin),
        run=run,
        base=base,
        loras=options.lora_sets(loras, sets),
        settings=settings,
        control=style_table(None, controlnet, control_frames).get("model", {}).get("control"),
        trained=(origin.item.identity, origin.trained) if origin else None,
    )
    left_out = {f"identity {name}": error.message for name, error in broken.items()}

    def leave_out(source: str, error: PvError) -> None:
        left_out[source or error.message] = f"{error.message} {error.hint}".strip()
        tell_mistake(output, source, error)

    mistakes = Mistakes(leave_out if keep_going else None)
    with nothing_collected():
        rows = rows_of(prompts, sources or [], origin, mistakes)
        if not (keep_going and rows):
            mistakes.check()
        planned = plan(rows, wanted, out, encoding.upscale, part, mistakes)
    if not (keep_going and (planned.items or part)):
        mistakes.check()
    if origin:
        planned = as_before(planned, origin, encoding)
    refused = len(mistakes.places) + len(broken)
    tell_adapters(output, planned)
    tell_cuts(output, planned.all_cuts)
    if dry_run:
        list_clips(planned, encoding, output, overwrite)
        if refused:
            raise SomeFailed(refused, refused + len(planned.items))
        return
    make_folder(out)
    failures = FailureReport(planned, out, part)
    ended = render_clips(planned, job, engines, output, left_out)
    if ended.failed:
        failures.write(ended.failed)
        failures.tell(ended.failed, output)
    elif ended.error is None:
        failures.clear()
    if refused and (ended.error is None or isinstance(ended.error, SomeFailed)):
        raise SomeFailed(refused + len(ended.failed), refused + len(planned.items))
    if ended.error:
        raise ended.error


@contextmanager
def nothing_collected() -> Generator[None]:
    """Look for no garbage: of a hundred thousand rows all is kept, and looking again and again takes seconds."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def whom(
    names: Sequence[str], everybody: bool, origin: Provenance | None
) -> tuple[tuple[str, ...], dict[str, PvError]]:
    """Return the identities for rows that name none, and with --all what is wrong with each broken one.

    Raises UsageError if the library is empty, or the error itself if all of it is broken.
    """
    if not everybody:
        return tuple(names) or ((origin.item.identity,) if origin else ()), {}
    library = Library()
    usable: list[str] = []
    broken: dict[str, PvError] = {}
    for name in library.names():
        try:
            usable.append(library.get(name).ref.name)
        except PvError as error:
            broken[name] = error
    if not usable and broken:
        raise next(iter(broken.values()))
    if not usable:
        raise UsageError("There is nobody in the library.", "`pv identity add` adds a person.")
    return tuple(usable), broken


def seeds_of(text: str | None, origin: Provenance | None) -> tuple[int, ...]:
    if text is None:
        return (origin.item.seed if origin else 0,)
    return tuple(parse_seeds(text))


def rows_of(
    prompts: Sequence[str], sources: Sequence[str], origin: Provenance | None, mistakes: Mistakes
) -> list[Row]:
    """What is to be rendered. Raises UsageError if it is nothing; `mistakes` are what is wrong with it."""
    base = origin is not None and not origin.item.adapter_sha256
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
            "There is nothing to render.",
            f"Give prompts with {KEYWORD} in them, or --prompts FILE_OR_BANK.",
        )
    return rows


def rows_in(source: str, mistakes: Mistakes) -> list[Row]:
    """Rows of standard input, a file, or the bank of that name where there is no such file."""
    if source == "-":
        content = read_prompt_stream("standard input", sys.stdin.buffer)
        return read_rows("-", decode_prompts("standard input", content), mistakes)
    banks = Banks()
    if not exists(Path(source)) and source in banks.names():
        return [
            Row(prompt=prompt, source=f"the bank {source}") for prompt in banks.get(source).prompts
        ]
    return read_row_file(Path(source), mistakes)


def as_before(planned: BatchPlan, origin: Provenance, encoding: EncodingConfig) -> BatchPlan:
    """The plan, in which the clip that is made again goes through the model in as large a company as before."""
    widths = {"switch_width": origin.item.switch_width, "tail_width": origin.item.tail_width}
    planned.items = [
        dataclasses.replace(item, **widths)
        if origin.same_bits(item, planned.setups[item.setup], encoding.upscale)
        else item
        for item in planned.items
    ]
    return planned


def make_folder(out: Path) -> None:
    """Raises UsageError where there cannot be a folder that clips can be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise UsageError(
            f"There can be no folder at {out}.", "Give another place with --out."
        ) from error
    except OSError as error:
        raise UsageError(
            f"There can be no folder at {out}: {error.strerror}.", "Give another place with --out."
        ) from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise UsageError(f"Nothing can be written to {out}.", "Give another place with --out.")


def render_clips(
    planned: BatchPlan,
    job: RenderJob,
    devices: Sequence[str] = (),
    output: Output | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Outcome:
    """Make the clips that are not there, and tell of each unless `output` is None. For a sheet, all are looked at.

    `left_out` are refused rows with their reasons, for whoever watches the batch.
    """
    missing: list[RenderItem] = []
    lost = {item.clip: end for item in planned.items if (end := planned.lost(item))}
    for item, state in zip(planned.items, states(planned, job.encoding), strict=True):
        if job.overwrite or job.sheet or state != "there":
            missing.append(item)
        elif output:
            tell_clip(output, clip_facts(item, "skipped", job.encoding), lost.get(item.clip, ""))
    if not missing:
        return Outcome([], None)
    batch = make_batch(missing, dataclasses.replace(job, setups=tuple(planned.setups)), devices)
    if left_out:
        write_refused(batch.refused, left_out)
    with ClipProgress(len(missing)) as progress:

        def on_clip(facts: dict[str, Any]) -> None:
            progress.on_clip(facts)
            if output:
                tell_clip(output, facts, lost.get(facts["path"], ""))

        return run_batch(batch, missing, progress.on_event, on_clip, len(planned.items))
