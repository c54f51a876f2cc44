"""Run the engine of a training run: followed, detached, or watched in the dashboard."""

import shlex
import time

from pvtool.cli.cut_prompts import warn_of_cuts
from pvtool.cli.end_notice import announce_run
from pvtool.cli.progress import JobProgress
from pvtool.output import Output, on_terminal
from pvtool.text import duration, figures, shown
from pvtool_core.engine_server import EngineProcess
from pvtool_core.models.prompt_limits import check_prompts_fit
from pvtool_core.paths import runs_dir
from pvtool_core.settings.jobs import TrainJob, read_job, require
from pvtool_core.settings.objectives import OBJECTIVES
from pvtool_core.settings.sample_metrics import LIKENESS
from pvtool_core.store.event_log import newest_records
from pvtool_core.store.events import ScoresEvent, parse_event
from pvtool_core.store.liveness import LIVE, State
from pvtool_core.store.runs import BestCheckpoint, RunFolder
from pvtool_core.store.summary import RunSummary, adapter_of, check_training, job_of, summarize_run
from pvtool_core.supervisor import follow, raise_outcome, run_to_end, start_detached


def go(folder: RunFolder, detach: bool, output: Output) -> None:
    """Start or resume the engine of a prepared run, and follow it unless it is detached."""
    value = {"run": folder.name, "path": str(folder.path)}
    check_training(folder)
    if detach:  # otherwise the engine's warnings are shown
        job = require(read_job(folder.config), TrainJob)
        negative, noun = job.sampler.negative_prompt, job.identity.noun
        vectors = job.keyword_vectors
        warn_of_cuts(output, check_prompts_fit(job.model, job.prompts, negative, noun, vectors))
        start_detached(folder)
        text = f"{folder.name} is training. Follow it with `pv runs logs {folder.name} --follow`."
        output.result({**value, "state": folder.state()}, text)
        return
    began = time.monotonic()
    try:
        follow_training(folder)
    finally:
        announce_run(folder, output)
    state = folder.state()
    lines = [f"{folder.name} is {state}.", *_closing(folder, time.monotonic() - began)]
    output.result({**value, "state": state}, "\n".join(lines))


def _closing(folder: RunFolder, seconds: float) -> list[str]:
    """Return lines about what an ended run reached, and the next command.

    Paths and commands are not wrapped, to be copied.
    """
    run, best, job = summarize_run(folder), folder.read_best(), job_of(folder)
    step = f" ({figures(run.seconds_per_step)} s/step)" if run.seconds_per_step else ""
    about = {"time": f"{duration(seconds)}{step}, to step {run.step} of {run.iterations}"}
    for event in map(parse_event, newest_records(folder.events, ScoresEvent.type, 1)):
        about["likeness"] = _likeness(event) if isinstance(event, ScoresEvent) else ""
    if best:
        about["best"] = f"{run.run}@best, step {best.step}: likeness {best.likeness:.3f}"
    if folder.latest_checkpoint():
        about["adapter"] = shown(adapter_of(folder))
    about["next"] = _next_command(run, job, best)
    return [f"{name:9} {text}" for name, text in about.items() if text]


def _likeness(event: ScoresEvent) -> str:
    after, before = event.scores.get(LIKENESS), event.base.get(LIKENESS)
    if after is None:
        return ""
    base = "" if before is None else f", base model {before:.3f}"
    return f"{after:.3f} at step {event.step}{base} (held-out recogniser)"


def _next_command(run: RunSummary, job: TrainJob, best: BestCheckpoint | None) -> str:
    if run.state != State.FINISHED:
        return f"pv runs resume {run.run}"
    chosen = f" --run {run.run}@best" if best and best.step != run.step else ""
    return f"pv render {run.identity}{chosen} {shlex.quote(job.prompts[0])}"


def follow_training(folder: RunFolder) -> None:
    """Run the engine of a prepared run to its end, with progress.

    Raises the engine's error.
    """
    with _progress(folder) as progress:
        run_to_end(folder, progress.on_event)


def follow_other(folder: RunFolder) -> None:
    """Show the progress of a running engine to its end. Raises the engine's error."""
    with _progress(folder) as progress:
        follow(folder, progress.on_event)
    raise_outcome(folder)


def _progress(folder: RunFolder) -> JobProgress:
    job = require(read_job(folder.config), TrainJob)
    losses = OBJECTIVES[job.training.objective].losses
    return JobProgress(job.training.iterations, losses, job.model.device)


def watch_run(
    folder: RunFolder,
    output: Output,
    images: str | None = None,
    engine: EngineProcess | None = None,
) -> None:
    """Show a run in the dashboard until it is closed.

    Without a terminal, print lines until the run ends. `engine` is its process, if it is a child.
    Raises the error of a run that failed meanwhile.
    """
    from pvtool.dashboard.opening import open_dashboard

    if on_terminal():
        open_dashboard(runs_dir(), folder, images)
    elif folder.state() in LIVE:
        follow_other(folder)
    ended = engine is not None and engine.poll() is not None
    state = folder.state()
    if state in LIVE or (state == State.NEW and not ended):
        output.say(f"{folder.name} is still running; show it with `pv runs watch {folder.name}`.")
    else:
        raise_outcome(folder, returncode=engine.poll() if engine else None)
    output.result(
        {"run": folder.name, "path": str(folder.path), "state": state}, f"{folder.name} is {state}."
    )
