"""Whether the method learns people it has never seen: likeness before and after training, against the ceiling.

    python -m tests.benchmarks.identities --out DIR [--people 6] [--set training.iterations=150]...

Each person goes through the commands as a user's would: one drawn photo, `pv identity add`, `pv train`, `pv eval` on
prompts and seeds that training never saw. The ceiling is the same person drawn by the renderer in what those prompts
say; `stranger` is what another drawn person scores. All lies in DIR (its own PV_HOME); run it again to go on.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch import Generator

from pvtool_core.config import EvaluateJob, TrainJob, read_job
from pvtool_core.evaluation import Clip, Judge, mean, read_clip, read_picture
from pvtool_core.media import SheetRow, write_contact_sheet
from pvtool_core.prompts import Banks, without_keyword
from pvtool_core.tinyworld.world import (
    ACTIONS,
    BACKGROUNDS,
    CLOTHES,
    EXPRESSIONS,
    NOUNS,
    People,
    Scenes,
    clip,
    draw_people,
    draw_scenes,
    still,
)

FIRST_SEED = 9_000_000
CLIPS_ON_SHEET, FRAMES_ON_SHEET = 4, (0, 2, 4, 6)


@dataclass(frozen=True)
class Person:
    """One unseen identity, as the world draws it."""

    name: str
    noun: str
    looks: People

    @staticmethod
    def unseen(index: int) -> "Person":
        noun = NOUNS[index % 2]
        return Person(f"unseen-{index}", noun, draw_people(1, Generator().manual_seed(FIRST_SEED + index), noun))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--first", type=int, default=0, help="skip so many people: others than a setting was chosen on")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=1, help="people at the same time, one thread each")
    options = parser.parse_args()
    out: Path = options.out.absolute()
    os.environ["PV_HOME"] = str(out / "home")
    torch.set_num_threads(1)
    people = [Person.unseen(options.first + index) for index in range(options.people)]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(partial(scored, out=out, settings=options.settings), people))
    (out / "results.json").write_text(json.dumps(rows, indent=1))
    write_contact_sheet(out / "people.png", [line for person in people for line in sheet(person, out)], tile=96)
    print(table(rows))
    print(out / "people.png")


def scored(person: Person, out: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Train, render and score one person, or read what was found when that was done before."""
    done = out / f"{person.name}.json"
    if not done.is_file():
        photo = out / f"{person.name}.png"
        draw_photo(person, photo)
        if not (out / "home/data/identities" / person.name).is_dir():
            pv("identity", "add", person.name, str(photo), "--class", person.noun, "--consent", "drawn by a program")
        chosen = [word for setting in settings for word in ("--set", setting)]
        run = run_of(person, out) or json.loads(pv("train", person.name, "--preset", "tiny", *chosen, "--json"))["run"]
        if not (out / "home/data/runs" / run / "exit.json").is_file():
            pv("runs", "resume", run)
        report = json.loads(pv("eval", run, "--json"))
        found = report["identities"][person.name] | drawn_scores(person, run, out)
        done.write_text(json.dumps({"name": person.name, "noun": person.noun, "run": run, **found}))
    return json.loads(done.read_text())


def pv(*words: str) -> str:
    """What a command prints on stdout; its error ends the benchmark."""
    ended = subprocess.run(
        [sys.executable, "-m", "pvtool.cli.main", *words], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        sys.exit(f"pv {' '.join(words)}: {ended.stderr}")
    return ended.stdout


def run_of(person: Person, out: Path) -> str | None:
    return next((path.name for path in (out / "home/data/runs").glob(f"{person.name}-*")), None)


def draw_photo(person: Person, path: Path) -> None:
    """One photo, 256 × 256, the hand out of the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scene = draw_scenes(1, Generator().manual_seed(FIRST_SEED + 500 + int(person.name.rpartition("-")[2])))
    scene.action.clamp_(min=1)
    picture, _ = still(person.looks, scene, 0, size=256)
    Image.fromarray((picture[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(path)


def scene_of(prompt: str, seed: int) -> Scenes:
    """What a prompt of the tiny world says; the rest is drawn from the seed."""
    scene = draw_scenes(1, Generator().manual_seed(seed))
    kinds = {"background": BACKGROUNDS, "clothes": CLOTHES, "action": ACTIONS, "expression": EXPRESSIONS}
    for kind, words in kinds.items():
        getattr(scene, kind)[0] = next(index for index, word in enumerate(words) if word in prompt)
    return scene


def drawn_scores(person: Person, run: str, out: Path) -> dict[str, Any]:
    """The ceiling and the stranger, by the very judge that scored the generated clips; and obedience word by word."""
    job = read_job(out / "home/data/runs" / run / "config.toml")
    assert isinstance(job, TrainJob)
    judge, ref = judge_of(job), job.identity
    stranger = Person.unseen(int(person.name.rpartition("-")[2]) + 100)
    own = [judge.scores(drawn(person, *pair), ref) for pair in pairs_of(job)]
    others = [judge.scores(drawn(stranger, *pair), ref) for pair in pairs_of(job)]
    obeyed = {stage: obedience(judge, clips) for stage, clips in rendered(person, run, out).items()}
    return {"ceiling": mean(own), "stranger": mean(others), "obedience": obeyed, "seconds": seconds(run, out)}


def judge_of(job: TrainJob) -> Judge:
    return Judge(EvaluateJob(**job.sections(), identities=(), sidecars=(), report=""))


def pairs_of(job: TrainJob) -> list[tuple[str, int]]:
    texts = Banks().get(job.evaluation.prompts).fill(job.identity.noun)
    return [(text, seed) for text in texts for seed in job.evaluation.seeds]


def drawn(person: Person, prompt: str, seed: int) -> Clip:
    frames, _ = clip(person.looks, scene_of(prompt, seed))
    pixels = (frames[0].permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return Clip({"prompt": prompt, "seed": seed, "adapter": "drawn", "identity": person.name}, pixels)


def rendered(person: Person, run: str, out: Path) -> dict[str, list[Clip]]:
    """The clips that `pv eval` made, before and after."""
    folder = out / "home/data/runs" / run / "evaluation"
    clips = [read_clip(path) for path in sorted(folder.rglob("seed-*.json"))]
    return {stage: [each for each in clips if each.stage == stage] for stage in ("before", "after")}


def obedience(judge: Judge, clips: Sequence[Clip]) -> dict[str, float]:
    """How often the prompt's word beats the other words of its kind, over all frames, in per cent."""
    found: dict[str, float] = {}
    for kind, words in {"background": BACKGROUNDS, "clothes": CLOTHES, "expression": EXPRESSIONS}.items():
        hits: list[float] = []
        for each in clips:
            prompt = without_keyword(each.record["prompt"])
            right = next(index for index, word in enumerate(words) if word in prompt)
            texts = torch.stack([judge.reader.text(prompt.replace(words[right], word)) for word in words])
            best = (judge.reader.pictures(each.frames) @ texts.T).argmax(1)
            hits.append(float((best == right).float().mean()))
        found[kind] = 100 * fmean(hits)
    return found


def seconds(run: str, out: Path) -> float:
    """What the iterations took, without loading and caching."""
    events = (out / "home/data/runs" / run / "events.jsonl").read_text().splitlines()
    return sum(event["seconds"] for event in map(json.loads, events) if event["type"] == "step")


def sheet(person: Person, out: Path) -> list[SheetRow]:
    """Per prompt a line: the photo, frames before, frames after, and the person as the renderer draws them."""
    result = json.loads((out / f"{person.name}.json").read_text())
    stages = rendered(person, result["run"], out)
    photo = read_picture(out / f"{person.name}.png")
    lines: list[SheetRow] = []
    for after in stages["after"][::2][:CLIPS_ON_SHEET]:
        before = next(each for each in stages["before"] if each.pair == after.pair)
        ideal = drawn(person, *after.pair)
        shown = [each.frames[index] for each in (before, after, ideal) for index in FRAMES_ON_SHEET]
        lines.append(SheetRow(f"{person.name}: photo, before, after, drawn: {after.pair[0]}", [photo, *shown]))
    return lines


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a person, and the mean."""
    lines = [figures(row) for row in rows]
    lines.append({key: fmean(line[key] for line in lines) for key in lines[0]})
    names = [*(row["name"] for row in rows), "mean"]
    widths = {key: max(len(key), 7) for key in lines[0]}
    head = f"{'':10}" + "".join(f"  {key:>{widths[key]}}" for key in widths)
    body = (
        f"{name:10}" + "".join(f"  {line[key]:>{widths[key]}.2f}" for key in widths)
        for name, line in zip(names, lines, strict=True)
    )
    return "\n".join([head, *body])


def figures(row: dict[str, Any]) -> dict[str, float]:
    before, after, ceiling = row["before"], row["after"], row["ceiling"]
    gained = after["identity_similarity"] - before["identity_similarity"]
    result = {
        "before": before["identity_similarity"],
        "after": after["identity_similarity"],
        "ceiling": ceiling["identity_similarity"],
        "stranger": row["stranger"]["identity_similarity"],
        "way": gained / (ceiling["identity_similarity"] - before["identity_similarity"]),
        "reward": after["reward_similarity"] - before["reward_similarity"],
        "faces before": 100 * before["face_share"],
        "faces": 100 * after["face_share"],
        "motion": after.get("motion_ratio", 0.0),
        "dense": after.get("dense_motion_ratio", 0.0),
        "prompt": after["prompt_change"],
        "seconds": row["seconds"],
    }
    for kind in ("background", "clothes", "expression"):
        result[kind] = row["obedience"]["after"][kind] - row["obedience"]["before"][kind]
    return result


if __name__ == "__main__":
    main()
