"""Actions on runs and batches, shared by several screens."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from textual.binding import ActiveBinding
from textual.screen import Screen
from textual.worker import Worker, WorkerState

from pvtool.dashboard.messages import NewBatch, OpenBatch
from pvtool_core.api.repeat import repeat_batch
from pvtool_core.batches.folder import BatchFolder
from pvtool_core.errors import PvError, UsageError, from_foreign
from pvtool_core.store.liveness import LIVE, State
from pvtool_core.store.runs import Request, RunFolder
from pvtool_core.store.summary import check_training
from pvtool_core.supervisor import ask, start

if TYPE_CHECKING:
    from pvtool.dashboard.follow.all_runs import RunsApp


class ActionsScreen(Screen[None]):
    """Screen that runs actions in threads and shows a notification with the result or the error."""

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Report errors of background workers."""
        if event.state is WorkerState.ERROR:
            self.notify(
                repr(event.worker.error),
                title="This screen stopped updating.",
                severity="error",
                markup=False,
            )

    def perform(self, action: Callable[[], str]) -> None:
        """Run an action in a thread and show the message it returns, or its PvError or OSError."""
        self.run_worker(partial(self._perform, action), exit_on_error=False)

    async def _perform(self, action: Callable[[], str]) -> None:
        try:
            self.notify(await asyncio.to_thread(action), markup=False)
        except (PvError, OSError) as error:
            known = from_foreign(error)
            self.notify(known.hint, title=known.message, severity="warning", markup=False)


class BatchActionsScreen(ActionsScreen):
    """Screen with a selected batch and the actions of `keys.BATCH_ACTIONS`."""

    def selected_batch(self) -> BatchFolder | None:
        """Return the batch that the keys act on."""
        raise NotImplementedError

    def selected_identity(self) -> str:
        """Return the first identity of the selected batch, or ""."""
        raise NotImplementedError

    def action_new(self) -> None:
        self.post_message(NewBatch(self.selected_identity()))

    def action_repeat(self) -> None:
        if folder := self.selected_batch():
            self.run_worker(partial(self._repeat, folder), group="repeat", exit_on_error=False)

    async def _repeat(self, folder: BatchFolder) -> None:
        repeated: list[BatchFolder] = []

        def repeat() -> str:
            repeated.append(repeat_batch(folder))
            return f"Rendering the failed and missing clips of {folder.name}."

        await self._perform(repeat)
        for batch in repeated:
            self.post_message(OpenBatch(batch.name))

    def action_stop(self) -> None:
        if folder := self.selected_batch():
            self.perform(partial(stop_batch, folder))


class RunActionsScreen(ActionsScreen):
    """Screen with selected runs and the actions of `keys.RUN_ACTIONS`."""

    panes: tuple[str, ...] = ()
    _action_state: State | None = None

    @property
    def active_bindings(self) -> dict[str, ActiveBinding]:
        """Return the bindings for the footer, adapted to the state of the current run.

        Pause and Stop need an engine, Resume needs none, and replaces Pause of a paused run.
        """
        found = super().active_bindings
        adapted = {
            name: _adapt_to_state(active, self._action_state) for name, active in found.items()
        }
        return {name: active for name, active in adapted.items() if active}

    def show_actions_for(self, state: State | None) -> None:
        """Adapt the footer to the state of the current run."""
        if state != self._action_state:
            self._action_state = state
            self.refresh_bindings()

    def show_pane(self, name: str) -> None:
        """Show one of `panes`."""
        raise NotImplementedError

    def selected_runs(self) -> list[RunFolder]:
        """Return the runs that the keys act on."""
        raise NotImplementedError

    def action_pause(self) -> None:
        self._run_action(toggle_pause)

    def action_resume(self) -> None:
        self._run_action(self._resume)

    def _resume(self, folder: RunFolder) -> str:
        """Resume a run of this machine. Raises what `resume_run` raises."""
        app = cast("RunsApp", self.app)
        if machine := app.runs.machine_of(folder):
            hint = f"`pv runs resume {folder.path.name}` resumes it there."
            raise UsageError(f"{folder.name} is in the data folder of {machine}.", hint)
        return resume_run(folder)

    def action_stop(self) -> None:
        self._run_action(lambda folder: _send(folder, Request.STOP, "saves a checkpoint and stops"))

    def action_checkpoint(self) -> None:
        self._run_action(lambda folder: _send(folder, Request.CHECKPOINT, "saves a checkpoint"))

    def action_sample(self) -> None:
        self._run_action(lambda folder: _send(folder, Request.SAMPLE, "renders samples"))

    def _run_action(self, action: Callable[[RunFolder], str]) -> None:
        for folder in self.selected_runs():
            self.perform(partial(action, folder))


_NEED_AN_ENGINE = {"pause", "stop", "checkpoint", "sample"}


_RESUMABLE = {State.STOPPED, State.FAILED, State.LOST}


def _adapt_to_state(active: ActiveBinding, state: State | None) -> ActiveBinding | None:
    """Return a binding as it applies to a run in this state, or None if it does not."""
    binding = active.binding
    if state is None:
        return active
    if binding.action in _NEED_AN_ENGINE and state not in LIVE:
        return None
    if binding.action == "pause" and state == State.PAUSED:
        return active._replace(binding=replace(binding, description="Resume"))
    if binding.action == "resume":
        return active._replace(binding=replace(binding, show=True)) if state in _RESUMABLE else None
    return active


def _send(folder: RunFolder, request: Request, effect: str) -> str:
    """Send a request to the engine and return a message with its effect."""
    paused = folder.state() == State.PAUSED
    ask(folder, request)
    if paused and request == Request.STOP:
        return f"{folder.name} stops now. Its checkpoint was saved when it paused."
    if paused and request == Request.RESUME:
        return f"{folder.name} {effect} now."
    return f"{folder.name} {effect} after {'it resumes' if paused else 'the current step'}."


def toggle_pause(folder: RunFolder) -> str:
    """Pause a running engine or resume a paused one. Raises UsageError if no engine is alive."""
    if folder.state() == State.PAUSED:
        return resume_run(folder)
    return _send(folder, Request.PAUSE, "saves a checkpoint and pauses")


def resume_run(folder: RunFolder) -> str:
    """Resume a paused, stopped or killed run. Raises UsageError if it cannot be resumed."""
    state = folder.state()
    if state == State.PAUSED:
        return _send(folder, Request.RESUME, "resumes")
    if state in LIVE:
        raise UsageError(f"{folder.name} is already {state}.", "Nothing to resume.")
    if state == State.FINISHED:
        raise UsageError(f"{folder.name} is finished.", "No training steps are left.")
    check_training(folder)
    start(folder)
    return f"{folder.name} resumes from its last checkpoint."


def stop_batch(folder: BatchFolder) -> str:
    """Ask all workers of a batch to stop. Raises UsageError if no worker is alive."""
    live = [worker for worker in folder.workers() if worker.state() in LIVE]
    if not live:
        raise UsageError(f"No worker of {folder.name} is running.", "Nothing to stop.")
    for worker in live:
        ask(worker, Request.STOP)
    return (
        f"{folder.name} stops after the current clips. "
        "Press r, or run the same `pv render` command, to render the missing clips."
    )
