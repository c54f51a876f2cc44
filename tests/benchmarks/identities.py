"""Measure how well the method learns unseen people, and write the page of results.

    python -m tests.benchmarks.identities --people 6 --first 10 --out DIR
        [--set section.key=value]... [--jobs 2] [--resume] [--write docs/results.md]


Each person goes through the commands of a user: one drawn photo, `pv identity add`, `pv train`, `pv
render` with and without the adapter on unseen prompts and seeds. One `pv eval` then compares all
clips with drawings of the same people in the scenes of these prompts: `drawn`, the ceiling. All
files are in DIR, which is a PV_HOME with one cache for all people; look at DIR/report before you
trust the numbers. `--preset random` uses the small random models of the tests.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import tomli_w
import torch
from PIL import Image
from torch import Generator

from pvtool.cli.scores import metrics_tables
from pvtool.jobs.settings import chosen_settings
from pvtool_core.backbones.interface import to_pixels
from pvtool_core.batches.adapters import newest_run
from pvtool_core.batches.manifest import COLUMNS
from pvtool_core.errors import PvError
from pvtool_core.files import replace_file
from pvtool_core.media.encode import write_clip
from pvtool_core.models.fingerprints import fingerprint
from pvtool_core.models.locate import resolve_settings
from pvtool_core.paths import config_dir, presets_dir, runs_dir
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.schema import Settings
from pvtool_core.settings.toml import to_table
from pvtool_core.store.event_log import read_records
from pvtool_core.store.identities import Library
from pvtool_core.store.liveness import LIVE, State
from pvtool_core.store.prompts import Banks
from pvtool_core.store.run_index import runs_of
from pvtool_core.store.runs import RunFolder, find_run
from pvtool_core.store.summary import job_of
from pvtool_core.supervisor import follow
from pvtool_core.tinyworld import world
from tests.support.small_models import random_job, save_models

FIRST_SEED = 9_000_000
"""Far from the seeds of all training data."""

WORDS = {
    "background": world.BACKGROUNDS,
    "clothes": world.CLOTHES,
    "action": world.ACTIONS,
    "expression": world.EXPRESSIONS,
}


@dataclass(frozen=True)
class Person:
    """One unseen identity of the tiny world."""

    name: str
    noun: str
    index: int

    @staticmethod
    def unseen(index: int) -> "Person":
        noun = world.NOUNS[index % 2]
        return Person(f"{noun}-{index}", noun, index)

    @property
    def looks(self) -> world.People:
        return world.draw_people(1, Generator().manual_seed(FIRST_SEED + self.index), self.noun)


@dataclass(frozen=True)
class Benchmark:
    """Preset and settings of the benchmark, and its folder."""

    out: Path
    preset: str
    sets: tuple[str, ...]
    seed: int


class CommandFailed(Exception):
    """A command failed; the message has its arguments and its error."""


def main() -> None:
    options = parse_arguments()
    out: Path = options.out.absolute()
    set_home(out, options.cache)
    if options.preset == "random":
        save_random_preset(out)
    benchmark = Benchmark(out, options.preset, tuple(options.sets), options.seed)
    check_resumable(benchmark, options.resume)
    people = [Person.unseen(options.first + index) for index in range(options.people)]
    if options.only_add:
        for person in people:
            add(person, benchmark)
        print(f"PV_HOME={out / 'home'}")
        return
    with ThreadPoolExecutor(options.jobs) as pool:  # each waits for its subprocesses
        try:
            runs = list(pool.map(run_of, people, repeat(benchmark)))
        except CommandFailed as error:
            sys.exit(str(error))
    report = evaluated(people, runs, benchmark)
    print(*metrics_tables(report), sep="\n\n")
    print(f"{fmean(map(seconds_of, runs)):.0f} s for the iterations of a person")
    print(out / "report/report.html")
    if options.write:
        page = results_page(report, benchmark, len(people), options.other)
        replace_file(options.write, page.encode())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        help="skip this many people, for example those that settings were tuned on",
    )
    parser.add_argument("--preset", default="tiny")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="sets",
        metavar="KEY=VALUE",
        help="setting of pv train; repeatable",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the training; the people stay the same"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="people in parallel, with one thread each"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        help="cache shared with other benchmarks [default: DIR/home/cache]",
    )
    parser.add_argument("--resume", action="store_true", help="continue the benchmark in DIR")
    parser.add_argument(
        "--only-add", action="store_true", help="add the people to DIR/home, for sweeps"
    )
    parser.add_argument("--write", type=Path, help="write the table to this Markdown file")
    parser.add_argument(
        "--other",
        type=Path,
        action="append",
        default=[],
        help="also list the alarms of a finished benchmark in this folder; repeatable",
    )
    return parser.parse_args()


def set_home(out: Path, shared_cache: Path | None) -> None:
    """Set PV_HOME and one thread for this process and its subprocesses."""
    home = out / "home"
    home.mkdir(parents=True, exist_ok=True)
    if shared_cache and not (home / "cache").exists():
        shared_cache.mkdir(parents=True, exist_ok=True)
        (home / "cache").symlink_to(shared_cache.absolute(), target_is_directory=True)
    os.environ |= {"PV_HOME": str(home), "OMP_NUM_THREADS": "1"}
    config_dir().mkdir(exist_ok=True)
    (config_dir() / "config.toml").write_text("[model]\nthreads = 1\n")
    torch.set_num_threads(1)


def save_random_preset(out: Path) -> None:
    """Write a preset with the small random models and the tiny world's prompts."""
    if not (out / "models").is_dir():
        (out / "models").mkdir()
        save_models(out / "models")
    settings = to_table(Settings(**random_job(out / "models").sections()))
    settings["evaluation"]["prompts"] = "tiny-unseen"
    (config_dir() / "presets").mkdir(exist_ok=True)
    (config_dir() / "presets/random.toml").write_text(
        tomli_w.dumps({"preset": {"prompts": "tiny"}, **settings})
    )


def check_resumable(benchmark: Benchmark, resume: bool) -> None:
    """Exit if the folder has another benchmark, or one to continue without `--resume`."""
    try:
        settings = resolve_settings(chosen_settings(benchmark.preset, list(benchmark.sets))[1])
    except PvError as error:
        sys.exit(f"{error.message} {error.hint}")
    judges = (
        settings.identity_reward.package,
        settings.semantic_reward.model,
        settings.evaluation.text_model,
    )
    weights = [settings.model.fingerprint, *(fingerprint(Path(each)) for each in judges)]
    wanted = json.dumps(
        {"settings": to_table(settings), "weights": weights, "seed": benchmark.seed}, indent=1
    )
    note = benchmark.out / "benchmark.json"
    if note.exists() and not resume:
        sys.exit(
            f"{benchmark.out} has a benchmark: continue it with --resume, or choose another folder."
        )
    if note.exists() and note.read_text() != wanted:
        sys.exit(f"{benchmark.out} has a benchmark with other settings or weights: {note}")
    note.write_text(wanted)


def run_of(person: Person, benchmark: Benchmark) -> RunFolder:
    """Enrol, train and render one person; what exists is reused."""
    add(person, benchmark)
    run = trained(person, benchmark)
    render(person, run, benchmark.out / "clips")
    print(f"{person.name}: {run.name}", file=sys.stderr, flush=True)
    return run


def pv(*words: str) -> str:
    """Run a command and return its stdout.

    Raises CommandFailed with its error message.
    """
    command = [sys.executable, "-P", "-m", "pvtool.cli.main", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        text = ended.stderr[max(ended.stderr.rfind("Error: "), 0) :].strip()
        raise CommandFailed(
            f"`pv {' '.join(words)}` failed with exit status {ended.returncode}.\n{text}"
        )
    return ended.stdout


def add(person: Person, benchmark: Benchmark) -> None:
    """Add the person to the library with one photo, 256 × 256 pixels, without hands."""
    if person.name in Library().names():
        return
    photo = photo_of(person, benchmark.out)
    photo.parent.mkdir(exist_ok=True)
    scene = world.draw_scenes(1, Generator().manual_seed(FIRST_SEED + 500_000 + person.index))
    scene.action.clamp_(min=1)
    picture, _ = world.still(person.looks, scene, 0, size=256)
    Image.fromarray(to_pixels(picture)[0]).save(photo)
    about = (
        "--class",
        person.noun,
        "--adult",
        "--consent",
        "Drawn by a program; not a real person.",
        "--preset",
        benchmark.preset,
    )
    pv("identity", "add", person.name, str(photo), *about)


def photo_of(person: Person, out: Path) -> Path:
    return out / f"photos/{person.name}.png"


def trained(person: Person, benchmark: Benchmark) -> RunFolder:
    """Return the person's finished run; start or resume it if necessary."""
    runs = runs_of(Library().get(person.name))
    if not runs:
        sets = [word for each in benchmark.sets for word in ("--set", each)]
        pv("train", person.name, "--preset", benchmark.preset, "--seed", str(benchmark.seed), *sets)
    elif runs[-1].state() in LIVE:
        follow(runs[-1], lambda event: None)
    elif runs[-1].state() != State.FINISHED:
        pv("runs", "resume", runs[-1].name)
    identity = Library().get(person.name)
    return find_run(runs_dir(), newest_run(identity, runs_of(identity)).run)


def seconds_of(run: RunFolder) -> float:
    """Return the seconds of all iterations, without loading and caching."""
    return sum(event["seconds"] for event in read_records(run.events)[0] if event["type"] == "step")


def render(person: Person, run: RunFolder, clips: Path) -> None:
    """Render the evaluation prompts and seeds with and without the adapter."""
    evaluation = job_of(run).evaluation
    bank = presets_dir() / f"prompts/{evaluation.prompts}.toml"
    seeds = ",".join(map(str, evaluation.seeds))
    chosen = ("--prompts", str(bank), "--seed", seeds, "--base", "--watermark", "off")
    pv("render", person.name, *chosen, "--out", str(clips))


def evaluated(
    people: Sequence[Person], runs: Sequence[RunFolder], benchmark: Benchmark
) -> dict[str, Any]:
    """Return the report on all clips, beside drawings of the same people and prompts."""
    out, drawn = benchmark.out, benchmark.out / "drawn"
    drawn.mkdir(exist_ok=True)
    rows = [
        row for person, run in zip(people, runs, strict=True) for row in draw(person, run, drawn)
    ]
    with (drawn / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])
    foreign = ("--clips", str(drawn), "--manifest", str(drawn / "clips.csv"))
    chosen = ("--preset", benchmark.preset, "--out", str(out / "report"), "--html")
    pv("eval", str(out / "clips"), *foreign, *chosen)
    return json.loads((out / "report/report.json").read_bytes())


def draw(person: Person, run: RunFolder, folder: Path) -> list[dict[str, Any]]:
    """Write the person's drawn clips for every prompt and seed; return their manifest's rows."""
    job = job_of(run)
    rows: list[dict[str, Any]] = []
    texts = Banks().get(job.evaluation.prompts).fill(job.identity.noun)
    for number, prompt in enumerate(texts):
        for seed in job.evaluation.seeds:
            clip = folder / person.name / f"{number}-{seed}"
            about = {"identity": person.name, "prompt": prompt, "seed": seed, "method": "drawn"}
            rows.append({"file": f"{person.name}/{clip.name}.mp4", **about})
            if not clip.with_name(f"{clip.name}.mp4").is_file():
                clip.parent.mkdir(exist_ok=True)
                write_clip(clip, drawing(person, prompt, seed, job), job.model.fps, {})
    return rows


def drawing(person: Person, prompt: str, seed: int, job: TrainJob) -> np.ndarray:
    """Return the frames of a person in the scene of a prompt."""
    model, scene = job.model, scene_of(prompt, seed)
    frames, _ = world.clip(person.looks, scene, model.num_frames, model.width)
    return to_pixels(frames[0])


def scene_of(prompt: str, seed: int) -> world.Scenes:
    """Return the scene of a prompt of the tiny world.

    Attributes that the prompt does not mention are random, by the seed.
    """
    scene = world.draw_scenes(1, Generator().manual_seed(FIRST_SEED + seed))
    for kind, words in WORDS.items():
        getattr(scene, kind)[0] = words.index(named(prompt, words))
    return scene


def named(prompt: str, words: Sequence[str]) -> str:
    """Return the one of `words` that the prompt contains."""
    (word,) = [word for word in words if word in prompt]
    return word


def results_page(
    report: dict[str, Any], benchmark: Benchmark, people: int, others: Sequence[Path]
) -> str:
    """Return docs/results.md: the tables of the report in Markdown, and the alarms of others."""
    methods = report["methods"]
    lines = ["| metric | base model | with adapter | change | drawn |", "|---|---|---|---|---|"]
    for key, metric in report["metrics"].items():
        cells = [value_of(methods[name]["means"].get(key)) for name in ("base", "adapter")]
        cells.append(change_of(methods["adapter"]["differences"].get(key)))
        cells.append(value_of(methods["drawn"]["means"].get(key)))
        label = f"{metric['label']} (reward)" if metric["reward"] else metric["label"]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    identities = [
        "| person | base model | with adapter | drawn | alarms |",
        "|---|---|---|---|---|",
    ]
    for name, each in report["identities"].items():
        own = each["methods"]
        cells = [f"{own[method]['likeness']:.3f}" for method in ("base", "adapter", "drawn")]
        cells.append("<br>".join(of_adapter(each["alarms"])) or "none")
        identities.append(f"| {name} | {' | '.join(cells)} |")
    command = f"python -m tests.benchmarks.identities --people {people} --first 10 --out DIR"
    command += "".join(f" --set {each}" for each in benchmark.sets)
    return PAGE.format(
        command=f"{command} --write docs/results.md",
        clips=methods["adapter"]["clips"],
        people=people,
        table="\n".join(lines),
        identities="\n".join(identities),
        alarms="\n".join(f"- {each}" for each in of_adapter(report["alarms"])) or "None.",
        others="\n".join(alarms_of_other(benchmark.out, each.absolute()) for each in others),
    )


def of_adapter(alarms: Sequence[str]) -> list[str]:
    return [alarm for alarm in alarms if alarm.startswith("adapter: ")]


def alarms_of_other(clean: Path, other: Path) -> str:
    """Return the settings in which another benchmark differs, and the alarms of each person."""
    ours, theirs = (
        json.loads((folder / "benchmark.json").read_text())["settings"] for folder in (clean, other)
    )
    changed = [
        f"`{section}.{key} = {value}`"
        for section, table in theirs.items()
        for key, value in table.items()
        if ours.get(section, {}).get(key) != value
    ]
    report = json.loads((other / "report/report.json").read_bytes())
    lines = [f"\nWith {', '.join(changed)}:\n"]
    for name, each in report["identities"].items():
        lines += [f"- {name}: {alarm}" for alarm in of_adapter(each["alarms"])] or [
            f"- {name}: none"
        ]
    return "\n".join(lines)


def value_of(number: dict[str, Any] | None) -> str:
    if number is None:
        return ""
    interval = "" if number["low"] is None else f" [{number['low']:.3f}, {number['high']:.3f}]"
    return f"{number['mean']:.3f}{interval}"


def change_of(number: dict[str, Any] | None) -> str:
    if number is None:
        return ""
    return value_of(number) + ("" if number["significant"] else " (n.s.)")


PAGE = """\
# Results on the tiny preset

{people} cartoon people that no model of the preset has seen, with one photo each; {clips} clips
with the adapter and as many of the base model, on unseen prompts and seeds. Values are means over
people with 95 % intervals ([Evaluation](evaluation.md)). Changes are over pairs of equal prompt and
seed; `n.s.` marks those whose interval contains 0. `drawn` are drawings of the same people in the
scenes of the prompts: what a perfect model would reach. These scores do not predict those of large
models on real people. [Other base models, styles, strengths and starts](results-transfer.md) are on
a page of their own.

```console
{command}
```

{table}

## Likeness by person

{identities}

## Alarms

Of all people together: {alarms}
{others}
"""


if __name__ == "__main__":
    main()
