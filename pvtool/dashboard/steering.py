"""What can be done to a run from any screen that has one at hand."""

import asyncio
from collections.abc import Callable

from textual.screen import Screen
from textual.worker import Worker, WorkerState

from pvtool.supervisor import LIVE, ask, start
from pvtool_core.errors import PvError, UsageError, from_foreign
from pvtool_core.runs import Request, RunFolder, State


class SteeringScreen(Screen[None]):
    """A screen with a run at hand, and the actions of `keys.STEERING`. Each says what it did, or why not."""

    panes: tuple[str, ...] = ()

    def show_pane(self, name: str) -> None:
        """Go to one of `panes`."""
        raise NotImplementedError

    def run_at_hand(self) -> RunFolder | None:
        """The run that the keys steer now."""
        raise NotImplementedError

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Nothing that goes on behind the screen ends in silence."""
        if event.state is WorkerState.ERROR:
            self.notify(
                repr(event.worker.error), title="This screen stopped following.", severity="error", markup=False
            )

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
            self.run_worker(self._do(act, folder), exit_on_error=False)

    async def _do(self, act: Callable[[RunFolder], str], folder: RunFolder) -> None:
        try:
            self.notify(await asyncio.to_thread(act, folder), markup=False)
        except (PvError, OSError) as error:
            refusal = from_foreign(error)
            self.notify(refusal.hint, title=refusal.message, severity="warning", markup=False)


def _asked(folder: RunFolder, request: Request, words: str) -> str:
    ask(folder, request)
    when = "when it goes on" if folder.state() == State.PAUSED and request != Request.RESUME else "when its step ends"
    return f"{folder.name} {words} {when}."


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
    start(folder)
    return f"{folder.name} goes on from its last checkpoint."
