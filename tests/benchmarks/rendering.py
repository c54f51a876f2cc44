"""Compare batch rendering with plain diffusers, and measure its overhead over denoising.

    python -m tests.benchmarks.rendering [--identities 1 4 20] [--prompts 2] [--clips 100]


The first part renders k identities × p prompts with our engine and with plain diffusers: the
pipeline loaded once, one call per clip, the adapter enabled for the last steps by a callback, and
the same encoder. With 16 steps and an adapter in the last quarter, ours should need (¾ + ¼k) / k of
the denoising. They take turns, prompt by prompt, so that other load slows them equally. Loading is
not measured, and the files must be identical byte for byte.

The second part renders one identity with many prompts in a real engine process, and compares its
time with that of the denoiser alone.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pvtool.tables import Table
from pvtool_core.adapter import IdentityAdapter, load_adapter, switch_step
from pvtool_core.backbones.animatediff import AnimateDiff
from pvtool_core.backbones.interface import to_pixels
from pvtool_core.batches.clips import Names
from pvtool_core.batches.folder import group_items, write_items
from pvtool_core.batches.rates import estimate
from pvtool_core.hashes import sha256_of
from pvtool_core.media.decode import frames_of
from pvtool_core.media.encode import write_clip
from pvtool_core.models.locate import locate_model, resolve_settings
from pvtool_core.rendering.leases import FOLDER, Leases
from pvtool_core.rendering.loaded_models import Models
from pvtool_core.rendering.pipeline import render_groups
from pvtool_core.rendering.results import Results
from pvtool_core.rendering.write import clip_facts
from pvtool_core.settings.jobs import RenderItem, RenderJob, Setup, write_job
from pvtool_core.settings.presets import Presets
from pvtool_core.store.event_log import read_records
from pvtool_core.store.events import ignore
from pvtool_core.store.prompts import Banks
from pvtool_core.store.runs import RunFolder
from tests.support.adapters import save_random_adapters

SEED = 7


def preset_setup(**changes: dict[str, Any]) -> Setup:
    """Return the tiny preset's model, sampler and adapter settings, with changes by section."""
    settings = resolve_settings(Presets().get("tiny").settings(changes))
    return Setup.of(settings)


def items_of(
    setup: Setup, adapters: dict[str, Path], prompts: Iterable[str], seeds: Sequence[int], out: Path
) -> list[RenderItem]:
    """Return a clip of each identity, prompt and seed, in the order of `pv render`.

    The clips of an identity follow each other.
    """
    names, digests = Names(setup), {name: sha256_of(file) for name, file in adapters.items()}
    return [
        RenderItem(
            identity=name,
            prompt=prompt,
            seed=seed,
            adapter=str(file),
            adapter_sha256=digests[name],
            run=f"{name}-1",
            step=1,
            clip=names.path(out, name, prompt, seed, digests[name]),
        )
        for name, file in adapters.items()
        for prompt in prompts
        for seed in seeds
    ]


def job_for(setup: Setup, items: Sequence[RenderItem], folder: Path, out: Path) -> RenderJob:
    """Return a job with its list of clips in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_items(folder / "items.jsonl", items)
    return RenderJob(
        items=str(folder / "items.jsonl"),
        setups=(setup,),
        out=str(out),
        versions={"pvtool": "benchmark"},
    )


def bank(count: int) -> list[str]:
    """Return this many different prompts."""
    texts = [text for noun in ("man", "woman", "person") for text in Banks().get("tiny").fill(noun)]
    return texts[:count]


@dataclass(frozen=True)
class Taken:
    """Elapsed seconds, and CPU seconds of all cores, including encoders."""

    wall: float
    cpu: float

    def __add__(self, other: "Taken") -> "Taken":
        return Taken(self.wall + other.wall, self.cpu + other.cpu)


def timed(do: Callable[[], None]) -> Taken:
    began, used = time.perf_counter(), cpu_seconds()
    do()
    return Taken(time.perf_counter() - began, cpu_seconds() - used)


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class PlainWay:
    """diffusers' pipeline, loaded once, with each identity's adapter in turn."""

    def __init__(self, job: RenderJob, items: Sequence[RenderItem]) -> None:
        (setup,) = job.setups
        self._job, self._setup = job, setup
        self._model = locate_model(setup.model)
        self._backbone = AnimateDiff(
            self._model, setup.sampler, list(dict.fromkeys(item.prompt for item in items))
        )
        self._backbone.pipeline.set_progress_bar_config(disable=True)
        self._where = (self._backbone.lora_target, self._backbone.lora_layout)
        self._adapter: IdentityAdapter | None = None
        self._person = ""
        self._first = switch_step(setup.adapter.start, setup.sampler.num_inference_steps)

    def render(self, items: Sequence[RenderItem]) -> None:
        for item in items:
            if self._adapter is None:
                self._adapter = load_adapter(
                    Path(item.adapter), self._backbone.denoiser, *self._where
                )
            elif self._person != item.identity:
                self._adapter.load(Path(item.adapter), self._backbone.lora_layout)
            self._person = item.identity
            self._clip(item, self._adapter)

    @torch.no_grad()
    def _clip(self, item: RenderItem, adapter: IdentityAdapter) -> None:
        model, sampler = self._model, self._setup.sampler
        acting = adapter.acting()

        def switch(_: Any, step: int, __: Any, kept: dict[str, Any]) -> dict[str, Any]:
            if step == self._first - 1:
                acting.__enter__()
            return kept

        frames = self._backbone.pipeline(
            prompt_embeds=self._backbone.prompt_embeds(item.prompt)["prompt_embeds"],
            num_frames=model.num_frames,
            height=model.height,
            width=model.width,
            num_inference_steps=sampler.num_inference_steps,
            guidance_scale=sampler.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(item.seed),
            output_type="pt",
            callback_on_step_end=switch,
        ).frames[0]
        acting.__exit__(None, None, None)
        Path(item.clip).parent.mkdir(parents=True, exist_ok=True)
        write_clip(Path(item.clip), to_pixels(frames), model.fps, clip_facts(self._job, item))


def plain_way(
    job: RenderJob, items: Sequence[RenderItem]
) -> Callable[[Sequence[RenderItem]], None]:
    """Load the model and return a function that renders clips with plain diffusers."""
    return PlainWay(job, items).render


def our_way(job: RenderJob, items: Sequence[RenderItem]) -> Callable[[Sequence[RenderItem]], None]:
    """Load the model and return a function that renders clips with our engine."""
    models = Models(ignore, job.cache_gigabytes)
    models.load(group_items(job, items)[0])

    def make(some: Sequence[RenderItem]) -> None:
        results = Results(job, ignore, len(some))
        with Leases(Path(job.out) / FOLDER) as leases:
            render_groups(job, group_items(job, some), leases, models, results)
        results.finish().raise_for_status()

    return make


def compare(setup: Setup, people: int, prompts: int, root: Path) -> list[str]:
    """Return a row: time of both ways, prompt by prompt in turns, and the expected speed-up."""
    adapters = save_random_adapters(
        root / "adapters", setup, [f"p{number}" for number in range(people)], 0.05
    )
    outs = {way: root / f"{people}-{way}" for way in ("ours", "plain")}
    items = {
        way: items_of(setup, adapters, bank(prompts), [SEED + people], out)
        for way, out in outs.items()
    }
    jobs = {
        way: job_for(setup, items[way], root / f"{people}-{way}-job", out)
        for way, out in outs.items()
    }
    ways = {
        "ours": our_way(jobs["ours"], items["ours"]),
        "plain": plain_way(jobs["plain"], items["plain"]),
    }
    taken = {way: Taken(0.0, 0.0) for way in ways}
    for prompt in bank(prompts):
        for way, make in ways.items():
            some = [item for item in items[way] if item.prompt == prompt]
            taken[way] += timed(lambda make=make, some=some: make(some))
    ours, plain = taken["ours"], taken["plain"]
    same = sum(
        same_frames(one, other) for one, other in zip(items["ours"], items["plain"], strict=True)
    )
    clips = len(items["ours"])
    return [
        f"{people} × {prompts}",
        *(f"{3600 * clips / way.wall:.0f}" for way in (plain, ours)),
        f"{plain.wall / ours.wall:.2f}",
        f"{plain.cpu / ours.cpu:.2f}",
        f"{people / (0.75 + 0.25 * people):.2f}",
        f"{same} of {clips}",
    ]


def same_frames(one: RenderItem, other: RenderItem) -> bool:
    files = [Path(f"{item.clip}.mp4") for item in (one, other)]
    return bool((frames_of(files[0]) == frames_of(files[1])).all()) and sha256_of(
        files[0]
    ) == sha256_of(files[1])


def overhead(setup: Setup, clips: int, root: Path) -> None:
    """Print the time of a real engine for a batch, and its overhead over denoising."""
    adapters = save_random_adapters(root / "adapters", setup, ["solo"], 0.05)
    items = items_of(setup, adapters, bank(clips), [SEED], root / "solo")
    folder = RunFolder(root / "engine").create()
    write_job(folder.config, job_for(setup, items, folder.path, root / "solo"))
    engine = timed(lambda: _run_engine(folder))
    events, _ = read_records(folder.events)
    rendering = [event["time"] for event in events if event.get("stage") == "rendering"]
    rate = estimate(setup)  # measured by the engine; each clip has another prompt
    assert rate is not None
    denoising = clips * sum(filter(None, (rate.switch, rate.tail)))
    whole = rendering[-1] - loaded_at(events)
    taken = {
        "denoiser only": denoising,
        "first to last clip": whole,
        "whole process with loading": engine.wall,
    }
    over = {what: seconds - denoising for what, seconds in taken.items()}
    shown = [
        [
            what,
            f"{taken[what]:.1f}",
            f"{100 * over[what] / denoising:.1f}",
            f"{1000 * over[what] / clips:.0f}",
        ]
        for what in taken
    ]
    print(
        f"\n1 identity × {clips} prompts; CPU time {engine.cpu:.1f} s, "
        f"{engine.cpu / engine.wall:.2f} cores\n"
    )
    print(Table(["", "seconds", "over_%", "over_ms/clip"], shown))


def loaded_at(events: Sequence[dict[str, Any]]) -> float:
    """Return the time at which the model was loaded: the start of the stage after loading."""
    stages = [event for event in events if event["type"] == "stage"]
    loading = max(place for place, event in enumerate(stages) if event["stage"] == "loading")
    return stages[loading + 1]["time"]


def _run_engine(folder: RunFolder) -> None:
    with folder.log.open("wb") as log:
        words = [sys.executable, "-P", "-m", "pvtool_core", str(folder.path)]
        subprocess.run(words, check=True, stdout=log, stderr=log)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--identities", type=int, nargs="*", default=[1, 4, 20])
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument(
        "--clips", type=int, default=100, help="clips of the overhead measurement; 0 skips it"
    )
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ |= {"PV_HOME": str(root / "home"), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        torch.set_num_threads(1)
        setup = preset_setup()
        rows = [compare(setup, people, words.prompts, root) for people in words.identities]
        columns = [
            "identities × prompts",
            "plain/h",
            "ours/h",
            "ratio",
            "ratio_CPU",
            "expected",
            "same",
        ]
        print(Table(columns, rows), flush=True)
        if words.clips:
            overhead(setup, words.clips, root)


if __name__ == "__main__":
    main()
