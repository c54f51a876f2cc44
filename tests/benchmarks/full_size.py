"""Measure seconds per iteration and peak memory at full size, with random weights.

    python -m tests.benchmarks.full_size --family animatediff --scale full


The plain loop is compared with the cached ones. Only the config files in presets/architectures are
read: the denoiser and the autoencoder get random weights on the device, so do both rewards, and
there is no text encoder. All schemes take turns in one process; at the end one clip is rendered.
`--scale small` runs the same classes, smaller and with fewer layers, in under a minute on a CPU.
The output is a Markdown table for docs/performance.md.
"""

import argparse
import dataclasses
import json
import platform
import resource
import statistics
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from pvtool_core import open_clip_model, rewards
from pvtool_core import trainer as training
from pvtool_core.backbones.interface import to_pixels
from pvtool_core.backbones.meta_model import meta_model
from pvtool_core.devices import resolve_device
from pvtool_core.media.encode import write_clip
from pvtool_core.objectives import personalvideo
from pvtool_core.objectives.objective import FIRST_SEED
from pvtool_core.objectives.personalvideo import Pair
from pvtool_core.paths import presets_dir
from pvtool_core.sampling import denoise
from pvtool_core.settings.jobs import IdentityRef, TrainJob
from pvtool_core.settings.overrides import parse_overrides
from pvtool_core.settings.presets import Presets
from pvtool_core.settings.schema import ModelConfig, SamplerConfig
from pvtool_core.settings.toml import Table
from pvtool_core.store.events import ignore
from pvtool_core.trainer import Trainer
from tests.benchmarks.iteration import Scheme, once, schemes
from tests.support.iresnet import IResNet, random_iresnet
from tests.support.small_models import (
    DETECTION_SIDE,
    save_clip,
    save_detector,
    save_identity,
    save_recognizer,
)
from tests.support.training import objective_of

SMALL_SIZES: dict[str, dict[str, Table]] = {
    "animatediff": {
        "unet": {
            "block_out_channels": [32, 64, 64, 64],
            "cross_attention_dim": 32,
            "norm_num_groups": 8,
            "num_attention_heads": 4,
            "motion_num_attention_heads": 4,
        },
        "vae": {"block_out_channels": [16, 16, 32, 32], "norm_num_groups": 8},
    },
    "hunyuan-video": {
        "transformer": {
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "text_embed_dim": 32,
            "pooled_projection_dim": 32,
            "rope_axes_dim": [4, 6, 6],
        },
        "vae": {"block_out_channels": [16, 16, 32, 32], "norm_num_groups": 8},
    },
    "wan": {
        "transformer": {
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "num_layers": 2,
            "ffn_dim": 128,
            "text_dim": 32,
            "freq_dim": 32,
        },
        "vae": {"base_dim": 16},
    },
}
"""Changes of the small scale to the config files of each family."""

SMALL: Table = {
    "model": {
        "width": 64,
        "height": 64,
        "num_frames": 5,
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
    },
    "sampler": {"num_inference_steps": 16},
    "adapter": {"rank": 4, "alpha": 4},
    "semantic_reward": {"frames": 2},
}
"""Settings of the small scale: they replace those of the family's preset."""


def architecture(family: str, scale: str, folder: Path) -> Path:
    """Return the folder of the family's config files, or of a copy with the small sizes."""
    usual = presets_dir() / "architectures" / family
    if scale == "full":
        return usual
    for path in usual.rglob("*.json"):
        copy = folder / path.relative_to(usual)
        copy.parent.mkdir(parents=True, exist_ok=True)
        sizes = SMALL_SIZES[family].get(path.parent.name, {})
        copy.write_text(json.dumps({**json.loads(path.read_bytes()), **sizes}))
    return folder


def benchmark_job(words: argparse.Namespace, folder: Path) -> TrainJob:
    """Return a job of the family's preset for a random identity, with random reward models."""
    chosen = parse_overrides(
        [*words.sets, *([f"model.storage={words.storage}"] if words.storage else [])]
    )
    small = SMALL if words.scale == "small" else {}
    options = {"model": {"offload": True}} if words.offload else {}
    settings = (
        Presets()
        .get(words.family)
        .settings(small, {"training": {"recompute": True}}, options, chosen)
    )
    faces = folder / "faces"
    faces.mkdir()
    save_detector(faces / "det.onnx")
    save_recognizer(faces / "rec.onnx")
    save_identity(folder / "identity")
    reward = dataclasses.replace(
        settings.identity_reward,
        package=str(faces),
        detector="det.onnx",
        recognizer="rec.onnx",
        detection_size=DETECTION_SIDE,
    )
    semantic = settings.semantic_reward
    if words.scale == "small":
        save_clip(folder / "clip")
        semantic = dataclasses.replace(semantic, model=str(folder / "clip"), checkpoint="")
    sections: dict[str, Any] = {
        **settings.sections(),
        "identity_reward": reward,
        "semantic_reward": semantic,
    }
    who = IdentityRef(name="nobody", noun="man", folder=str(folder / "identity"))
    return TrainJob(run="benchmark", identity=who, prompts=("a <V> man",), **sections)


def random_trainer(job: TrainJob, words: argparse.Namespace, folder: Path) -> Trainer:
    """Return a trainer whose base model has random weights; at full size the rewards too."""
    sizes = architecture(words.family, words.scale, folder / "architecture")

    def build(model: ModelConfig, sampler: SamplerConfig, _: Any, recompute: bool = False) -> Any:
        return meta_model(
            dataclasses.replace(model, device=str(resolve_device(model.device))),
            sampler,
            recompute,
            sizes,
        )

    with ExitStack() as stack:
        stack.enter_context(patch.object(training, "load_backbone", build))
        if words.scale == "full":
            random_rewards(stack)
        return Trainer(job, folder / "trajectories", ignore)


def random_rewards(stack: ExitStack) -> None:
    """Patch the loaders: ResNet-100 and ViT-H-14 keep their initial weights."""

    def iresnet_100(_: Path) -> IResNet:
        return random_iresnet((3, 13, 30, 3))

    def nothing(*_: Any) -> dict[str, Any]:
        return {}

    def named(_: Path) -> str:
        return "random"

    changes = [(personalvideo, "load_recognizer", iresnet_100), (rewards, "fingerprint", named)]
    changes += [
        (open_clip_model, name, nothing) for name in ("weights_file", "read_weights", "fill")
    ]
    for module, name, change in changes:
        stack.enter_context(patch.object(module, name, change))


def chosen_schemes(words: argparse.Namespace, trainer: Trainer) -> list[Scheme]:
    """Return the schemes named on the command line, in that order."""
    plain, shared, cached, replay, drtune, few = schemes(
        trainer.model.cache, len(trainer.model.steps)
    )

    def through_twice(n: int, k: int, g: int) -> int:
        return n + n + g * k

    constant = dataclasses.replace(
        plain, name=f"{plain.name}, constant memory", gradient="replay", units=through_twice
    )
    known = {
        "plain": plain,
        "plain-replay": constant,
        "shared": shared,
        "cached": cached,
        "replay": replay,
        "drtune": drtune,
        "few": few,
    }
    return [known[name] for name in words.schemes.split(",")]


@dataclasses.dataclass
class Measured:
    """Result of one scheme: seconds of each iteration, and peak memory in bytes (0 on a CPU)."""

    seconds: list[float] = dataclasses.field(default_factory=list[float])
    peak: int = 0
    fits: bool = True


def measure(trainer: Trainer, rows: list[Scheme], pair: Pair, repeats: int) -> dict[str, Measured]:
    """Measure all schemes in turns, after one round of warm-up.

    A scheme that runs out of memory is skipped from then on.
    """
    measured = {row.name: Measured() for row in rows}
    for step in range(repeats + 1):
        for row in rows:
            mine = measured[row.name]
            if not mine.fits:
                continue
            try:
                taken, peak = timed(trainer, row, pair, step)
            except torch.OutOfMemoryError:
                mine.fits = False
                trainer.optimizer.zero_grad()
                continue
            mine.peak = max(mine.peak, peak)
            if step:
                mine.seconds.append(taken)
    return measured


def timed(trainer: Trainer, row: Scheme, pair: Pair, step: int) -> tuple[float, int]:
    """Return the seconds and peak bytes of one iteration, including all work on the device."""
    on_gpu = trainer.backbone.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    taken = once(trainer, row, pair, step)
    return taken, torch.cuda.max_memory_allocated() if on_gpu else 0


def render_clip(trainer: Trainer, pair: Pair, path: Path) -> float:
    """Return the seconds from cached latents to a written clip with the adapter."""
    backbone, begun = trainer.backbone, time.perf_counter()
    switch = trainer.model.cache.switch(pair.prompt, pair.seed)
    latents = denoise(
        backbone, switch, backbone.prompt_embeds(pair.prompt), trainer.model.steps, trainer.adapter
    )
    write_clip(
        path,
        to_pixels(trainer.model.whole_clip(latents)),
        trainer.job.model.fps,
        {"ai_generated": True},
    )
    return time.perf_counter() - begun


def report(
    words: argparse.Namespace, trainer: Trainer, rows: list[Scheme], measured: dict[str, Measured]
) -> str:
    """Return a table in Markdown, with the machine and the date."""
    n, k, model = trainer.backbone.num_steps, len(trainer.model.steps), trainer.job.model
    first = next((row for row in rows if measured[row.name].fits), rows[0])
    numbers = sum(each.numel() for each in trainer.backbone.denoiser.parameters())
    kept = model.storage + (", offloaded" if model.offload else "")
    lines = [
        f"{words.family}, {words.scale} scale: {numbers / 1e6:.1f} M weights ({model.dtype}, "
        f"stored as {kept}), {model.num_frames} frames of {model.width}×{model.height}, "
        f"N = {n} steps, K = {k} with the adapter, median of {words.repeats}. "
        f"{machine(trainer.backbone.device)}, "
        f"{datetime.now(UTC):%d %B %Y}.",
        "",
        "| scheme | s/iteration | speed-up | estimated speed-up | peak GiB |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        mine = measured[row.name]
        counted = first.units(n, k, 3) / row.units(n, k, 3)
        if not mine.fits:
            lines.append(f"| {row.name} | does not fit | | {counted:.1f}× | |")
            continue
        taken = statistics.median(mine.seconds)
        ratio = statistics.median(measured[first.name].seconds) / taken
        peak = f"{mine.peak / 2**30:.1f}" if mine.peak else ""
        lines.append(f"| {row.name} | {taken:.2f} | {ratio:.1f}× | {counted:.1f}× | {peak} |")
    return "\n".join(lines)


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", default="animatediff", choices=sorted(SMALL_SIZES))
    parser.add_argument("--scale", default="full", choices=("full", "small"))
    parser.add_argument(
        "--schemes", default="plain,shared,cached,replay,drtune,few", help="also plain-replay"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--storage", default="", help="as model.storage")
    parser.add_argument("--offload", action="store_true")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--out", type=Path, help="folder for the clip [default: a temporary folder]"
    )
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job = benchmark_job(words, folder)
        if job.model.threads:
            torch.set_num_threads(job.model.threads)
        trainer = random_trainer(job, words, folder)
        begun = time.perf_counter()
        pair = objective_of(trainer).prepare_pair(job.prompts[0], FIRST_SEED)
        assert pair, "the benchmark's detector finds a face in every picture"
        filled = time.perf_counter() - begun
        rows = chosen_schemes(words, trainer)
        print(report(words, trainer, rows, measure(trainer, rows, pair, words.repeats)))
        clip = render_clip(trainer, pair, (words.out or folder) / f"{words.family}.mp4")
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"\nFilling the cache with one pair: {filled:.1f} s; rendering a clip from it: "
        f"{clip:.1f} s; peak RAM of the process: {rss:.1f} GiB."
    )


if __name__ == "__main__":
    main()
