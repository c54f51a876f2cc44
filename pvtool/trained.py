"""What clips of a person can be made by: which run, which of its checkpoints, and with which settings."""

from dataclasses import dataclass
from pathlib import Path

from pvtool.facts import adapter_in, job_of, runs_of
from pvtool_core.config import AdapterConfig, Setup
from pvtool_core.errors import Missing, UsageError
from pvtool_core.library import Identity
from pvtool_core.paths import runs_dir
from pvtool_core.runs import RunFolder, State, checkpoint_is_whole, checkpoint_step, find_run, sha256_of


@dataclass(frozen=True)
class Trained:
    """What makes clips of a person: an adapter, and the settings that it was trained with."""

    adapter: Path
    sha256: str
    run: str
    step: int
    setup: Setup


def newest_run(person: Identity) -> Trained:
    """By the newest run of the person that is finished. Raises Missing, and names the others."""
    runs = [run for run in reversed(runs_of(person)) if run.checkpoint_folders()]
    for run in runs:
        if run.state() == State.FINISHED and (checkpoint := run.latest_checkpoint()):
            return trained_by(run, checkpoint)
    others = ", ".join(f"{run.name} ({run.state()})" for run in runs)
    hint = f"--run can be {others}." if others else f"`pv train {person.name}` makes one."
    raise Missing("finished run of the identity", person.name, hint)


def named_run(person: Identity, words: str) -> Trained:
    """By the run, or its checkpoint, that RUN or RUN@STEP names. Raises Missing, or UsageError for another person's."""
    name, at, step = words.partition("@")
    run = find_run(runs_dir(), name)
    identity = job_of(run).identity
    if identity.fingerprint != person.ref.fingerprint:
        other = "another person of that name" if identity.name == person.name else repr(identity.name)
        raise UsageError(f"{run.name} was trained on {other}.", f"Give a run of {person.name}, or none.")
    checkpoint = _checkpoint(run, step) if at else run.latest_checkpoint()
    if checkpoint is None:
        raise Missing("checkpoint of the run", run.name, f"`pv runs resume {run.name}` trains it.")
    return trained_by(run, checkpoint)


def _checkpoint(run: RunFolder, step: str) -> Path:
    there = {str(checkpoint_step(folder)): folder for folder in run.checkpoint_folders()}
    folder = there.get(step.lstrip("0") or step)
    if folder is None or not checkpoint_is_whole(folder):
        raise Missing(f"checkpoint of {run.name}", step, f"There are: {', '.join(there) or 'none'}.")
    return folder


def trained_by(run: RunFolder, checkpoint: Path) -> Trained:
    job, adapter = job_of(run), adapter_in(checkpoint)
    start = AdapterConfig(start=job.adapter.start)
    setup = Setup(model=job.model, sampler=job.sampler, adapter=start)
    return Trained(adapter, sha256_of(adapter), run.name, checkpoint_step(checkpoint), setup)
