"""Notices: how a run or a batch ended, without paths and pictures."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pvtool_core.batches.folder import BatchFolder
from pvtool_core.batches.listing import read_listing
from pvtool_core.errors import PvError
from pvtool_core.store.event_log import records_of
from pvtool_core.store.events import ClipEvent
from pvtool_core.store.liveness import LIVE, State
from pvtool_core.store.runs import ExitRecord, RunFolder
from pvtool_core.store.summary import summarize_run


@dataclass(frozen=True, kw_only=True)
class Notice:
    """How a run or a batch ended.

    `step` of `total` counts training steps, or existing clips. `reason` is empty after success.
    `likeness` is the held-out one of the best checkpoint of a run.
    """

    kind: Literal["run", "batch"]
    name: str
    state: State
    step: int
    total: int
    reason: str = ""
    likeness: float | None = None

    @property
    def text(self) -> str:
        """A sentence for the user."""
        unit = "step" if self.kind == "run" else "clip"
        ended = {State.LOST: "lost its engine process"}.get(self.state, str(self.state))
        verb = f"was {ended}" if self.state == State.STOPPED else ended
        parts = [f"{self.name} {verb} at {unit} {self.step} of {self.total}."]
        parts += [self.reason] if self.reason else []
        parts += [f"Likeness {self.likeness:.2f}."] if self.likeness is not None else []
        return " ".join(parts)

    def payload(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            self.kind: self.name,
            "state": str(self.state),
            "step": self.step,
            "total": self.total,
            "reason": self.reason,
            "likeness": self.likeness,
            "time": time.time(),
            "text": self.text,
        }


def notice_of_run(folder: RunFolder) -> Notice:
    """Return how a training run ended."""
    run = summarize_run(folder)
    return Notice(
        kind="run",
        name=run.run,
        state=run.state,
        step=run.step,
        total=run.iterations,
        reason=_reason_of([folder]),
        likeness=run.likeness,
    )


def notice_of_batch(batch: BatchFolder) -> Notice | None:
    """Return how a batch ended; None while one of its workers is running or has not started.

    Raises OSError.
    """
    workers = batch.workers()
    states = [worker.state() for worker in workers]
    if any(state in LIVE or state == State.NEW for state in states):
        return None
    existing = {
        record["path"]
        for worker in workers
        for record in records_of(worker.events, ClipEvent.type)
        if record.get("status") in {"done", "skipped", "elsewhere"} and "path" in record
    }
    total = read_listing(batch.items).count
    stopped = State.STOPPED in states
    left = State.STOPPED if stopped else State.FAILED
    state = State.FINISHED if len(existing) >= total else left
    reason = "" if state == State.FINISHED else _reason_of(workers)
    return Notice(
        kind="batch", name=batch.name, state=state, step=len(existing), total=total, reason=reason
    )


def _reason_of(folders: Iterable[RunFolder]) -> str:
    """Return the first reason in the exit records, or the name of its error if it has a path."""
    for folder in folders:
        try:
            ended = folder.read_exit()
        except PvError:  # a corrupt record
            continue
        if ended and (ended.reason or ended.kind):
            return _without_path(ended)
    return ""


def _without_path(ended: ExitRecord) -> str:
    has_path = any(mark in ended.reason for mark in "/\\~")
    return ended.kind or "See the log." if has_path else ended.reason
