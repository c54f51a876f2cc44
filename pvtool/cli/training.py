"""Run the engine of a training run: followed, detached, or watched in the dashboard."""

from pvtool.cli.progress import JobProgress
from pvtool.cli.render_report import warn_of_cuts
from pvtool.output import Output, on_terminal
from pvtool_core.engine_server import EngineProcess
from pvtool_core.models.prompt_limits import check_prompts_fit
from pvtool_core.paths import runs_dir
from pvtool_core.settings.jobs import TrainJob, read_job, require
from pvtool_core.settings.objectives import OBJECTIVES
from pvtool_core.store.liveness import LIVE, State
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import check_training
from pvtool_core.supervisor import follow, raise_outcome, run_to_end, start_detached


def go(folder: RunFolder, detach: bool, output: Output) -> None:
    """Start or resume the engine of a prepared run, and follow it unless it is detached."""
    value = {"run": folder.name, "path": str(folder.path)}
    check_training(folder)
    if detach:  # otherwise the engine's warnings are shown
        job = require(read_job(folder.config), TrainJob)
        negative, noun = job.sampler.negative_prompt, job.identity.noun
        warn_of_cuts(output, check_prompts_fit(job.model, job.prompts, negative, noun))
        start_detached(folder)
        text = f"{folder.name} is training. Follow it with `pv runs logs {folder.name} --follow`."
        output.result({**value, "state": folder.state()}, text)
        return
    follow_training(folder)
    output.result(
        {**value, "state": folder.state()},
        f"{folder.name} is {folder.state()}: {folder.latest_checkpoint()}",
    )


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
    training = require(read_job(folder.config), TrainJob).training
    return JobProgress(training.iterations, OBJECTIVES[training.objective].losses)


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
