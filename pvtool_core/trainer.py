"""The training loop: optimizer steps, checkpoints, samples and requests.

The objective defines the losses, and the loop knows none by name. All randomness of an
iteration comes from a generator seeded with the run's seed and the iteration number. Weights,
optimizer state and that number are the complete state, and a resumed run takes the same steps.
"""

import dataclasses
import math
import time
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pvtool_core.adapter import Adapter, AdapterMetadata, IdentityAdapter, switch_step
from pvtool_core.backbones import Backbone, load_backbone
from pvtool_core.backbones.interface import adapter_target, to_pixels
from pvtool_core.errors import ExitStatus, NotFinite, RunFailed
from pvtool_core.keyword_vectors import new_vectors
from pvtool_core.media.encode import PLAIN, write_clip
from pvtool_core.media.ffmpeg import require_formats
from pvtool_core.models.prompt_limits import report_cuts
from pvtool_core.objectives import AdaptedModel, load_objective
from pvtool_core.paths import trajectories_dir
from pvtool_core.sample_scoring import LoadJudge, SampleScoring
from pvtool_core.sampling import denoise
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.objectives import OBJECTIVES
from pvtool_core.settings.sample_metrics import LIKENESS
from pvtool_core.settings.schema import ControlConfig, TrainingConfig
from pvtool_core.store.event_log import EventWriter, iter_records
from pvtool_core.store.events import (
    CheckpointEvent,
    Report,
    RunEvent,
    SampleEvent,
    ScoresEvent,
    StageEvent,
    StepEvent,
    WarningEvent,
    parse_event,
)
from pvtool_core.store.liveness import Heartbeat, State
from pvtool_core.store.prompts import fill
from pvtool_core.store.runs import (
    ADAPTER_FILE,
    BestCheckpoint,
    ExitRecord,
    Request,
    RunFolder,
    checkpoint_facts,
    checkpoint_step,
    own_folder,
)
from pvtool_core.store.sample_scores import SampleScores
from pvtool_core.trajectories import TrajectoryCache

OPTIMIZER_FILE = "optimizer.safetensors"

NOT_FINITE_HINT = (
    "Lower training.learning_rate, or use --set model.dtype=bfloat16 or float32; "
    "earlier checkpoints are valid."
)
_MOST_THREADS = 1024  # the limit of model.threads
_OVERFLOWS = 10  # overflows in a row


def train(
    job: TrainJob,
    folder: RunFolder,
    events: EventWriter,
    heartbeat: Heartbeat,
    load_judge: LoadJudge | None = None,
) -> ExitRecord:
    """Train the adapter of `job` in `folder` from its last checkpoint.

    `load_judge` loads the models that score samples; without it they are not scored.

    Returns the outcome: FINISHED, with a reason if that is early, or STOPPED on request. Raises
    RunFailed if a loss is not a number, BadPrompt if the text encoder truncates a keyword,
    FfmpegMissing or CodecMissing, and the errors of the objective and of model loading.
    """
    report, config = events.write, job.training
    job = with_recorded_threads(job, folder, report)
    control = RequestHandler(folder, report, heartbeat)
    heartbeat.update(state=State.RUNNING, total=config.iterations)
    report(StageEvent(stage="loading"))
    negative, vectors = job.sampler.negative_prompt, job.keyword_vectors
    report_cuts(job.model, job.prompts, negative, report, job.identity.noun, vectors)
    require_formats(PLAIN)  # the format of samples
    trainer = Trainer(job, trajectories_dir(), report)
    files = RunFiles(folder, report)
    if load_judge and config.score_samples:
        files.scoring = SampleScoring(job, trainer.model, load_judge, report)
    start = files.resume(trainer)
    heartbeat.update(step=start)

    for _ in trainer.objective.prepare():
        control.poll()
        if control.stops(start):
            return _ended(State.STOPPED)

    if start == 0 and config.sample_every:
        files.sample(trainer, 0)
    report(StageEvent(stage="training"))
    for step in range(start + 1, config.iterations + 1):
        if reason := files.reason_to_end(config):
            return _ended(State.FINISHED, reason)
        report(StepEvent.of(step, trainer.iterate(step)))
        heartbeat.update(step=step)
        control.poll()
        if control.take(Request.SAMPLE) or (
            config.sample_every and step % config.sample_every == 0
        ):
            files.sample(trainer, step)
        due = step % config.checkpoint_every == 0 or step == config.iterations
        due = due or files.is_best(step) or bool(files.reason_to_end(config))
        if control.take(Request.CHECKPOINT) or due or control.halts:
            files.checkpoint(trainer, step)
        if control.stops(step):
            return _ended(State.STOPPED)
    return _ended(State.FINISHED)


def _ended(state: State, reason: str = "") -> ExitRecord:
    return ExitRecord(status=ExitStatus.DONE, state=state, reason=reason)


def with_recorded_threads(job: TrainJob, folder: RunFolder, report: Report) -> TrainJob:
    """Set and return the number of CPU threads that the run has used so far.

    Without a setting, torch's number depends on machine and environment. Rounding depends on it,
    and a resumed run would end in other weights. A new run records torch's number.
    """
    threads = job.model.threads
    if not threads and (checkpoint := folder.latest_checkpoint()):
        recorded = checkpoint_facts(checkpoint).get("threads")
        threads = recorded if isinstance(recorded, int) and 0 < recorded <= _MOST_THREADS else 0
        if not threads:
            message = (
                f"{checkpoint.name} does not record the number of threads; training continues with "
                f"{torch.get_num_threads()}, and the weights may differ in their last digits."
            )
            report(WarningEvent(message=message))
    threads = threads or torch.get_num_threads()
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return dataclasses.replace(job, model=dataclasses.replace(job.model, threads=threads))


class Trainer:
    """The adapted model, its optimizer and its objective.

    Without a `cache` every trajectory is computed again.
    """

    def __init__(self, job: TrainJob, cache: Path | None, report: Report) -> None:
        self.job, self.config = job, job.training
        further = (
            fill(prompt, job.identity.noun) for prompt in OBJECTIVES[job.training.objective].prompts
        )
        self.backbone = load_backbone(
            job.model,
            job.sampler,
            (*job.prompts, *further),
            job.training.recompute,
            report,
            keep_text_encoder=job.keyword_vectors > 0,
        )
        first = switch_step(job.adapter.start, self.backbone.num_steps)
        trajectories = TrajectoryCache(cache, self.backbone, first, report)
        self.adapter = new_adapter(job, self.backbone)
        steps = range(first, self.backbone.num_steps)
        self.model = AdaptedModel(self.backbone, self.adapter, steps, trajectories)
        self.objective = load_objective(job, self.model, report)
        self.optimizer = adamw(self.adapter, job.training)
        self._pace: float | None = None
        self._report, self._overflows = report, 0

    def iterate(self, step: int) -> dict[str, Any]:
        """Take one optimizer step and return the values of its `step` event.

        A step whose gradient overflows float16 is skipped. Raises RunFailed, with an unchanged
        adapter, if a loss is NaN or infinite, or the gradient in another number format, or in too
        many iterations in a row.
        """
        begun = time.perf_counter()
        rate = learning_rate(self.config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self.objective.backpropagate(step)
        norm = float(
            torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), self.config.max_grad_norm)
        )
        overflows = not math.isfinite(norm)
        self._overflows = self._overflows + 1 if overflows else 0
        allowed = _OVERFLOWS if self.backbone.dtype == torch.float16 else 0
        if not all(map(math.isfinite, losses.values())) or self._overflows > allowed:
            raise RunFailed(
                f"The loss or its gradient is no longer a number at iteration {step}.",
                NOT_FINITE_HINT,
            )
        if overflows:
            message = f"The gradient of iteration {step} overflows; the step is skipped."
            self._report(WarningEvent(step=step, message=message))
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - begun
        self._pace = seconds if self._pace is None else 0.9 * self._pace + 0.1 * seconds
        return {
            **losses,
            "grad_norm": None if overflows else norm,
            "lr": rate,
            **self.objective.drawn,
            "seconds": seconds,
            "eta": self._pace * (self.config.iterations - step),
        }

    def terms(self) -> AdapterMetadata:
        """Return the metadata of the adapter file."""
        model, sampler = self.job.model, self.job.sampler
        (subject,) = self.job.subjects
        return AdapterMetadata(
            keyword=subject.keyword,
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
            layers=self.job.adapter.layers,
            objective=self.config.objective,
            image_model=self.job.trains_images(),
        )


def new_adapter(job: TrainJob, backbone: Backbone) -> Adapter:
    """Return the adapter that the job's objective trains, before the first step."""
    if backbone.prompt_encoder:
        return new_vectors(backbone.prompt_encoder, job.keyword_vectors, job.identity.noun)
    target = adapter_target(backbone, job.adapter.layers)
    return IdentityAdapter(backbone.denoiser, target, job.adapter.rank, seed=job.training.seed)


def control_facts(control: ControlConfig) -> dict[str, Any]:
    """Return the ControlNet of a run without local paths; empty without ControlNet."""
    if not control.model:
        return {}
    names = {"model": Path(control.model).name, "frames": Path(control.frames).name}
    return {**names, "weight": control.weight, "fingerprint": control.fingerprint}


def adamw(adapter: Adapter, config: TrainingConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        adapter.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Return the learning rate of iteration `step`, counted from 1.

    It rises over `warmup`, and falls to zero after `decay_from`.
    """
    risen = min(1.0, step / config.warmup) if config.warmup else 1.0
    left = 1 - (step - 1) / config.iterations
    fallen = min(1.0, left / (1 - config.decay_from)) if config.decay_from < 1 else 1.0
    return config.learning_rate * risen * fallen


class RunFiles:
    """Files of a run, each reported once, also when a resumed run writes it again.

    Attributes:
        scoring: Scores the samples; None if they are not scored.
        scores: Scores of all samples so far.
    """

    def __init__(self, folder: RunFolder, report: Report) -> None:
        self._folder, self._report = folder, report
        self._reported: set[PurePosixPath] = set()
        self.scoring: SampleScoring | None = None
        self.scores = SampleScores()
        for event in map(parse_event, iter_records(folder.events)):
            if isinstance(event, CheckpointEvent | SampleEvent):
                self._reported.add(event.path)
            elif isinstance(event, ScoresEvent):
                self.scores.add(event)

    def _report_once(self, event: CheckpointEvent | SampleEvent) -> None:
        if event.path not in self._reported:
            self._report(event)
            self._reported.add(event.path)

    def _relative(self, path: Path) -> PurePosixPath:
        return PurePosixPath(path.relative_to(self._folder.path))

    def checkpoint(self, trainer: Trainer, step: int) -> None:
        """Write adapter and optimizer state to a folder named by the step.

        Random state is not needed. Raises RunFailed, and writes nothing, if the adapter is not
        finite.
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
        folder = self._folder.write_checkpoint(step, files, facts)
        self._report_once(CheckpointEvent(step=step, path=self._relative(folder)))
        self._keep_best(trainer.config)

    def _keep_best(self, config: TrainingConfig) -> None:
        """Record the best checkpoint, then remove old ones: a kill in between leaves one more."""
        best = self.scores.best
        record = best and BestCheckpoint(step=best.step, likeness=best.scores[LIKENESS])
        self._folder.write_best(record)
        self._folder.remove_checkpoints(config.keep_checkpoints)

    def is_best(self, step: int) -> bool:
        """Return whether the samples of `step` are the best so far."""
        return self.scores.best is not None and self.scores.best.step == step

    def reason_to_end(self, config: TrainingConfig) -> str:
        """Return why training ends early; empty if it does not."""
        best = self.scores.best
        if not config.patience or best is None:
            return ""
        if self.scores.since_best(config.sample_every) < config.patience:
            return ""
        return (
            f"No higher held-out likeness in {config.patience} samples: the best is "
            f"{best.scores[LIKENESS]:.3f} at step {best.step}."
        )

    def resume(self, trainer: Trainer) -> int:
        """Load the newest complete checkpoint, if any; return its step."""
        folder = self._folder.latest_checkpoint()
        if folder is None:
            self._folder.write_best(None)
            return 0
        trainer.adapter.load(folder / ADAPTER_FILE, trainer.backbone.lora_layout)
        load_optimizer(trainer.optimizer, folder / OPTIMIZER_FILE)
        self._report(trainer.adapter.loaded_event(f"{self._folder.name}@{checkpoint_step(folder)}"))
        before, now = checkpoint_facts(folder).get("device"), trainer.backbone.device.type
        if before not in (None, now):
            message = f"This run was trained on {before} and continues on {now}: "
            message += "the weights will differ slightly."
            self._report(WarningEvent(message=message))
        step = checkpoint_step(folder)
        # the engine may have been killed between file and event
        self._report_once(CheckpointEvent(step=step, path=self._relative(folder)))
        self._keep_best(trainer.config)
        return step

    def sample(self, trainer: Trainer, step: int) -> None:
        """Render and score the first of the objective's sample clips with the current adapter.

        Raises RunFailed if training may end early and the likeness cannot be measured.
        """
        folder = own_folder(own_folder(self._folder.samples) / f"step-{step:06d}")
        model, count = trainer.model, trainer.config.sample_prompts
        for number, (prompt, seed) in enumerate(trainer.objective.samples[:count]):
            latents = model.cache.switch(prompt, seed)
            with torch.no_grad(), model.adapter.acting():
                embeds = model.backbone.prompt_embeds(prompt)
            try:
                latents = denoise(model.backbone, latents, embeds, model.steps, model.adapter)
                pictures = to_pixels(model.whole_clip(latents))
            except NotFinite as error:
                message = f"The sample {prompt!r} at step {step} was not written. {error.message}"
                self._report(WarningEvent(step=step, message=message))
                continue
            facts = {"prompt": prompt, "seed": seed, "step": step, "run": self._folder.name}
            facts["ai_generated"] = True
            (path,) = write_clip(folder / f"{number:02d}", pictures, trainer.job.model.fps, facts)
            self._report_once(
                SampleEvent(step=step, path=self._relative(path), prompt=prompt, seed=seed)
            )
            if self.scoring and step not in self.scores:
                self.scoring.add(pictures, prompt, seed)
        if self.scoring and step not in self.scores:
            self._report_scores(self.scoring.take(step), trainer.config)

    def _report_scores(self, event: ScoresEvent | None, config: TrainingConfig) -> None:
        if event is None:
            return
        if event.scores:
            self._report(event)
            self.scores.add(event)
        if config.patience and LIKENESS not in event.scores:
            raise RunFailed(
                "The likeness of the samples cannot be measured, on which training.patience "
                "depends.",
                "See the warnings of the run, or set training.patience = 0.",
            )


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
    """Requests to the engine, handled at fixed points of an iteration."""

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
        """Return whether a request was pending, and remove it."""
        asked = request in self._asked
        self._asked.discard(request)
        return asked

    @property
    def halts(self) -> bool:
        """Return whether a pause or a stop is pending, before which the state is saved."""
        return bool(self._asked & {Request.PAUSE, Request.STOP})

    def stops(self, step: int) -> bool:
        """Return whether to stop, after waiting for the end of a pause.

        Uses the requests of the last `poll`.
        """
        if Request.PAUSE in self._asked and Request.STOP not in self._asked:
            self._rest(step)
        return Request.STOP in self._asked

    def _rest(self, step: int) -> None:
        self._heartbeat.update(state=State.PAUSED)
        self._report(RunEvent(state=State.PAUSED, step=step))
        while Request.PAUSE in self._asked and Request.STOP not in self._asked:
            time.sleep(0.2)
            self.poll()
        if Request.STOP not in self._asked:
            self._heartbeat.update(state=State.RUNNING)
            self._report(RunEvent(state="resumed", step=step))
