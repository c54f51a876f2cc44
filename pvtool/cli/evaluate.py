"""`pv eval`: evaluate runs, folders of rendered clips, and clips of other programs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pvtool.cli.completion import metric_words
from pvtool.cli.options import Json, preset_names, run_names
from pvtool.cli.render_options import Address, On, Part, check_place, parse_shard
from pvtool.cli.scores import evaluate_run, metrics_tables, render_evaluation, score_clips
from pvtool.jobs.settings import chosen_settings
from pvtool.output import Output
from pvtool.text import plain, shown
from pvtool_core.api.evaluate import (
    Choices,
    Report,
    folder_clips,
    of_known_identities,
    reference_clips,
)
from pvtool_core.batches.manifest import read_manifest
from pvtool_core.errors import Missing, UsageError
from pvtool_core.paths import check_utf8, exists, runs_dir
from pvtool_core.settings.jobs import (
    ADAPTER_METHOD,
    BASE_METHOD,
    PAGE,
    REPORT,
    SHEET,
    ClipFile,
)
from pvtool_core.settings.methods import METHODS
from pvtool_core.settings.schema import Settings
from pvtool_core.store.evaluation_report import CHECKPOINT_EVALUATION, EVALUATION
from pvtool_core.store.identities import Library
from pvtool_core.store.runs import RunFolder, find_run
from pvtool_core.store.summary import job_of
from pvtool_core.supervisor import shared_engines

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@shared_engines()
def evaluate(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN_OR_DIR]...", autocompletion=run_names, show_default=False),
    ] = None,
    clips: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of clips of any program.")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="CSV of these clips: file, identity, prompt, seed, method."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder. [default: with the clips]")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", autocompletion=metric_words, help="Compute only these metrics."
        ),
    ] = None,
    fvd_reference: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Videos that FVD compares with. [default: the base model's clips]"
        ),
    ] = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Evaluate every checkpoint of the run.")
    ] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Also write a page with the tables and the clips.")
    ] = False,
    shard: Part = None,
    on: On = "",
    address: Address = "",
    preset: Annotated[
        str | None,
        typer.Option(autocompletion=preset_names, help="Models that judge clips without a run."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate likeness, motion and prompt following, with 95 % intervals.

    A run is first rendered with its evaluation prompts and seeds, with and without the adapter.
    Existing clips and scores are reused. Clips of other programs are compared in the same table.
    """
    output = Output(as_json)
    if bool(clips) != bool(manifest):
        raise UsageError("--clips requires --manifest, and vice versa.", "Use both options.")
    if not targets and not clips:
        raise UsageError("Nothing to evaluate.", "Name a run or a folder, or use --clips.")
    if out and not clips and len(targets or []) > 1:
        raise UsageError("--out is for one run or folder.", "Evaluate them one by one.")
    if checkpoints and clips:
        raise UsageError("--checkpoints evaluates a run only.", "Omit --clips.")
    part = parse_shard(shard)
    choices = Choices(
        metrics=tuple(filter(None, (metrics or "").replace(" ", "").split(","))),
        fvd_reference=reference_clips(fvd_reference.absolute()) if fvd_reference else (),
        page=html,
        shard=part.number if part else 1,
        shards=part.count if part else 1,
        on=check_place(on, address, None),
        address=address,
    )
    if clips and manifest:
        report, place = evaluate_foreign(targets or [], clips, manifest, out, preset, choices)
        show(output, str(clips), place, report, html)
        return
    for target in targets or []:
        report, place = evaluate_target(target, out, preset, checkpoints, choices)
        show(output, target, place, report, html)


def show(output: Output, target: str, place: Path, report: Report, page: bool) -> None:
    """Print a report; a shard has none."""
    if not report:
        output.say("Scored this shard. Run `pv eval` without --shard for the report.")
        return
    files = {"report": REPORT, "sheet": SHEET, **({"page": PAGE} if page else {})}
    paths = {key: place / name for key, name in files.items()}
    words = {"report": "Report", "sheet": "Contact sheet", "page": "Page"}
    lines = [f"{words[key]}: {shown(path)}" for key, path in paths.items()]
    facts = {key: str(path) for key, path in paths.items()}
    output.stream({"target": target, **facts, **report}, *metrics_tables(report), "\n".join(lines))


def evaluate_target(
    target: str, out: Path | None, preset: str | None, checkpoints: bool, choices: Choices
) -> tuple[Report, Path]:
    """Evaluate a run or a folder; return the report and its folder."""
    if folder := _folder(target):
        if checkpoints:
            raise UsageError("--checkpoints evaluates a run only.", "Name a run.")
        clips, run = folder_clips(folder)
        place = out.absolute() if out else folder
        settings = _settings(run, preset or (None if run else _preset_of(clips)))
        return score_known(settings, clips, place, choices), place
    run_folder = find_run(runs_dir(), target)
    place = out.absolute() if out else _place(run_folder, checkpoints)
    return evaluate_run(run_folder, place, checkpoints=checkpoints, choices=choices), place


def evaluate_foreign(
    targets: list[str],
    folder: Path,
    manifest: Path,
    out: Path | None,
    preset: str | None,
    choices: Choices,
) -> tuple[Report, Path]:
    """Evaluate the clips of a manifest beside those of runs and folders of pv."""
    if not folder.is_dir():
        raise Missing("folder", str(folder), "Use the folder of the clips.")
    foreign = read_manifest(manifest, folder.absolute(), Library().names())
    output = Output()
    for name in foreign.ignored:
        output.say(f"Warning: the column {name!r} of {shown(manifest)} is unknown and ignored.")
    for where, reason in foreign.refused.items():
        output.say(f"Warning: {where}: {reason}; the row is skipped.")
    clips: list[ClipFile] = []
    run = ""
    for target in targets:
        if own := _folder(target):
            found, named = folder_clips(own)
        else:
            run_folder, named = find_run(runs_dir(), target), target
            found = render_evaluation(run_folder, _place(run_folder, False))
        clips.extend(_named_by(target, found) if len(targets) > 1 else found)
        run = run or named
    clips.extend(foreign.clips)
    place = out.absolute() if out else folder.absolute()
    return score_known(_settings(run, preset), _with_one_base(clips), place, choices), place


def _named_by(target: str, clips: Sequence[ClipFile]) -> list[ClipFile]:
    """Return the clips with the target in the methods of those with an adapter."""

    def named(method: str) -> str:
        if method.partition(",")[0] == BASE_METHOD:
            return method
        return target if method == ADAPTER_METHOD else f"{target}, {method}"

    return [replace(clip, method=named(clip.method)) for clip in clips]


def _with_one_base(clips: Sequence[ClipFile]) -> list[ClipFile]:
    """Return the clips without repeated ones of the base model: each run has its own."""
    shown: set[tuple[str, str, int]] = set()
    kept: list[ClipFile] = []
    for clip in clips:
        pair = (clip.identity, clip.prompt, clip.seed)
        if clip.method != BASE_METHOD or pair not in shown:
            kept.append(clip)
        if clip.method == BASE_METHOD:
            shown.add(pair)
    return kept


def score_known(
    settings: Settings, clips: Sequence[ClipFile], place: Path, choices: Choices
) -> Report:
    """Score the clips of identities in the library, and warn of unknown identities."""
    known, identities = of_known_identities(clips)
    if lost := sorted({clip.identity for clip in clips} - {each.name for each in identities}):
        names = ", ".join(map(plain, lost))
        Output().say(f"Warning: unknown identities, whose clips are not scored: {names}.")
    return score_clips(settings, identities, known, place, choices)


def _folder(target: str) -> Path | None:
    """Return the folder that a target names, or None for a run. Raises Missing."""
    path = Path(target).absolute()
    if exists(path) and path.is_dir():
        return check_utf8(path)
    if "/" in target:
        raise Missing("folder", target, "Use a run, or a folder written by `pv render`.")
    return None


def _place(run: RunFolder, checkpoints: bool) -> Path:
    return run.path / (CHECKPOINT_EVALUATION if checkpoints else EVALUATION)


def _preset_of(clips: Sequence[ClipFile]) -> str | None:
    """Return the preset of the encoder method of the clips, whose models judge them; or None."""
    methods = (METHODS.get(clip.method.partition(",")[0]) for clip in clips)
    return next((method.preset for method in methods if method), None)


def _settings(run: str, preset: str | None) -> Settings:
    """Return the settings of a run, or of a preset; the judges are part of them."""
    if run and not preset:
        return job_of(find_run(runs_dir(), run))
    return chosen_settings(preset)[1]
