"""Requirements of a training run by counts on shapes: memory, disk, passes and time.

Counts come from `counts.py`, which needs torch; this module is arithmetic. A pass is one guided
prediction: with N steps, K of them active, one pair of the cache costs N, and an iteration K with a
gradient, after K without one unless the graph of all steps is kept. An iteration that reconstructs
a photo costs one with a gradient, without guidance; its cache has images of the class.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from pvtool_core.errors import WeightsMissing
from pvtool_core.models.locate import locate_base, resolve
from pvtool_core.paths import presets_dir
from pvtool_core.settings.families import supporting
from pvtool_core.settings.objectives import OBJECTIVES
from pvtool_core.settings.schema import Settings

GIB = 2**30
SUSTAINED = 0.45
"""Assumed fraction of a GPU's peak that training sustains."""
CUDA = round(0.8 * GIB)
"""Memory of CUDA and its libraries, and fragmentation: an assumption."""
RECOGNIZER = 261_000_000
"""Bytes of glintr100.onnx (ResNet-100 in float32), used if the face package is missing."""
RECOGNIZER_FLOPS = 24.2e9
"""Forward pass of ResNet-100 on one crop of 112 × 112."""
RECOGNIZER_ACTIVATIONS = 180_000_000
"""Activations of ResNet-100 stored for the gradient of one crop, in float32."""

# Dense half-precision tensor TFLOP/s with float32 accumulation, from data sheets; first match.
_PEAKS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "L40": 181,
    "RTX 6000 Ada": 364,
    "RTX A6000": 155,
    "A40": 150,
    "A10": 125,
    "L4": 121,
    "T4": 65,
    "V100": 125,
    "RTX 5090": 210,
    "RTX 4090": 165,
    "RTX 4080": 97,
    "RTX 3090": 71,
    "RTX 3080": 60,
}


@dataclass(frozen=True)
class Work:
    """Floating-point operations, and bytes.

    `kept` is stored between forward and backward pass, `peak` is the maximum.
    """

    flops: int
    kept: int
    peak: int


@dataclass(frozen=True)
class Machine:
    """Name and memory in bytes of the accelerator, and CPU memory in bytes.

    Without an accelerator the name is empty, and its memory 0.
    """

    name: str
    memory: int
    host_memory: int


@dataclass(frozen=True)
class Counts:
    """Sizes in bytes, except `parameters` and `adapter`, which are numbers of weights.

    `parameters` are those of the denoiser. `denoiser` is on the device and `host` in CPU memory.
    `step` is one guided prediction, `gradient` one with its backward pass; `clip` decodes all
    frames, `frames` those of one iteration with a gradient; likewise for the semantic reward.
    `encode` encodes a photo. Parts that are not used count nothing. All are those of the image
    model if it is trained, and `sample_latents`, `sample_step` and `sample_clip` those of samples.
    """

    parameters: int
    denoiser: int
    host: int
    autoencoder: int
    text_encoders: int
    adapter: int
    latents: int
    step: Work
    gradient: Work
    clip: Work
    frames: Work
    semantic_weights: int
    semantic_frames: Work
    semantic_clip: Work
    encode: Work
    sample_latents: int
    sample_step: Work
    sample_clip: Work

    @classmethod
    def of(cls, counted: Mapping[str, Any]) -> Self:
        """Create from the event that `counts.plan` reports."""
        values: dict[str, Any] = {field.name: counted[field.name] for field in fields(cls)}
        for name, value in values.items():
            if isinstance(value, dict):
                values[name] = Work(**value)
        return cls(**values)


@dataclass(frozen=True)
class Passes:
    """Guided forward passes: in an iteration, with and without a gradient, and for the cache.

    `sampled` is the number of pairs for samples, if they are not those of the cache.
    """

    plain: int
    with_gradient: int
    pair: int
    pairs: int
    sampled: int | None = None

    @property
    def cache(self) -> int:
        return self.pair * self.pairs


def passes_of(settings: Settings, prompts: int) -> Passes:
    """Return the passes: full keeps the graph, replay and drtune run the steps once more."""
    steps, training = settings.sampler.num_inference_steps, settings.training
    everything = prompts * training.seeds_per_prompt
    pairs = min(training.cached_pairs or everything, everything)
    if OBJECTIVES[training.objective].reconstructs:
        prior = settings.dreambooth.prior_images if settings.dreambooth.prior_weight else 0
        prior = 0 if settings.keyword_vectors else prior
        return Passes(0, photos_of(settings) + bool(prior), steps, prior, pairs)
    acting = active_steps(settings)
    drawn = (
        min(training.gradient_steps or acting, acting) if training.gradient == "drtune" else acting
    )
    plain = 0 if training.gradient == "full" else acting
    if (
        training.base_kl_weight
    ):  # the base's own prediction, in one drawn step each time it is gone through
        plain += 1 if training.gradient == "full" else 2
    return Passes(plain, drawn, steps, pairs)


def photos_of(settings: Settings) -> int:
    """Return the number of photos that an iteration reconstructs."""
    return settings.textual_inversion.batch_size if settings.keyword_vectors else 1


def active_steps(settings: Settings) -> int:
    """Return the number of denoising steps in which the adapter is active."""
    steps = settings.sampler.num_inference_steps
    return steps - int(settings.adapter.start * steps)


@dataclass(frozen=True)
class Estimate:
    """Requirements of one run. `tflops` is the sustained throughput, 0 if unknown."""

    settings: Settings
    counts: Counts
    passes: Passes
    machine: Machine
    tflops: float

    def weights(self) -> dict[str, int]:
        """Bytes on the device from the first iteration to the last."""
        counts = self.counts
        return {
            "denoiser": counts.denoiser,
            "adapter, gradient, optimiser": 16
            * counts.adapter,  # float32 each: weight, gradient, AdamW's two means
            "autoencoder": counts.autoencoder,
            **({"text encoder": counts.text_encoders} if self.settings.keyword_vectors else {}),
            **self._reward_bytes(),
            "CUDA": CUDA,
        }

    def _reward_bytes(self) -> dict[str, int]:
        unused = self.settings.unused_rewards()
        rewards: dict[str, int] = {}
        if "identity_reward" not in unused:
            rewards["identity reward"] = self._recognizer_bytes()
        if "semantic_reward" not in unused:
            rewards["semantic reward"] = self.counts.semantic_weights
        return rewards

    def _recognizer_bytes(self) -> int:
        reward = self.settings.identity_reward
        try:
            return (resolve(reward.package) / reward.recognizer).stat().st_size
        except (WeightsMissing, OSError):
            return RECOGNIZER

    def phases(self) -> dict[str, int]:
        """Bytes on the device in each phase, including activations."""
        resident = sum(self.weights().values())
        counts = self.counts
        parts = self._reconstruction if self._reconstructs else self._rewarded
        phases = {"reading the prompts": counts.text_encoders + CUDA, **parts(resident)}
        if self.settings.trains_images():
            phases["sampling, denoising"] = resident + counts.sample_step.peak
            phases["sampling, decoding"] = resident + counts.sample_clip.peak
        return phases

    @property
    def _reconstructs(self) -> bool:
        return OBJECTIVES[self.settings.training.objective].reconstructs

    def _reconstruction(self, resident: int) -> dict[str, int]:
        """Return the phases of a reconstruction; `resident` are the bytes of all weights."""
        counts = self.counts
        before = resident - 16 * counts.adapter
        images = {"filling the cache, denoising": before + counts.step.peak}
        return {
            **(images if self.passes.pairs else {}),
            "encoding a photo": resident + counts.encode.peak,
            "denoising with a gradient": resident + counts.gradient.peak,
        }

    def _rewarded(self, resident: int) -> dict[str, int]:
        """Return the phases of training with rewards; `resident` are the bytes of all weights."""
        counts = self.counts
        before = resident - 16 * counts.adapter
        faces = RECOGNIZER_ACTIVATIONS * self._crops
        judging = max(
            counts.frames.peak, counts.frames.kept + max(counts.semantic_frames.peak, faces)
        )
        chain = (
            counts.gradient.kept * self.passes.with_gradient
            if self.settings.training.gradient == "full"
            else 0
        )
        last = counts.gradient.kept if chain else 0
        return {
            "filling the cache, denoising": before + counts.step.peak,
            "filling the cache, decoding": before
            + max(counts.clip.peak, counts.semantic_clip.peak),
            "denoising with a gradient": resident + chain - last + counts.gradient.peak,
            "judging frames": resident + chain + judging,
        }

    @property
    def peak(self) -> tuple[str, int]:
        """The phase that needs most, and its bytes."""
        return max(self.phases().items(), key=lambda item: item[1])

    @property
    def fits(self) -> bool | None:
        """True if the peak fits the accelerator's memory; None without an accelerator."""
        return self.peak[1] <= self.machine.memory if self.machine.memory else None

    def remedies(self) -> dict[str, str]:
        """Return settings that lower the peak, each with its effect or its price."""
        model, training, phase = self.settings.model, self.settings.training, self.peak[0]
        decodes = phase in {"filling the cache, decoding", "judging frames", "sampling, decoding"}
        known = {
            "training.gradient=replay": (
                training.gradient == "full"
                and phase in {"denoising with a gradient", "judging frames"},
                "memory of one step, more passes",
            ),
            "training.recompute=true": (
                not training.recompute and phase == "denoising with a gradient",
                "a tenth of the activations, slower",
            ),
            "model.offload=true": (
                not model.offload and model.family in supporting("model.offload"),
                "the denoiser's blocks stay in RAM, slower",
            ),
            "model.vae_tiling=true": (
                not model.vae_tiling and decodes,
                "decode in tiles with blended edges",
            ),
            "semantic_reward.frames=2": (
                self.settings.semantic_reward.frames > 2 and phase == "judging frames",
                "fewer frames are decoded with a gradient",
            ),
            "model.num_frames": (True, "fewer frames"),
            "model.width, model.height": (True, "smaller frames"),
        }
        return {setting: effect for setting, (applies, effect) in known.items() if applies}

    def host(self) -> dict[str, int]:
        """Bytes of CPU memory: offloaded weights, and the largest part while it is loaded."""
        counts = self.counts
        reading = max(counts.text_encoders, counts.denoiser + counts.host + counts.autoencoder)
        return {"offloaded blocks": counts.host, "while loading": reading}

    def disk(self) -> dict[str, int]:
        """Bytes of the trajectory cache and the kept checkpoints, the best among them."""
        training, counts = self.settings.training, self.counts
        best = bool(training.sample_every and training.score_samples)
        kept = min(training.keep_checkpoints + best, training.iterations)
        images = self.settings.trains_images()  # the samples have trajectories of their own
        own = counts.sample_latents * self._sampled if images else 0
        return {
            "trajectories": 2 * (counts.latents * self.passes.pairs + own),
            "checkpoints": 12
            * self.counts.adapter
            * (kept + 1),  # one more while the newest is written
        }

    @property
    def _crops(self) -> int:
        """Number of crops that the identity reward compares in an iteration."""
        reward = self.settings.identity_reward
        frames = 1 if self.settings.trains_images() else reward.frames
        return frames * (reward.views if reward.augment else 1)

    @property
    def _sampled(self) -> int:
        """Number of clips of each sample."""
        training, sampled = self.settings.training, self.passes.sampled
        there = self.passes.pairs if sampled is None else sampled
        return min(training.sample_prompts, there) if training.sample_every else 0

    def flops(self) -> dict[str, float]:
        """Floating-point operations of an iteration, and of the run by its parts."""
        counts, passes, training = self.counts, self.passes, self.settings.training
        unused, crops = self.settings.unused_rewards(), 2 * RECOGNIZER_FLOPS * self._crops
        rewards = counts.frames.flops + counts.semantic_frames.flops
        iteration = (
            passes.plain * counts.step.flops
            + passes.with_gradient * counts.gradient.flops
            + rewards
            + (0 if "identity_reward" in unused else crops)
            + counts.encode.flops * photos_of(self.settings)
        )
        # scores and faces are measured in turn, each on a newly decoded clip
        measured = len({"identity_reward", "semantic_reward"} - unused)
        pair = passes.pair * counts.step.flops + measured * counts.clip.flops
        pair += counts.semantic_clip.flops
        drawn = 1 + training.iterations // training.sample_every if training.sample_every else 0
        sample = active_steps(self.settings) * counts.sample_step.flops + counts.sample_clip.flops
        samples = drawn * self._sampled * sample
        if self.settings.trains_images():  # the base model's clips are not in the cache
            samples += self._sampled * passes.pair * counts.sample_step.flops
        cache, iterations = pair * passes.pairs, iteration * training.iterations
        whole = cache + iterations + samples
        return {
            "iteration": iteration,
            "cache": cache,
            "iterations": iterations,
            "samples": samples,
            "run": whole,
        }

    def seconds(self) -> dict[str, float]:
        """The same in seconds if the throughput is known, otherwise empty."""
        return (
            {name: flops / (1e12 * self.tflops) for name, flops in self.flops().items()}
            if self.tflops
            else {}
        )


def sustained(name: str, dtype: str) -> float:
    """Return the assumed sustained TFLOP/s of a GPU by name; 0 if unknown.

    Some number formats are also unknown.
    """
    peak = next((tflops for known, tflops in _PEAKS.items() if known in name), 0)
    return SUSTAINED * peak if dtype != "float32" else 0.0


def architecture_of(settings: Settings) -> tuple[Path, Path | None, bool]:
    """Return the folder of config files, that of the motion modules, and whether it is the model's.

    If the model is missing, the family's default one is used. Raises InputRefused for files of
    another kind.
    """
    try:
        model = locate_base(settings.model)
    except WeightsMissing:
        return presets_dir() / "architectures" / settings.model.family, None, False
    motion = Path(model.motion_adapter) if model.motion_adapter else None
    return Path(model.config or model.base_model), motion, True
