"""Measure adapters on other base models, with styles, ControlNet, strengths and starts.

    python -m tests.benchmarks.transfer --trained TRAINED --out DIR [--styled FOLDER] [--lora FILE]
        [--controlnet FOLDER] [--write docs/results-transfer.md]


TRAINED is the folder of `tests.benchmarks.identities`; `python -m pvtool_core.tinyworld` makes the
styled base model and the ControlNet. The people were trained on the tiny preset's own base model.
Every variant is rendered by `pv render` on unseen prompts and seeds, with the adapter and without
it on the same model, and scored by `pv eval`. What exists is reused, so that the benchmark can be
repeated after an interruption. Figure 8 and section 5.5 of the paper are about the first variants.
"""

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from pvtool.jobs.settings import chosen_settings
from pvtool_core.files import replace_file
from pvtool_core.paths import presets_dir
from pvtool_core.store.prompts import Banks
from pvtool_core.tinyworld.controlnet import save_control_frames
from tests.benchmarks.identities import change_of, pv, scene_of, set_home, value_of

STRENGTHS = "0,0.25,0.5,0.75,1,1.25,1.5"
STARTS = "0.5,0.6,0.7,0.75,0.85,0.9"
METRICS = {
    "likeness": "Likeness",
    "faces_found": "Frames with a face",
    "motion": "Motion of the face",
    "clip_t": "CLIP-T",
}
BANK, SEEDS = "tiny-unseen", "1000,1001"
BEGIN, END = "<!-- begin of the tables -->", "<!-- end of the tables -->"


@dataclass(frozen=True)
class Variant:
    """Clips of one folder: words of `pv render`, once or for each prompt of the bank."""

    name: str
    title: str
    words: tuple[str, ...] = ()
    controlnet: Path | None = None


def main() -> None:
    options = parse_arguments()
    set_home(options.trained.absolute(), None)
    variants = list(variants_of(options))
    with ThreadPoolExecutor(options.jobs) as pool:  # each waits for its subprocesses
        reports = list(pool.map(evaluated, variants, repeat(options)))
    tables = [table(variant, report) for variant, report in zip(variants, reports, strict=True)]
    print("\n\n".join(tables))
    if options.write:
        before, _, after = options.write.read_text().partition(BEGIN)
        _, _, after = after.partition(END)
        parts = [f"{before}{BEGIN}", *tables, f"{END}{after}"]
        replace_file(options.write, "\n\n".join(parts).encode())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trained", type=Path, required=True, help="folder of the identities")
    parser.add_argument("--people", default="man-10,woman-11,man-12,woman-13")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--styled", type=Path, help="base model of another style")
    parser.add_argument("--lora", type=Path, help="style LoRA")
    parser.add_argument("--controlnet", type=Path)
    parser.add_argument("--jobs", type=int, default=2, help="variants in parallel")
    parser.add_argument("--engines", type=int, default=1, help="processes for each variant")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    return parser.parse_args()


def variants_of(options: argparse.Namespace) -> Iterator[Variant]:
    """Yield the variants whose weights were given."""
    yield Variant("plain", "The base model of training")
    if options.styled:
        words = ("--base-model", str(options.styled.absolute()))
        yield Variant("styled", "Another base model", words)
    for weight in (0.5, 1) if options.lora else ():
        words = ("--lora", f"{options.lora.absolute()}:{weight}")
        yield Variant(f"lora-{weight}", f"Style LoRA at {weight}", words)
    if options.controlnet:
        yield Variant("control", "ControlNet", controlnet=options.controlnet.absolute())
    yield Variant("strengths", "Strengths", ("--strength", STRENGTHS))
    yield Variant("starts", "Starts", ("--start", STARTS))


def evaluated(variant: Variant, options: argparse.Namespace) -> dict[str, Any]:
    """Render the clips of a variant that do not exist, and return the report on all of them."""
    out: Path = options.out.absolute()
    folder, report = out / variant.name, out / f"{variant.name}-report"
    devices = ",".join(["cpu"] * options.engines)
    common = ("--seed", SEEDS, "--base", "--devices", devices, "--out", str(folder))
    common += ("--watermark", "off")  # as the published results
    if variant.controlnet is None:
        bank = str(presets_dir() / f"prompts/{BANK}.toml")
        pv("render", options.people, "--prompts", bank, *variant.words, *common)
    else:
        for number, prompt in enumerate(Banks().get(BANK).prompts):
            frames = control_frames(prompt, out / f"control-frames/{number}")
            words = ("--controlnet", str(variant.controlnet), "--control-frames", str(frames))
            pv("render", options.people, prompt, *words, *common)
    scoring = ("eval", str(folder), "--preset", "tiny", "--out", str(report))
    shards = [f"{number + 1}/{options.engines}" for number in range(options.engines)]
    with ThreadPoolExecutor(len(shards)) as pool:
        for scored in [pool.submit(pv, *scoring, "--shard", shard) for shard in shards]:
            scored.result()
    pv(*scoring, "--html")
    return json.loads((report / "report.json").read_bytes())


def control_frames(prompt: str, folder: Path) -> Path:
    """Write the poses of the prompt's scene, one image for each frame, and return their folder."""
    if not folder.is_dir():
        frames = chosen_settings("tiny")[1].model.num_frames
        save_control_frames(folder, scene_of(prompt, int(SEEDS.partition(",")[0])), frames)
    return folder


def table(variant: Variant, report: dict[str, Any]) -> str:
    """Return the means by method, with the change from the same model without the adapter."""
    methods: dict[str, Any] = report["methods"]
    lines = [
        f"### {variant.title}",
        "",
        row("", METRICS.values()),
        "|---" * (len(METRICS) + 1) + "|",
    ]
    for name in sorted(methods, key=numbers_in):
        method = methods[name]
        values = [value_of(method["means"].get(key)) for key in METRICS]
        lines.append(row(name, values))
        if name != "base":
            changes = [change_of(method["differences"].get(key)) for key in METRICS]
            lines.append(row("&nbsp; change", changes))
    return "\n".join(lines)


def numbers_in(method: str) -> list[float]:
    """Return the numbers in the name of a method, to sort strengths and starts."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", method)]


def row(name: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


if __name__ == "__main__":
    main()
