"""What can be done to a run, or a batch, from any screen that has one at hand."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from textual.binding import ActiveBinding
from textual.screen import Screen
from textual.worker import Worker, WorkerState

from pvtool_core.batches.folder import BatchFolder
from pvtool_core.errors import PvError, UsageError, from_foreign
from pvtool_core.store.liveness import LIVE, State
from pvtool_core.store.runs import Request, RunFolder
from pvtool_core.store.summary import check_training
from pvtool_core.supervisor import ask, start


class ActionsScreen(Screen[None]):
    """A screen whose keys do things in threads; each says what it did, or why not."""

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Nothing that goes on behind the screen ends in silence."""
        if event.state is WorkerState.ERROR:
            self.notify(
                repr(event.worker.error),
                title="This screen stopped following.",
                severity="error",
                markup=False,
            )

    def act(self, do: Callable[[], str]) -> None:
        """Do it, and tell the words it gives back. It may raise PvError and OSError."""
        self.run_worker(partial(self._act, do), exit_on_error=False)

    async def _act(self, do: Callable[[], str]) -> None:
        try:
            self.notify(await asyncio.to_thread(do), markup=False)
        except (PvError, OSError) as error:
            refusal = from_foreign(error)
            self.notify(refusal.hint, title=refusal.message, severity="warning", markup=False)


class RunActionsScreen(ActionsScreen):
    """A screen with a run at hand, and the actions of `keys.STEERING`."""

    panes: tuple[str, ...] = ()
    _offered: State | None = None

    @property
    def active_bindings(self) -> dict[str, ActiveBinding]:
        """What the footer offers: nothing to pause or stop without an engine, and Resume instead of Pause."""
        found = super().active_bindings
        return {name: _as_offered(active, self._offered) for name, active in found.items()}

    def offer_for(self, state: State | None) -> None:
        """Let the footer offer what makes sense in this state of the run at hand."""
        if state != self._offered:
            self._offered = state
            self.refresh_bindings()

    def show_pane(self, name: str) -> None:
        """Go to one of `panes`."""
        raise NotImplementedError

    def run_at_hand(self) -> RunFolder | None:
        """The run that the keys steer now."""
        raise NotImplementedError

    def action_pause(self) -> None:
        self._steer(pause_or_go_on)

    def action_resume(self) -> None:
        self._steer(go_on)

    def action_stop(self) -> None:
        self._steer(lambda folder: _asked(folder, Request.STOP, "saves a checkpoint and ends"))

    def action_checkpoint(self) -> None:
        self._steer(lambda folder: _asked(folder, Request.CHECKPOINT, "saves a checkpoint"))

    def action_sample(self) -> None:
        self._steer(lambda folder: _asked(folder, Request.SAMPLE, "draws samples"))

    def _steer(self, act: Callable[[RunFolder], str]) -> None:
        if folder := self.run_at_hand():
            self.act(partial(act, folder))


_NEED_AN_ENGINE = {"pause", "stop", "checkpoint", "sample"}


def _as_offered(active: ActiveBinding, state: State | None) -> ActiveBinding:
    binding = active.binding
    if state is not None and state not in LIVE and binding.action in _NEED_AN_ENGINE:
        return active._replace(binding=replace(binding, show=False))
    if binding.action == "pause" and state == State.PAUSED:
        return active._replace(binding=replace(binding, description="Resume"))
    if binding.action == "resume" and state in {State.STOPPED, State.FAILED, State.LOST}:
        return active._replace(binding=replace(binding, show=True, description="Resume"))
    return active


def _asked(folder: RunFolder, request: Request, words: str) -> str:
    paused = folder.state() == State.PAUSED
    ask(folder, request)
    if paused and request == Request.STOP:
        return f"{folder.name} ends now. Its checkpoint was saved when it paused."
    if paused and request == Request.RESUME:
        return f"{folder.name} {words} now."
    return f"{folder.name} {words} {'after it resumes' if paused else 'when its step ends'}."


def pause_or_go_on(folder: RunFolder) -> str:
    """Hold a running engine, let a paused one go on. Raises UsageError if none lives."""
    if folder.state() == State.PAUSED:
        return go_on(folder)
    return _asked(folder, Request.PAUSE, "saves a checkpoint and holds")


def go_on(folder: RunFolder) -> str:
    """Go on with a run that was paused, stopped or killed. Raises UsageError where there is nothing to go on with."""
    state = folder.state()
    if state == State.PAUSED:
        return _asked(folder, Request.RESUME, "goes on")
    if state in LIVE:
        raise UsageError(f"{folder.name} is {state} already.", "There is nothing to resume.")
    if state == State.FINISHED:
        raise UsageError(f"{folder.name} is finished.", "There is nothing left to train.")
    check_training(folder)
    start(folder)
    return f"{folder.name} goes on from its last checkpoint."


def stop_batch(folder: BatchFolder) -> str:
    """Ask all engines of a batch to end. Raises UsageError if none lives."""
    live = [worker for worker in folder.workers() if worker.state() in LIVE]
    if not live:
        raise UsageError(f"No engine works on {folder.name}.", "There is nothing to stop.")
    for worker in live:
        ask(worker, Request.STOP)
    return f"{folder.name} ends after the clips at hand; the same `pv render` goes on with what is missing."
