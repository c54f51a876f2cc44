"""Measure seconds per training iteration: the plain loop and the cached ones.

    python -m tests.benchmarks.iteration --preset tiny


The estimate counts forward passes. All schemes run in one process on the same pair, in turns, so
that other load slows them equally; the median is shown. `--preset random` uses the small random
models of the tests, which need no weights.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pvtool_core.models.locate import resolve_settings
from pvtool_core.objectives.objective import bank_pairs, generator_of
from pvtool_core.objectives.personalvideo import Pair, draw_frames
from pvtool_core.sampling import denoise
from pvtool_core.settings.jobs import IdentityRef, TrainJob
from pvtool_core.settings.presets import Presets
from pvtool_core.store.events import ignore
from pvtool_core.store.prompts import Banks
from pvtool_core.trainer import Trainer
from pvtool_core.trajectories import TrajectoryCache
from tests.support.small_models import random_job, save_identity, save_models
from tests.support.training import objective_of


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A way to run an iteration.

    `units` returns its number of guided forward passes, given N steps, K of the adapter, and g for
    a pass with gradient.
    """

    name: str
    gradient: str
    drawn: int
    units: Callable[[int, int, int], int]
    prepare: Callable[[Trainer, Pair, int], Pair]


def judge_original(trainer: Trainer, pair: Pair, latents: torch.Tensor, step: int) -> Pair:
    """Return the pair with the original's scores in the frames of this iteration, 0 elsewhere."""
    count, together = trainer.job.semantic_reward.frames, trainer.backbone.decoded_with
    frames = draw_frames(pair.faces, count, generator_of(0, step), together)
    semantic = objective_of(trainer).semantic
    assert semantic is not None and pair.scores is not None
    scores = torch.zeros_like(pair.scores)
    with torch.no_grad():
        scores[frames] = semantic.score(trainer.backbone.decode(latents, frames), pair.prompt)
    return dataclasses.replace(pair, scores=scores)


def without_cache(trainer: Trainer, pair: Pair, step: int) -> Pair:
    """Run all steps of both models."""
    backbone, first = trainer.backbone, trainer.model.steps.start
    trainer.model.cache = TrajectoryCache(None, backbone, first, ignore)
    noise, embeds = backbone.initial_latents(pair.seed), backbone.prompt_embeds(pair.prompt)
    return judge_original(
        trainer, pair, denoise(backbone, noise, embeds, range(backbone.num_steps)), step
    )


def with_shared_prefix(trainer: Trainer, pair: Pair, step: int) -> Pair:
    """Run one prefix for both models, not cached between iterations."""
    trainer.model.cache = TrajectoryCache(
        Path(tempfile.mkdtemp()), trainer.backbone, trainer.model.steps.start, ignore
    )
    return judge_original(trainer, pair, trainer.model.cache.final(pair.prompt, pair.seed), step)


def schemes(kept: TrajectoryCache, adapter_steps: int) -> list[Scheme]:
    def from_cache(trainer: Trainer, pair: Pair, step: int) -> Pair:
        trainer.model.cache = kept
        return pair

    few = max(1, adapter_steps // 4)
    return [
        Scheme(
            "plain loop: both models, all steps",
            "full",
            0,
            lambda n, k, g: n + (n - k) + g * k,
            without_cache,
        ),
        Scheme("shared prefix", "full", 0, lambda n, k, g: n + g * k, with_shared_prefix),
        Scheme("cached pairs", "full", 0, lambda n, k, g: g * k, from_cache),
        Scheme("cached, constant memory", "replay", 0, lambda n, k, g: k + g * k, from_cache),
        Scheme(
            "cached, stop-gradient, all steps", "drtune", 0, lambda n, k, g: k + g * k, from_cache
        ),
        Scheme(
            f"cached, stop-gradient, {few} step(s)",
            "drtune",
            few,
            lambda n, k, g: k + g * few,
            from_cache,
        ),
    ]


def once(trainer: Trainer, scheme: Scheme, pair: Pair, step: int) -> float:
    """Return the seconds of one iteration."""
    objective = objective_of(trainer)
    objective.config = dataclasses.replace(
        objective.config, gradient=scheme.gradient, gradient_steps=scheme.drawn
    )
    begun = time.perf_counter()
    objective.backpropagate_pair(scheme.prepare(trainer, pair, step), generator_of(0, step))
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return time.perf_counter() - begun


def forward_seconds(trainer: Trainer, pair: Pair, repeats: int) -> float:
    """Return the seconds of one guided forward pass, the unit of the estimate."""
    embeds, noise = trainer.backbone.prompt_embeds(pair.prompt), trainer.backbone.initial_latents(0)
    begun = time.perf_counter()
    denoise(trainer.backbone, noise, embeds, range(repeats))
    return (time.perf_counter() - begun) / repeats


def preset_job(name: str, folder: Path) -> TrainJob:
    """Return a job of the preset for a random identity."""
    if name == "random":
        save_models(folder)
        return random_job(folder)
    preset = Presets().get(name)
    save_identity(folder / "identity")
    return TrainJob(
        run="benchmark",
        identity=IdentityRef(name="nobody", noun="man", folder=str(folder / "identity")),
        prompts=Banks().get(preset.prompts).fill("man"),
        **resolve_settings(preset.settings()).sections(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    folder = Path(tempfile.mkdtemp())
    job = preset_job(words.preset, folder)
    trainer = Trainer(job, folder / "trajectories", ignore)
    kept = trainer.model.cache
    prepared = (objective_of(trainer).prepare_pair(*each) for each in bank_pairs(job))
    pair = next(pair for pair in prepared if pair)
    rows = schemes(kept, len(trainer.model.steps))
    seconds: dict[str, list[float]] = {row.name: [] for row in rows}
    for step in range(words.repeats + 1):
        for row in rows:
            taken = once(trainer, row, pair, step)
            if step:  # the first round warms up
                seconds[row.name].append(taken)
    show(
        trainer,
        pair,
        rows,
        {name: statistics.median(each) for name, each in seconds.items()},
        words.repeats,
    )


def show(
    trainer: Trainer, pair: Pair, rows: list[Scheme], seconds: dict[str, float], repeats: int
) -> None:
    n, k, g = (
        trainer.backbone.num_steps,
        len(trainer.model.steps),
        3 if trainer.config.recompute else 2,
    )
    unit = forward_seconds(trainer, pair, min(n, 8))
    plain = seconds[rows[0].name]
    print(
        f"N = {n} steps, K = {k} with the adapter, {repeats} repeats; one guided forward pass "
        f"takes {unit:.3f} s,"
    )
    print(
        f"one with gradient counts as {g} ({'with' if g == 3 else 'without'} recomputation). "
        "The seconds include decoding and rewards,"
    )
    print("the estimate does not.\n")
    print(f"{'':36} {'s/iteration':>12} {'speed-up':>8} {'estimated':>9} {'N=50, K=13, g=3':>16}")
    for row in rows:
        counted = rows[0].units(n, k, g) / row.units(n, k, g)
        paper = rows[0].units(50, 13, 3) / row.units(50, 13, 3) if row.drawn == 0 else float("nan")
        shown = "" if paper != paper else f"{paper:.1f}x"
        taken = seconds[row.name]
        print(f"{row.name:36} {taken:12.3f} {plain / taken:7.1f}x {counted:8.1f}x {shown:>16}")


if __name__ == "__main__":
    main()
