"""Results of a batch: report each clip once, remember failures, and decide how it ends.

Imports no torch: the front end uses the same rules as the engine.
"""

import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pvtool_core.batches.clips import BASE, file_names
from pvtool_core.errors import (
    DiskFull,
    ExitStatus,
    Interrupted,
    PvError,
    SomeFailed,
    from_foreign,
)
from pvtool_core.rendering.tries import Tries
from pvtool_core.settings.jobs import EncodingConfig, RenderItem, RenderJob, Setup
from pvtool_core.store.clip_likeness import ClipLikeness
from pvtool_core.store.clip_watermark import ClipWatermark
from pvtool_core.store.events import ClipEvent, Event, Report, StageEvent, WarningEvent


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a batch: it determines the error, and with it the exit status.

    `total` counts the planned clips, `failed` are those that failed, and `refused` counts the rows
    that were skipped. `stopped` ended the batch before every clip was tried. `cause` is the cause
    of the failures, reported if all clips failed. `other` concerns no clip, for example a contact
    sheet.
    """

    total: int
    failed: Sequence[ClipEvent] = ()
    refused: int = 0
    stopped: PvError | None = None
    cause: PvError | None = None
    other: PvError | None = None

    @property
    def error(self) -> PvError | None:
        """Return the error of the batch, or None if every clip exists."""
        if self.stopped:
            return self.stopped
        if self.failed and len(self.failed) == self.total and self.cause:
            return self.cause
        if self.other and not self.failed:
            return self.other
        if failed := len(self.failed) + self.refused:
            return SomeFailed(failed, self.total + self.refused)
        return None

    def raise_for_status(self) -> None:
        """Raise the error of the batch, if any."""
        if error := self.error:
            raise error


def worst(errors: Iterable[PvError]) -> PvError | None:
    """Return the most severe error: interruption, lack of memory or disk space, or any other."""
    return min(errors, key=_severity, default=None)


def _severity(error: PvError) -> int:
    return 0 if isinstance(error, Interrupted) else 1 if error.status == ExitStatus.RESOURCES else 2


def clip_event(
    item: RenderItem,
    setups: Sequence[Setup],
    encoding: EncodingConfig,
    *,
    status: str,
    seconds: float | None = 0.0,
    reason: str = "",
    likeness: ClipLikeness | None = None,
    watermark: ClipWatermark | None = None,
) -> ClipEvent:
    """Return the event of a clip."""
    return ClipEvent(
        path=item.clip,
        files=tuple(file_names(item.clip, encoding)),
        identity=item.identity if item.shows_identity else BASE,
        prompt=item.prompt,
        seed=item.seed,
        run=item.run,
        step=item.step,
        method=setups[item.setup].method.name if item.reference else "",
        base_model=setups[item.setup].model.base_model,
        adapter_base=item.adapter_base,
        strength=item.strength,
        status=status,
        seconds=seconds,
        reason=reason,
        likeness=likeness,
        watermark=watermark,
    )


@dataclass(frozen=True)
class Failure:
    """A clip that could not be rendered."""

    item: RenderItem
    error: PvError


@dataclass
class _Held:
    """Clips that are not settled yet, and the action once they are."""

    left: int
    release: Callable[[], None]


@dataclass
class Results:
    """Reports the status of each clip, from any thread, and remembers failures.

    A failure is reported once no retries are left. An error that ends the whole batch is kept in
    `fatal`.
    """

    job: RenderJob
    report: Report
    total: int
    retries: int = 0
    failures: list[Failure] = field(default_factory=list[Failure])
    fatal: PvError | None = None
    _reported: dict[str, str] = field(default_factory=dict[str, str])
    _held: dict[str, _Held] = field(default_factory=dict[str, _Held])
    _lost: list[RenderItem] = field(default_factory=list[RenderItem])
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.tries = Tries(self.job.tries)

    def begin(self, items: Sequence[RenderItem], release: Callable[[], None]) -> None:
        """Report the progress, and call `release` once each clip is done, has failed or is lost."""
        self.progress()
        held = _Held(len(items), release)
        with self._turn:
            self._held.update(dict.fromkeys((item.clip for item in items), held))

    def done(
        self,
        item: RenderItem,
        status: str,
        seconds: float = 0.0,
        likeness: ClipLikeness | None = None,
        watermark: ClipWatermark | None = None,
    ) -> None:
        """Record that the clip exists: `done` by this process, `skipped`, or done `elsewhere`."""
        self._report_clip(item, status, seconds, likeness=likeness, watermark=watermark)
        self._settle(item)

    def warn(self, message: str) -> None:
        """Report a problem that fails no clip."""
        self._guarded(WarningEvent(message=message))

    def failed(self, item: RenderItem, error: BaseException, seconds: float = 0.0) -> None:
        """Record a clip that could not be rendered, or the error that ends the whole batch."""
        known = from_foreign(error)
        if known.kind in (DiskFull.__name__, Interrupted.__name__):  # also in another process
            self.fatal = self.fatal or known
        else:
            traceback.print_exception(error, file=sys.stderr)
            known.with_traceback(None)  # its frames keep tensors alive
            with self._turn:
                self.failures.append(Failure(item, known))
            if not self.retries:
                self._report_clip(item, "failed", seconds, known.message)
        self._settle(item)

    def lost(self, item: RenderItem) -> None:
        """Record that another process took over the clip."""
        self._lost.append(item)
        self._settle(item)

    def take_lost(self) -> list[RenderItem]:
        """Return the clips that were lost since the last call."""
        lost, self._lost = self._lost, []
        return lost

    def retry(self) -> list[RenderItem]:
        """Return the failed clips to retry, and forget their failures."""
        if not self.retries:
            return []
        again = [failure.item for failure in self.failures]
        self.retries -= 1
        self.failures.clear()
        return again

    def pass_on(self, event: Event) -> None:
        """Repeat an event of another process."""
        if isinstance(event, ClipEvent):
            with self._turn:
                self._reported[event.path] = event.status
        self._guarded(event)

    def take_over(self, items: Iterable[RenderItem], error: PvError) -> None:
        """Record the error of another process as the failure of its unreported clips."""
        for item in items:
            if item.clip not in self._reported:
                self.failed(item, error)

    def progress(self) -> None:
        """Report how many clips are settled.

        Raises the error that ends the batch, such as a request to stop.
        """
        self._guarded(StageEvent(stage="rendering", done=len(self._reported), total=self.total))
        if self.fatal:
            raise self.fatal

    def finish(self) -> Outcome:
        """Report the last progress and return the outcome.

        Raises the error that ended the batch early.
        """
        self.progress()
        failed = [
            clip_event(
                failure.item,
                self.job.setups,
                self.job.encoding,
                status="failed",
                reason=failure.error.message,
            )
            for failure in self.failures
        ]
        cause = self.failures[0].error if self.failures else None
        return Outcome(total=self.total, failed=failed, cause=cause)

    def _settle(self, item: RenderItem) -> None:
        with self._turn:
            held = self._held.pop(item.clip, None)
            if held:
                held.left -= 1
        if held and not held.left:
            held.release()

    def _report_clip(
        self,
        item: RenderItem,
        status: str,
        seconds: float,
        reason: str = "",
        likeness: ClipLikeness | None = None,
        watermark: ClipWatermark | None = None,
    ) -> None:
        event = clip_event(
            item,
            self.job.setups,
            self.job.encoding,
            status=status,
            seconds=round(seconds, 3),
            reason=reason,
            likeness=likeness,
            watermark=watermark,
        )
        if final := self.tries.add(item, event):
            self.settled(final)

    def settled(self, event: ClipEvent) -> None:
        """Report the result of a planned clip, once."""
        with self._turn:
            if event.path in self._reported:
                return
            self._reported[event.path] = event.status
        self._guarded(event)

    def _guarded(self, event: Event) -> None:
        try:
            self.report(event)
        except Interrupted as error:
            self.fatal = error
