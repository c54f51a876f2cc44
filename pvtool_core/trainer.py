"""Training, told beside the paper: a random prompt, a clip from pure noise, two rewards, one step of the adapter.

Nothing is reconstructed (section 4.1): each iteration takes a pair of prompt and starting noise whose adapter-free
half lies in the cache, goes through the adapter's steps with a gradient, and judges decoded frames by eq. 2 and
eq. 3-4. All that is random in an iteration is drawn from a generator of its own, made of the seed and the iteration:
so weights, optimiser and the iteration's number are the whole state, and a resumed run takes the same steps.
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from pvtool_core.adapter import AdapterMetadata, IdentityAdapter, switch_step
from pvtool_core.backbones import Frames, Latents, load_backbone
from pvtool_core.backbones.interface import to_pixels
from pvtool_core.errors import Missing, NotFinite, RunFailed
from pvtool_core.faces.analyzer import FaceAnalyzer, largest, load_recognizer, within_crop
from pvtool_core.media.encode import PLAIN, write_clip
from pvtool_core.media.ffmpeg import require_formats
from pvtool_core.media.photos import read_picture
from pvtool_core.models.fingerprints import fingerprint
from pvtool_core.models.prompt_limits import report_cuts
from pvtool_core.paths import trajectories_dir
from pvtool_core.rewards import (
    IdentityScorer,
    SemanticScorer,
    level_penalty,
    nearest_face,
    semantic_reward,
)
from pvtool_core.sampling import (
    AdaptedSteps,
    BaseKl,
    Rollout,
    denoise,
    rollout_in_memory,
    rollout_replayed,
    rollout_stopped,
)
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.schema import ControlConfig, TrainingConfig
from pvtool_core.store.events import EventWriter, iter_events
from pvtool_core.store.liveness import Heartbeat, State
from pvtool_core.store.runs import (
    ADAPTER_FILE,
    Request,
    RunFolder,
    checkpoint_facts,
    checkpoint_step,
    own_folder,
)
from pvtool_core.trajectories import FaceTrack, Report, TrajectoryCache

OPTIMIZER_FILE = "optimizer.safetensors"
FIRST_SEED = 1_000_000
"""Training noises begin here, far from the seeds that people ask for: what is rendered was not trained on."""

NOT_FINITE_HINT = (
    "Lower training.learning_rate, or use --set model.dtype=bfloat16 or float32; "
    "checkpoints before it are whole."
)
_MOST_THREADS = 1024  # as of model.threads
_OVERFLOWS = 10  # in a row
_HALF_PRECISION_SCALE = (
    1024.0  # keeps small gradients from vanishing in float16; a power of two changes no digit
)


def train(job: TrainJob, folder: RunFolder, events: EventWriter, heartbeat: Heartbeat) -> State:
    """Train the adapter of `job` in `folder`, from its last checkpoint on; FINISHED, or STOPPED if that was asked.

    Raises RunFailed if a loss is no number or no pair shows a face, Missing without reference crops, BadPrompt if the
    text encoder does not read a keyword, FfmpegMissing or CodecMissing, and what the models' loaders raise.
    """
    report, config = events.write, job.training
    job = with_recorded_threads(job, folder, report)
    control = RequestHandler(folder, report, heartbeat)
    heartbeat.update(state=State.RUNNING, total=config.iterations)
    report("stage", stage="loading")
    report_cuts(job.model, job.prompts, job.sampler.negative_prompt, report, job.identity.noun)
    require_formats(PLAIN)  # of samples
    trainer = Trainer(job, trajectories_dir(), report)
    if unscored := trainer.semantic.cut_prompts(job.prompts):
        message = f"The semantic reward's text encoder does not read the end of {len(unscored)} prompts, the first of"
        report("warning", message=f"{message} which is {unscored[0]!r}.")
    files = RunFiles(folder, report)
    start = files.resume(trainer)
    heartbeat.update(step=start)

    wanted = bank_pairs(job)
    pairs: list[Pair] = []
    for done, (prompt, seed) in enumerate(wanted, 1):
        control.poll()
        if control.stops(start):
            return State.STOPPED
        if pair := trainer.prepare(prompt, seed):
            pairs.append(pair)
        report("stage", stage="caching", done=done, total=len(wanted))
    check_pairs(pairs, len(wanted), report)

    if start == 0 and config.sample_every:
        files.sample(trainer, 0, pairs)
    report("stage", stage="training")
    for step in range(start + 1, config.iterations + 1):
        report("step", step=step, **trainer.iterate(step, pairs))
        heartbeat.update(step=step)
        control.poll()
        if control.take(Request.SAMPLE) or (
            config.sample_every and step % config.sample_every == 0
        ):
            files.sample(trainer, step, pairs)
        due = step % config.checkpoint_every == 0 or step == config.iterations
        if control.take(Request.CHECKPOINT) or due or control.halts:
            files.checkpoint(trainer, step)
        if control.stops(step):
            return State.STOPPED
    return State.FINISHED


def with_recorded_threads(job: TrainJob, folder: RunFolder, report: Report) -> TrainJob:
    """Return the job with the number of CPU threads that the run has trained with so far, and have torch use it.

    Where the settings leave the number to torch it depends on machine and environment; another one rounds otherwise,
    and a resumed run would end in other weights. A run that begins takes torch's number now.
    """
    threads = job.model.threads
    if not threads and (checkpoint := folder.latest_checkpoint()):
        recorded = checkpoint_facts(checkpoint).get("threads")
        threads = recorded if isinstance(recorded, int) and 0 < recorded <= _MOST_THREADS else 0
        if not threads:
            report(
                "warning",
                message=f"{checkpoint.name} does not record the number of threads; training continues with "
                f"{torch.get_num_threads()}, and the weights may differ in their last digits.",
            )
    threads = threads or torch.get_num_threads()
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return dataclasses.replace(job, model=dataclasses.replace(job.model, threads=threads))


@dataclass(frozen=True)
class Pair:
    """A prompt and a starting noise, with what the cache knows of the original model's clip."""

    prompt: str
    seed: int
    scores: Float[Tensor, " frames"]
    faces: FaceTrack


def bank_pairs(job: TrainJob) -> list[tuple[str, int]]:
    """All prompts with their first noise, then all with their second, and so on; the first `cached_pairs` of them.

    They do not depend on the job's seed or its identity, so runs share their trajectories.
    """
    count = len(job.prompts)
    pairs = [
        (job.prompts[i % count], FIRST_SEED + i)
        for i in range(count * job.training.seeds_per_prompt)
    ]
    return pairs[: job.training.cached_pairs or None]


def check_pairs(pairs: list[Pair], wanted: int, report: Report) -> None:
    """Say how many pairs were left out. Raises RunFailed if none is left."""
    if not pairs:
        raise RunFailed(
            "The base model shows no face for any prompt of the bank.",
            "Use prompts that show the person's face.",
        )
    if len(pairs) < wanted:
        report(
            "warning",
            message=f"{wanted - len(pairs)} of {wanted} pairs show no face and are left out.",
        )


class Trainer:
    """The models, the adapter and its optimiser. `cache` is None to compute every trajectory anew."""

    def __init__(self, job: TrainJob, cache: Path | None, report: Report) -> None:
        self.job, self.config = job, job.training
        self.backbone = load_backbone(job.model, job.sampler, job.prompts, job.training.recompute)
        first = switch_step(job.adapter.start, self.backbone.num_steps)
        self.steps = range(first, self.backbone.num_steps)
        self.cache = TrajectoryCache(cache, self.backbone, first, report)
        self.semantic = SemanticScorer(job.semantic_reward, self.backbone.device)
        self._load_faces()
        self.adapter = IdentityAdapter(
            self.backbone.denoiser,
            self.backbone.lora_target,
            job.adapter.rank,
            seed=job.training.seed,
        )
        self.optimizer = adamw(self.adapter, job.training)
        self._scale = _HALF_PRECISION_SCALE if self.backbone.dtype == torch.float16 else 1.0
        self._pace: float | None = None
        self._report, self._overflows = report, 0

    def _load_faces(self) -> None:
        reward, package = self.job.identity_reward, Path(self.job.identity_reward.package)
        settings = (reward.detection_size, reward.detection_threshold)
        self.analyzer = FaceAnalyzer(
            package, reward.detector, (), *settings, self.job.model.threads
        )
        self.detector = f"{fingerprint(package / reward.detector)} {settings}"
        recognizer = load_recognizer(package / reward.recognizer).to(self.backbone.device)
        references = read_crops(Path(self.job.identity.folder)).to(self.backbone.device)
        self.identity = IdentityScorer(recognizer, references, reward.views)

    def prepare(self, prompt: str, seed: int) -> Pair | None:
        """Fill the cache for a pair, and look at the original model's clip; None if it shows no face."""
        self.cache.switch(prompt, seed)
        measured = partial(self.cache.measured, prompt, seed)
        scores = measured(
            "scores", self.semantic.fingerprint, partial(self._measure_scores, prompt)
        )["scores"]
        faces = FaceTrack(**measured("faces", self.detector, self._measure_faces))
        return Pair(prompt, seed, scores.to(self.backbone.device), faces) if faces.frames else None

    @torch.no_grad()
    def _measure_scores(self, prompt: str, latents: Latents) -> dict[str, Tensor]:
        return {"scores": self.semantic.score(self.whole_clip(latents), prompt)}

    def _measure_faces(self, latents: Latents) -> dict[str, Tensor]:
        found = [
            largest(self.analyzer.detect(picture))
            for picture in to_pixels(self.whole_clip(latents))
        ]
        landmarks = [
            torch.from_numpy(face.landmarks) if face else torch.zeros(5, 2) for face in found
        ]
        return {
            "found": torch.tensor([face is not None for face in found]),
            "landmarks": torch.stack(landmarks),
        }

    @torch.no_grad()
    def whole_clip(self, latents: Latents) -> Frames:
        return self.backbone.decode(latents, range(self.backbone.num_frames))

    def iterate(self, step: int, pairs: list[Pair]) -> dict[str, Any]:
        """One iteration: changes the adapter, and gives back what the `step` event says.

        A gradient that overflows float16 is left out. Raises RunFailed, and then the adapter is as it was, if the loss
        is no number, or the gradient in any other number format, or in too many iterations in a row.
        """
        begun = time.perf_counter()
        generator = generator_of(self.config.seed, step)
        pair = pairs[_draw(len(pairs), generator)]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        measured = self.backpropagate(pair, generator)
        norm = float(
            torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), self.config.max_grad_norm)
        )
        overflows = not math.isfinite(norm)
        self._overflows = self._overflows + 1 if overflows else 0
        allowed = _OVERFLOWS if self.backbone.dtype == torch.float16 else 0
        if not math.isfinite(measured["loss"]) or self._overflows > allowed:
            raise RunFailed(
                f"The loss or its gradient is no longer a number at iteration {step}.",
                NOT_FINITE_HINT,
            )
        if overflows:
            self._report(
                "warning",
                step=step,
                message=f"The gradient of iteration {step} overflows, and is left out.",
            )
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - begun
        self._pace = seconds if self._pace is None else 0.9 * self._pace + 0.1 * seconds
        eta = self._pace * (self.config.iterations - step)
        rate = learning_rate(self.config, step)
        drawn = {"prompt": pair.prompt, "seed": pair.seed}
        return {
            **measured,
            "grad_norm": None if overflows else norm,
            "lr": rate,
            **drawn,
            "seconds": seconds,
            "eta": eta,
        }

    def backpropagate(self, pair: Pair, generator: torch.Generator) -> dict[str, Any]:
        """Loss of a pair's clip (eq. 5) and its gradient, left in the adapter; what was measured on the way."""
        count = max(self.job.identity_reward.frames, self.job.semantic_reward.frames)
        frames = draw_frames(pair.faces, count, generator, self.backbone.decoded_with)
        embeds = self.backbone.prompt_embeds(pair.prompt)
        switch = self.cache.switch(pair.prompt, pair.seed)
        taken = self._draw_steps(generator)
        base_kl = (
            self._base_kl(pair.faces, switch, taken, generator)
            if self.config.base_kl_weight
            else None
        )
        tail = self._go(
            AdaptedSteps(self.backbone, self.adapter, embeds, self.steps, base_kl), switch, taken
        )
        latents = tail.latents.requires_grad_()
        loss, measured = self._judge(pair, latents, frames, generator)
        (gradient,) = torch.autograd.grad(self._scale * loss, latents)
        tail.backward(gradient)
        for weight in self.adapter.parameters():
            weight.grad = None if weight.grad is None else weight.grad / self._scale
        if base_kl:
            loss = loss + self.config.base_kl_weight * tail.base_kl
            measured["base_kl"] = tail.base_kl.item()
        return {"loss": loss.item(), **measured}

    def _draw_steps(self, generator: torch.Generator) -> list[int]:
        """The steps through which the gradient goes: all, but for drtune."""
        count = self.config.gradient_steps or len(self.steps)
        if self.config.gradient != "drtune" or count >= len(self.steps):
            return list(self.steps)
        return [
            self.steps[i]
            for i in torch.randperm(len(self.steps), generator=generator)[:count].tolist()
        ]

    def _base_kl(
        self, faces: FaceTrack, latents: Latents, steps: list[int], generator: torch.Generator
    ) -> BaseKl:
        """Stay near the base in one of `steps`, drawn each time anew; less so in the crop of the original's face."""
        model, config = self.job.model, self.config
        within = (
            within_crop(faces.landmarks, model.height, model.width) & faces.found[:, None, None]
        )
        within = torch.nn.functional.interpolate(
            within[None, None].float(), latents.shape[2:], mode="area"
        )
        shares = 1 - (1 - config.base_kl_face) * within
        drawn = steps[_draw(len(steps), generator)]
        return BaseKl(self._scale * config.base_kl_weight, [drawn], shares.to(latents.device))

    def _go(self, route: AdaptedSteps, latents: Latents, taken: list[int]) -> Rollout:
        """The adapter's steps, with the way back that the settings ask for."""
        if self.config.gradient == "full":
            return rollout_in_memory(route, latents)
        if self.config.gradient == "replay":
            return rollout_replayed(route, latents)
        return rollout_stopped(route, latents, taken)

    def _judge(
        self, pair: Pair, latents: Latents, frames: list[int], generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], dict[str, Any]]:
        """Both rewards' losses, weighted and added; the first of `frames` shows a face, which is compared."""
        identity, semantic = self.job.identity_reward, self.job.semantic_reward
        clip = self.backbone.decode(latents, frames)
        with_face = [
            (clip[i], frame)
            for i, frame in enumerate(frames[: identity.frames])
            if pair.faces.found[frame]
        ]
        faces = [
            (picture, *self._find_face(picture, pair.faces.landmarks[frame]))
            for picture, frame in with_face
        ]
        similar = [
            self.identity.score(picture, landmarks, generator) for picture, landmarks, _ in faces
        ]
        icr, seen = 1 - torch.stack(similar).mean(), all(found for _, _, found in faces)
        compared = slice(semantic.frames)
        target, source = (
            self.semantic.score(clip[compared], pair.prompt),
            pair.scores[frames[compared]],
        )
        scr = semantic_reward(target, source, semantic.temperature)
        level = level_penalty(target, source)
        loss = identity.weight * icr + semantic.weight * scr + semantic.level_weight * level
        gap = (target - source).mean()
        return loss, {
            "icr": icr.item(),
            "scr": scr.item(),
            "score_gap": gap.item(),
            "face_found": seen,
        }

    def _find_face(
        self, frame: Float[Tensor, "3 height width"], expected: Float[Tensor, "5 2"]
    ) -> tuple[Float[Tensor, "5 2"], bool]:
        """Landmarks of the face now, or of the original's face where none is found: the layout is the prefix's.

        They are constants: no gradient moves the face to please the detector.
        """
        (picture,) = to_pixels(
            frame.detach()[None].nan_to_num()
        )  # a loss that is not finite ends the iteration
        candidates = [torch.from_numpy(face.landmarks) for face in self.analyzer.detect(picture)]
        nearest = nearest_face(candidates, expected)
        return (expected, False) if nearest is None else (nearest, True)

    def terms(self) -> AdapterMetadata:
        model, sampler = self.job.model, self.job.sampler
        return AdapterMetadata(
            start=self.job.adapter.start,
            num_inference_steps=sampler.num_inference_steps,
            guidance_scale=sampler.guidance_scale,
            sampler=self.backbone.sampler_facts(),
            base_model=self.backbone.facts()["base"],
            negative_prompt=sampler.negative_prompt,
            style_loras=tuple(
                {
                    "file": Path(lora.file).name,
                    "weight": lora.weight,
                    "fingerprint": lora.fingerprint,
                }
                for lora in model.loras
            ),
            control=control_facts(model.control),
        )


def control_facts(control: ControlConfig) -> dict[str, Any]:
    """Return the ControlNet of a run without the paths of this machine; empty if there is none."""
    if not control.model:
        return {}
    names = {"model": Path(control.model).name, "frames": Path(control.frames).name}
    return {**names, "weight": control.weight, "fingerprint": control.fingerprint}


def adamw(adapter: IdentityAdapter, config: TrainingConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        adapter.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Of iteration `step`, counted from 1: rises over `warmup`, falls to zero from `decay_from` on."""
    risen = min(1.0, step / config.warmup) if config.warmup else 1.0
    left = 1 - (step - 1) / config.iterations
    fallen = min(1.0, left / (1 - config.decay_from)) if config.decay_from < 1 else 1.0
    return config.learning_rate * risen * fallen


def generator_of(seed: int, step: int) -> torch.Generator:
    """The random numbers of one iteration, which no other iteration can disturb."""
    digest = hashlib.sha256(f"{seed} {step}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7]))


def draw_frames(
    faces: FaceTrack,
    count: int,
    generator: torch.Generator,
    decoded_with: Callable[[int], Sequence[int]],
) -> list[int]:
    """`count` frames, of which the first shows a face: eq. 2 needs one, eq. 3 takes any.

    The others are among those decoded with it (see `Backbone`), and fewer where these are.
    """
    first = faces.frames[_draw(len(faces.frames), generator)]
    window = decoded_with(first)
    drawn = [window[i] for i in torch.randperm(len(window), generator=generator).tolist()]
    return [first, *[frame for frame in drawn if frame != first][: count - 1]]


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def read_crops(identity: Path) -> Float[Tensor, "photos 3 112 112"]:
    """The aligned reference crops of an identity's folder, in [0, 1]. Raises Missing if there are none."""
    files = sorted((identity / "faces").glob("*.png"))
    if not files:
        raise Missing(
            "identity", identity.name, "It was removed since; add it again with `pv identity add`."
        )
    pictures = np.stack([np.asarray(read_picture(file)) for file in files])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


class RunFiles:
    """What training leaves in the run folder, each file reported once, also when a killed run makes it again."""

    def __init__(self, folder: RunFolder, report: Report) -> None:
        self._folder, self._report = folder, report
        told = (event.get("path") for event in iter_events(folder.events))
        self._reported = {path for path in told if isinstance(path, str)}

    def _announce(self, type: str, path: Path, step: int, **values: Any) -> None:
        relative = path.relative_to(self._folder.path).as_posix()
        if relative not in self._reported:
            self._report(type, step=step, path=relative, **values)
            self._reported.add(relative)

    def checkpoint(self, trainer: Trainer, step: int) -> None:
        """Write adapter and optimiser; the step is the folder's name, and no random state is left to keep.

        Raises RunFailed, and writes nothing, if the adapter is no longer finite.
        """
        if not all(weight.isfinite().all() for weight in trainer.adapter.parameters()):
            raise RunFailed(
                f"The adapter's weights are not finite after iteration {step}.", NOT_FINITE_HINT
            )
        files = {
            ADAPTER_FILE: partial(
                trainer.adapter.save, layout=trainer.backbone.lora_layout, terms=trainer.terms()
            ),
            OPTIMIZER_FILE: partial(save_optimizer, trainer.optimizer),
        }
        facts = {"threads": torch.get_num_threads(), "device": trainer.backbone.device.type}
        folder = self._folder.write_checkpoint(step, files, trainer.config.keep_checkpoints, facts)
        self._announce("checkpoint", folder, step)

    def resume(self, trainer: Trainer) -> int:
        """Take over the newest whole checkpoint, if there is one; the step it was written at."""
        folder = self._folder.latest_checkpoint()
        if folder is None:
            return 0
        trainer.adapter.load(folder / ADAPTER_FILE, trainer.backbone.lora_layout)
        load_optimizer(trainer.optimizer, folder / OPTIMIZER_FILE)
        before, now = checkpoint_facts(folder).get("device"), trainer.backbone.device.type
        if before not in (None, now):
            message = f"This run was trained on {before} and continues on {now}: the weights will differ slightly."
            self._report("warning", message=message)
        self._announce(
            "checkpoint", folder, checkpoint_step(folder)
        )  # a kill may have come between file and event
        return checkpoint_step(folder)

    def sample(self, trainer: Trainer, step: int, pairs: list[Pair]) -> None:
        """Draw the clips of the first pairs as they are now."""
        folder = own_folder(own_folder(self._folder.samples) / f"step-{step:06d}")
        for number, pair in enumerate(pairs[: trainer.config.sample_prompts]):
            latents, embeds = (
                trainer.cache.switch(pair.prompt, pair.seed),
                trainer.backbone.prompt_embeds(pair.prompt),
            )
            try:
                latents = denoise(trainer.backbone, latents, embeds, trainer.steps, trainer.adapter)
                pictures = to_pixels(trainer.whole_clip(latents))
            except NotFinite as error:
                message = (
                    f"The sample {pair.prompt!r} at step {step} is not written. {error.message}"
                )
                self._report("warning", step=step, message=message)
                continue
            facts = {
                "prompt": pair.prompt,
                "seed": pair.seed,
                "step": step,
                "run": self._folder.name,
            }
            facts["ai_generated"] = True
            (path,) = write_clip(folder / f"{number:02d}", pictures, trainer.job.model.fps, facts)
            self._announce("sample", path, step, prompt=pair.prompt, seed=pair.seed)


def save_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    tensors = {
        f"{index}.{name}": tensor
        for index, values in state.items()
        for name, tensor in values.items()
    }
    save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, path)


def load_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load_file(path).items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


class RequestHandler:
    """What people ask of the engine while it works. Requests wait here until their moment in an iteration."""

    def __init__(self, folder: RunFolder, report: Report, heartbeat: Heartbeat) -> None:
        self._folder, self._report, self._heartbeat = folder, report, heartbeat
        self._asked: set[Request] = set()

    def poll(self) -> None:
        for request in self._folder.take_requests():
            if request is Request.RESUME:
                self._asked.discard(Request.PAUSE)
            else:
                self._asked.add(request)

    def take(self, request: Request) -> bool:
        """Whether it was asked; it no longer is."""
        asked = request in self._asked
        self._asked.discard(request)
        return asked

    @property
    def halts(self) -> bool:
        """Whether a pause or a stop is asked for, before which the state is to be saved."""
        return bool(self._asked & {Request.PAUSE, Request.STOP})

    def stops(self, step: int) -> bool:
        """Whether to stop here; waits out a pause first. Hears only what `poll` has heard."""
        if Request.PAUSE in self._asked and Request.STOP not in self._asked:
            self._rest(step)
        return Request.STOP in self._asked

    def _rest(self, step: int) -> None:
        self._heartbeat.update(state=State.PAUSED)
        self._report("run", state=State.PAUSED, step=step)
        while Request.PAUSE in self._asked and Request.STOP not in self._asked:
            time.sleep(0.2)
            self.poll()
        if Request.STOP not in self._asked:
            self._heartbeat.update(state=State.RUNNING)
            self._report("run", state="resumed", step=step)
