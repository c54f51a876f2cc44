"""Collect the results of a batch from its engines, and decide how it ended."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from pvtool_core.errors import Interrupted, PvError, RunFailed, SomeFailed
from pvtool_core.rendering.results import Outcome, worst
from pvtool_core.settings.jobs import RenderItem
from pvtool_core.store.events import ClipEvent
from pvtool_core.store.runs import RunFolder

OnClip = Callable[[ClipEvent], None]


class ClipResults:
    """The results that engines report: each clip once, whichever engine rendered it."""

    def __init__(self, on_clip: OnClip) -> None:
        self._on_clip = on_clip
        self._elsewhere: dict[str, ClipEvent] = {}
        self._reported: set[str] = set()
        self._failed: dict[str, ClipEvent] = {}
        self._reasons: set[str] = set()

    @property
    def failed(self) -> list[ClipEvent]:
        """The clips that no engine could render."""
        return list(self._failed.values())

    def add(self, event: ClipEvent) -> None:
        """Add the result of a clip. One made elsewhere may yet be reported by another engine.

        A clip that one engine could not render is reported again if another one can.
        """
        if event.status == "elsewhere":
            self._elsewhere[event.path] = event
        elif event.path not in self._reported or (
            event.path in self._failed and event.status != "failed"
        ):
            self._report(event)

    def close(self) -> None:
        """Report the clips made elsewhere, once all engines have ended."""
        for path, event in self._elsewhere.items():
            if path not in self._reported or path in self._failed:
                self._report(replace(event, status="skipped"))

    def _report(self, event: ClipEvent) -> None:
        self._reported.add(event.path)
        self._failed.pop(event.path, None)
        if event.status == "failed":
            self._failed[event.path] = event
            self._reasons.add(event.reason)
        self._on_clip(event)

    def __contains__(self, item: RenderItem) -> bool:
        return item.clip in self._reported

    def explains(self, error: PvError) -> bool:
        """Return whether the error only repeats what was reported of clips."""
        return error.kind == SomeFailed.__name__ or error.message in self._reasons


def outcome_of(
    engines: Sequence[RunFolder],
    errors: Sequence[PvError | None],
    results: ClipResults,
    items: Sequence[RenderItem],
    planned: int = 0,
) -> Outcome:
    """Return how a batch ended, from the error and the results of each engine.

    It succeeded if every clip exists, even if engines were killed, and none reports another error.
    """
    ended = list(zip(engines, errors, strict=True))
    results.close()
    left = [item for item in items if item not in results]
    killed = _killed_with(ended, left)
    other = [
        error
        for engine, error in ended
        if error and _is_reported(engine, error) and not results.explains(error)
    ]
    error = worst(error for error in errors if error)
    return Outcome(
        total=planned or len(items),
        failed=[*results.failed, *killed],
        stopped=_stopped(error, left, bool(killed)) if left else None,
        cause=error,
        other=worst(other),
    )


def _killed_with(
    ended: Sequence[tuple[RunFolder, PvError | None]], left: Sequence[RenderItem]
) -> list[ClipEvent]:
    """Return the clips left by an engine that was killed, unless a worse error ended the batch."""
    error = worst(error for _, error in ended if error)
    killed = any(one is error and engine.read_exit() is None for engine, one in ended)
    if not isinstance(error, RunFailed) or not killed:
        return []
    return [ClipEvent(path=item.clip, status="failed", reason=error.message) for item in left]


def _stopped(error: PvError | None, left: Sequence[RenderItem], killed: bool) -> PvError:
    """Return the error of a batch whose engines ended before every clip was tried."""
    again = "Run the same command again to render the missing clips."
    if error is None:  # stopped by another process, for example the dashboard
        return Interrupted(f"The batch was stopped; {len(left)} of its clips are missing.", again)
    return RunFailed(error.message, f"{again} {error.hint}") if killed else error


def _is_reported(engine: RunFolder, error: PvError) -> bool:
    """Return whether the engine reported the error; one after the last clip does not count."""
    return engine.read_exit() is not None and not isinstance(error, Interrupted)
