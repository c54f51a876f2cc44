"""Measure how well the method learns unseen people: similarity before and after training.

    python -m tests.benchmarks.identities --people 6 --out DIR [--set section.key=value]...
        [--jobs 2] [--resume]


Each person goes through the same commands as a user's identity: one drawn photo, `pv identity add`,
`pv train`, `pv render` with and without the adapter on unseen prompts and seeds, `pv eval`. The
ceiling (`drawn`) is the same person drawn in the scenes of these prompts, saved to the same file
format and scored by the same held-out recogniser. `stranger` is the score of other drawn people
with the same class noun. All files are in DIR, which is a PV_HOME with one cache for all people;
look at people.png before you trust results.json. `--preset random` uses the small random models of
the tests.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import tomli_w
import torch
from PIL import Image
from torch import Generator

from pvtool.jobs.settings import chosen_settings
from pvtool.output import table
from pvtool_core.backbones.interface import to_pixels
from pvtool_core.batches.adapters import newest_run
from pvtool_core.batches.clips import Names, write_sidecar
from pvtool_core.errors import PvError
from pvtool_core.evaluation.clip import Clip, read_clip
from pvtool_core.evaluation.evaluator import Evaluator
from pvtool_core.evaluation.report import gap_alarm, mean, mean_numbers
from pvtool_core.files import replace_file
from pvtool_core.media.contact_sheet import SheetRow, write_contact_sheet
from pvtool_core.media.decode import Pixels
from pvtool_core.media.encode import write_clip
from pvtool_core.media.photos import read_picture
from pvtool_core.models.fingerprints import fingerprint
from pvtool_core.models.locate import resolve_settings
from pvtool_core.paths import config_dir, presets_dir, runs_dir
from pvtool_core.settings.jobs import EncodingConfig, EvaluateJob, Setup, TrainJob
from pvtool_core.settings.schema import Settings
from pvtool_core.settings.toml import to_table
from pvtool_core.store.event_log import read_records
from pvtool_core.store.identities import Library
from pvtool_core.store.liveness import LIVE, State
from pvtool_core.store.prompts import Banks, without_keyword
from pvtool_core.store.run_index import runs_of
from pvtool_core.store.runs import RunFolder, find_run
from pvtool_core.store.summary import job_of
from pvtool_core.supervisor import follow
from pvtool_core.tinyworld import world
from tests.support.small_models import random_job, save_models

FIRST_SEED = 9_000_000
"""Far from the seeds of all training data."""

STAGES = ("before", "after", "drawn")
WORDS = {
    "background": world.BACKGROUNDS,
    "clothes": world.CLOTHES,
    "action": world.ACTIONS,
    "expression": world.EXPRESSIONS,
}
STRANGERS = 50
JUDGING = threading.Lock()
PROMPTS_ON_SHEET, FRAMES_ON_SHEET = slice(None, None, 3), (1, 5)

Numbers = dict[str, float]
Row = dict[str, Any]
"""Results of a person.

Keys: name, noun, run, seconds (of the iterations), stranger, and for each stage a dict of all
metrics, and `obeys_background` and so on in per cent.
"""


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
    with ThreadPoolExecutor(options.jobs) as pool:  # each waits for its subprocesses
        try:
            rows = list(
                collected({pool.submit(row_of, person, benchmark): person for person in people})
            )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    rows.sort(key=lambda row: [person.name for person in people].index(row["name"]))
    if rows:
        report(rows, benchmark)
    if len(rows) < len(people):
        sys.exit(
            f"{len(people) - len(rows)} of {len(people)} people failed; the mean is without them."
        )


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
    judges = (settings.identity_reward.package, settings.semantic_reward.model)
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


def collected(futures: Mapping[Future[Row], Person]) -> Iterator[Row]:
    """Yield the row of each person when it is finished; report failed ones on stderr."""
    for future in as_completed(futures):
        person = futures[future]
        if isinstance(error := future.exception(), CommandFailed):
            print(f"{person.name}: {error}", file=sys.stderr, flush=True)
            continue
        row = future.result()
        before, after = (row[stage]["identity_similarity"] for stage in ("before", "after"))
        print(f"{person.name}: {before:.3f} → {after:.3f}", file=sys.stderr, flush=True)
        yield row


def row_of(person: Person, benchmark: Benchmark) -> Row:
    """Train, render and score one person, or load an earlier result."""
    done = benchmark.out / f"rows/{person.name}.json"
    if not done.is_file():
        done.parent.mkdir(exist_ok=True)
        add(person, benchmark)
        run = trained(person, benchmark)
        report = rendered_and_scored(person, run, benchmark.out / "clips" / person.name)
        row = {
            "name": person.name,
            "noun": person.noun,
            "run": run.name,
            "seconds": seconds_of(run),
        }
        with JUDGING:
            row |= completed(person, run, benchmark.out, report)
        replace_file(done, json.dumps(row, indent=1).encode())
    return json.loads(done.read_bytes())


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


def rendered_and_scored(person: Person, run: RunFolder, clips: Path) -> dict[str, Numbers]:
    """Render with and without the adapter and return the scores of `pv eval`."""
    evaluation = job_of(run).evaluation
    bank, seeds = (
        presets_dir() / f"prompts/{evaluation.prompts}.toml",
        ",".join(map(str, evaluation.seeds)),
    )
    pv(
        "render",
        person.name,
        "--prompts",
        str(bank),
        "--seed",
        seeds,
        "--base",
        "--out",
        str(clips),
    )
    return json.loads(pv("eval", str(clips), "--json"))["identities"][person.name]


def completed(person: Person, run: RunFolder, out: Path, report: Mapping[str, Numbers]) -> Row:
    """Add prompt accuracy, the ceiling and the stranger, scored by the same judges."""
    job = job_of(run)
    judge = Evaluator(EvaluateJob(**job.sections(), identities=(), sidecars=(), report=""))
    draw(person, job, out / "drawn")
    clips = clips_of(person, out)
    (subject,) = job.subjects
    numbers = {
        **report,
        "drawn": mean([judge.scores(each, subject) for each in clips["drawn"]]),
    }
    crowd = Clip({"prompt": f"a {person.noun}"}, strangers(person, job.model.width))
    stages = {stage: numbers[stage] | prompt_accuracy(judge, clips[stage]) for stage in STAGES}
    return {**stages, "stranger": judge.scores(crowd, subject)["identity_similarity"]}


def draw(person: Person, job: TrainJob, folder: Path) -> None:
    """Write the person's drawn clips for every prompt and seed, in the format of rendered clips."""
    texts = Banks().get(job.evaluation.prompts).fill(job.identity.noun)
    names = Names(Setup(model=job.model, sampler=job.sampler, adapter=job.adapter))
    for prompt, seed in [(text, seed) for text in texts for seed in job.evaluation.seeds]:
        frames, _ = world.clip(
            person.looks, scene_of(prompt, seed), job.model.num_frames, job.model.width
        )
        clip = Path(names.path(folder, person.name, prompt, seed))
        clip.parent.mkdir(parents=True, exist_ok=True)
        facts = {"identity": person.name, "prompt": prompt, "seed": seed, "adapter": ""}
        write_clip(clip, to_pixels(frames[0]), job.model.fps, facts)
        write_sidecar(clip, "drawn", EncodingConfig(), facts)


def clips_of(person: Person, out: Path, seeds: str = "*") -> dict[str, list[Clip]]:
    """Return rendered and drawn clips by stage.

    `seeds` is a glob pattern of their six digits.
    """
    made, drawn = (
        [read_clip(path) for path in sorted(folder.rglob(f"seed-{seeds}.json"))]
        for folder in (out / "clips" / person.name, out / "drawn" / person.name)
    )
    return {
        **{stage: [clip for clip in made if clip.stage == stage] for stage in ("before", "after")},
        "drawn": drawn,
    }


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


def strangers(person: Person, size: int) -> Pixels:
    """Draw other people with the same class noun, one frame of each."""
    generator = Generator().manual_seed(FIRST_SEED + 600_000 + person.index)
    people = world.draw_people(STRANGERS, generator, person.noun)
    return to_pixels(world.still(people, world.draw_scenes(STRANGERS, generator), 0, size=size)[0])


def prompt_accuracy(judge: Evaluator, clips: Sequence[Clip]) -> Numbers:
    """Return how often the prompt's word scores best of its kind, over all frames, in per cent.

    A single frame shows little of an action: compare that value with `drawn` only.
    """
    text = cache(judge.judges.reader.text)
    hits: dict[str, list[float]] = {kind: [] for kind in WORDS}
    for clip in clips:
        prompt, pictures = (
            without_keyword(clip.record["prompt"]),
            judge.judges.reader.pictures(clip.frames),
        )
        for kind, words in WORDS.items():
            right = named(prompt, words)
            texts = torch.stack([text(prompt.replace(right, word)) for word in words])
            best = (pictures @ texts.T).argmax(1)
            hits[kind].append(float((best == words.index(right)).float().mean()))
    return {f"obeys_{kind}": 100 * fmean(each) for kind, each in hits.items()}


def report(rows: Sequence[Row], benchmark: Benchmark) -> None:
    """Print the tables; write results.json and people.png."""
    average = average_of(rows)
    replace_file(
        benchmark.out / "results.json",
        json.dumps({"people": rows, "mean": average}, indent=1).encode(),
    )
    people = [Person.unseen(int(row["name"].rpartition("-")[2])) for row in rows]
    write_contact_sheet(
        benchmark.out / "people.png", [sheet_row(person, benchmark.out) for person in people]
    )
    print(f"Similarity, {len(rows)} people\n{similarity_table([*rows, average])}\n")
    print("Motion in % of the width per frame, prompt score, % of frames that match the prompt:")
    print(f"before → after (drawn)\n{faithfulness_table([*rows, average])}\n")
    for row in rows:
        if alarm := gap_alarm(row):
            print(f"{row['name']}: {alarm}")
    print(benchmark.out / "people.png")


def average_of(rows: Sequence[Row]) -> Row:
    means = {stage: mean_numbers([row[stage] for row in rows]) for stage in STAGES}
    return {
        "name": "mean",
        **means,
        **{key: fmean(row[key] for row in rows) for key in ("seconds", "stranger")},
    }


def similarity_table(rows: Sequence[Row]) -> str:
    """Return cosines by both recognisers, frames with a face in %, and seconds.

    `share` is the gain relative to the distance from `before` to the ceiling; in the last line it
    is that of the means.
    """
    columns = [
        "",
        "before",
        "after",
        "ceiling",
        "stranger",
        "share",
        "reward_before",
        "reward_after",
    ]
    columns += ["faces_before", "faces_after", "seconds"]
    return table(columns, [[row["name"], *similarity_cells(row)] for row in rows])


def similarity_cells(row: Row) -> list[str]:
    before, after, ceiling = (row[stage]["identity_similarity"] for stage in STAGES)
    share = (after - before) / (ceiling - before) if ceiling != before else float("nan")
    rewards = [row[stage]["reward_similarity"] for stage in ("before", "after")]
    faces = [f"{100 * row[stage]['face_share']:.0f}" for stage in ("before", "after")]
    cosines = [f"{each:.3f}" for each in (before, after, ceiling, row["stranger"])]
    return [
        *cosines,
        f"{share:.2f}",
        *(f"{each:.3f}" for each in rewards),
        *faces,
        f"{row['seconds']:.0f}",
    ]


def faithfulness_table(rows: Sequence[Row]) -> str:
    shown = {
        "motion": 2,
        "dense_motion": 2,
        "prompt_score": 1,
        **{f"obeys_{kind}": 0 for kind in WORDS},
    }
    columns = ["", "motion_of_face", "change", "of_all_pixels", "change", "prompt_score", *WORDS]
    return table(columns, [[row["name"], *faithfulness_cells(row, shown)] for row in rows])


def faithfulness_cells(row: Row, shown: Mapping[str, int]) -> Iterator[str]:
    """Yield each metric with its digits, and after a motion its change in per cent."""
    for metric, digits in shown.items():
        values = [row[stage].get(metric) for stage in STAGES]
        before, after, ceiling = (
            "–" if value is None else f"{value:.{digits}f}" for value in values
        )
        yield f"{before} → {after} ({ceiling})"
        if "motion" in metric:
            yield (
                f"{100 * (values[1] / values[0] - 1):+.0f} %"
                if values[0] and values[1] is not None
                else "–"
            )


def sheet_row(person: Person, out: Path) -> SheetRow:
    """Return the row: photo, frames before, frames after, drawings of the same prompts."""
    seed = min(
        path.stem for path in (out / "drawn" / person.name).rglob("seed-*.json")
    ).removeprefix("seed-")
    clips = {
        stage: {clip.pair: clip for clip in each}
        for stage, each in clips_of(person, out, seed).items()
    }
    gap = np.full((1, 1, 3), 255, np.uint8)
    pictures: list[Pixels] = [np.asarray(read_picture(photo_of(person, out)))]
    for stage in STAGES:
        shown = [clips[stage][pair] for pair in sorted(clips["drawn"])[PROMPTS_ON_SHEET]]
        pictures += [
            gap,
            *(clip.frames[index % len(clip.frames)] for clip in shown for index in FRAMES_ON_SHEET),
        ]
    return SheetRow(f"{person.name}: photo | before | after | drawn", pictures)


if __name__ == "__main__":
    main()
