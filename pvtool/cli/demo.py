"""`pv demo`: the full pipeline with the shipped models and sample photos."""

from pathlib import Path
from typing import Annotated

import typer

from pvtool.cli.options import Json
from pvtool.cli.progress import JobProgress
from pvtool.cli.scores import evaluate_run, metrics_tables
from pvtool.cli.training import follow_other, follow_training
from pvtool.jobs.prepare import add_identity, choose, prepare
from pvtool.jobs.settings import chosen_settings
from pvtool.output import Output
from pvtool.text import shown
from pvtool_core.errors import Missing
from pvtool_core.models.locate import resolve_settings
from pvtool_core.paths import data_dir, presets_dir
from pvtool_core.settings.jobs import REPORT, SHEET
from pvtool_core.store.consent_record import Statement
from pvtool_core.store.identities import Identity, Library
from pvtool_core.store.liveness import LIVE, State
from pvtool_core.store.run_index import runs_of
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import job_of
from pvtool_core.supervisor import shared_engines

app = typer.Typer(rich_markup_mode=None, add_completion=False)

PRESET = "tiny"
CONSENT = Statement(
    text="A cartoon character drawn by a program; not a real person.", adult=True, scope="public"
)
PROMPTS, SEEDS = 4, 2


@app.command()
@shared_engines()
def demo(
    sample: Annotated[
        str | None, typer.Option(help="Sample identity. [default: the first]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the full pipeline on a sample identity: enroll, train, render, evaluate.

    Run again to resume.
    """
    output = Output(as_json)
    picture, name, noun = find_sample(sample)
    output.say(f"1/4  Enrolling {name} from one photo: {shown(picture)}")
    if name not in Library().names():
        with JobProgress() as progress:
            add_identity(name, [picture], noun, 0, CONSENT, PRESET, progress.on_event)
    output.say(f"2/4  Training an adapter for {name}")
    folder = trained_run(name, output)
    out = data_dir() / "demo" / folder.name
    output.say(f"3/4  Rendering and evaluating {PROMPTS} evaluation prompts × {SEEDS} seeds")
    report = evaluate_run(folder, out, PROMPTS, SEEDS)
    output.say("4/4  Done")
    places = {"identity": Library().get(name).folder, "run": folder.path, "clips": out / name}
    places |= {"report": out / REPORT, "contact_sheet": out / SHEET}
    words = "\n".join(
        f"{key.replace('_', ' ').capitalize():14} {shown(path)}" for key, path in places.items()
    )
    paths = {key: str(path) for key, path in places.items()}
    output.result({**paths, "scores": report}, *metrics_tables(report), words)


def find_sample(wanted: str | None) -> tuple[Path, str, str]:
    """Return photo, name and class noun of a sample; its file is NAME-NOUN.png.

    Raises Missing.
    """
    samples = {
        path.stem.rpartition("-")[0]: path
        for path in sorted((presets_dir() / "tiny/samples").glob("*-*.png"))
    }
    name = wanted or next(iter(samples), "")
    if name not in samples:
        raise Missing("sample", name, f"Available: {', '.join(samples) or 'none'}.")
    return samples[name], name, samples[name].stem.rpartition("-")[2]


def trained_run(name: str, output: Output) -> RunFolder:
    """Return the newest demo run of the identity, resumed if unfinished, or a new one."""
    folder = newest_demo_run(Library().get(name)) or prepare(choose(name, PRESET))
    state = folder.state()
    if state == State.FINISHED:
        output.say(f"     {folder.name} is already trained.")
    elif state in LIVE:
        follow_other(folder)
    else:
        follow_training(folder)
    return folder


def newest_demo_run(person: Identity) -> RunFolder | None:
    """Return the newest run of the identity on the shipped weights.

    Runs on older weights cannot be resumed.
    """
    shipped = resolve_settings(chosen_settings(PRESET)[1]).model.fingerprint
    for run in reversed(runs_of(person)):
        job = job_of(run)
        if (job.preset, job.model.fingerprint) == (PRESET, shipped):
            return run
    return None
