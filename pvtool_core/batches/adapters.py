"""Select the adapter for clips of an identity: run, checkpoint and settings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pvtool_core.errors import InputRefused, Missing, UsageError
from pvtool_core.paths import runs_dir
from pvtool_core.settings.jobs import LikenessConfig, Setup
from pvtool_core.store.identities import Identity
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import (
    ADAPTER_FILE,
    RunFolder,
    averaged_checkpoints,
    checkpoint_file_sha256,
    checkpoint_step,
    find_run,
)
from pvtool_core.store.summary import job_of

BEST = "best"
"""Stands for a step in RUN@best: that of the checkpoint with the highest held-out likeness."""


@dataclass(frozen=True)
class RunAdapter:
    """An adapter of an identity and the settings with which it is rendered.

    `start` and `base_model`, with the fingerprint `base_fingerprint`, are those of its training.
    `longer` names another finished run of the identity, as RUN@STEP, if it was trained for more
    steps.
    """

    adapter: Path
    sha256: str
    run: str
    step: int
    setup: Setup
    start: float
    base_model: str
    base_fingerprint: str
    longer: str = ""
    damaged: tuple[str, ...] = ()


def newest_run(person: Identity, runs: Sequence[RunFolder]) -> RunAdapter:
    """Return the adapter of the newest finished run of an identity; means are skipped.

    `runs` are given oldest first. Raises Missing, with the other runs, if none is finished.
    """
    with_adapter = [run for run in reversed(runs) if run.checkpoint_folders()]
    means = [run for run in with_adapter if averaged_checkpoints(run.checkpoint_folders()[-1])]
    trained = [run for run in with_adapter if run not in means]
    finished = [run for run in trained if run.state() == State.FINISHED]
    damaged: list[str] = []
    for number, run in enumerate(finished):
        if found := _newest_adapter(run):
            older = finished[number + 1 :]
            return replace(
                found, longer=_longer(found.step, older), damaged=(*damaged, *found.damaged)
            )
        damaged.extend(_named(run, folder) for folder in reversed(run.checkpoint_folders()))
    unfinished = ", ".join(f"{run.name} ({run.state()})" for run in trained)
    hint = f"Train one with `pv train {person.name}`."
    if unfinished:
        hint = f"Unfinished runs can be used with --run: {unfinished}."
    elif means:
        names = ", ".join(run.name for run in means)
        hint = f"Means of checkpoints can be used with --run: {names}."
    raise Missing("finished run of the identity", person.name, hint)


def named_run(person: Identity, words: str) -> RunAdapter:
    """Return the adapter of RUN, RUN@STEP or RUN@best.

    Raises Missing, or UsageError for a run of another identity.
    """
    run = find_run(runs_dir(), words.partition("@")[0])
    identity = job_of(run).identity
    if identity.fingerprint != person.ref.fingerprint:
        other = (
            "another identity of that name" if identity.name == person.name else repr(identity.name)
        )
        raise UsageError(
            f"{run.name} was trained on {other}.", f"Use a run of {person.name}, or omit --run."
        )
    return checkpoint_adapter(words)


def checkpoint_adapter(words: str) -> RunAdapter:
    """Return the adapter of RUN, RUN@STEP or RUN@best, of any identity. Raises Missing."""
    name, at, step = words.partition("@")
    run = find_run(runs_dir(), name)
    if at:
        return _adapter_at(run, step)
    if found := _newest_adapter(run):
        return found
    raise Missing("checkpoint of the run", run.name, f"Train it with `pv runs resume {run.name}`.")


def _longer(step: int, older: Sequence[RunFolder]) -> str:
    """Return the longest older run as RUN@STEP if it has more than `step` steps, otherwise ""."""
    steps = [(checkpoint_step(run.checkpoint_folders()[-1]), run.name) for run in older]
    most, name = max(steps, default=(0, ""))
    return f"{name}@{most}" if most > step else ""


def _newest_adapter(run: RunFolder) -> RunAdapter | None:
    """Return the adapter of the newest checkpoint whose adapter is unchanged."""
    damaged: list[str] = []
    for folder in reversed(run.checkpoint_folders()):
        if found := _trained_by(run, folder):
            return replace(found, damaged=tuple(damaged))
        damaged.append(_named(run, folder))
    return None


def _named(run: RunFolder, checkpoint: Path) -> str:
    return f"{run.name}@{checkpoint_step(checkpoint)}"


def _adapter_at(run: RunFolder, step: str) -> RunAdapter:
    there = {str(checkpoint_step(folder)): folder for folder in run.checkpoint_folders()}
    if step == BEST:
        best = run.read_best()
        if best is None:
            raise Missing(
                "best checkpoint of the run",
                run.name,
                "It needs samples scored in training; use RUN or RUN@STEP.",
            )
        step = str(best.step)
    folder = there.get(step.lstrip("0") or step)
    if folder and (found := _trained_by(run, folder)):
        return found
    if folder:
        raise InputRefused(
            f"The checkpoint {_named(run, folder)} is damaged.", f"Use another: {', '.join(there)}."
        )
    hint = f"Existing checkpoints: {', '.join(there) or 'none'}."
    raise Missing(f"checkpoint of {run.name}", step, hint)


def _trained_by(run: RunFolder, checkpoint: Path) -> RunAdapter | None:
    """Return a checkpoint's adapter, or None if it is damaged."""
    digest = checkpoint_file_sha256(checkpoint, ADAPTER_FILE)
    if digest is None:
        return None
    job = job_of(run)
    return RunAdapter(
        adapter=checkpoint / ADAPTER_FILE,
        sha256=digest,
        run=run.name,
        step=checkpoint_step(checkpoint),
        setup=Setup.of(job, LikenessConfig.of(job)),
        start=job.adapter.start,
        base_model=job.model.base_model,
        base_fingerprint=job.model.fingerprint,
    )
