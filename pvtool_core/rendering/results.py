"""What became of each clip of a batch: told once, from any thread, and what failed is remembered."""

import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pvtool_core.batches.clips import BASE, file_names
from pvtool_core.errors import DiskFull, Interrupted, PvError, SomeFailed, from_foreign
from pvtool_core.settings.jobs import RenderItem, RenderJob

Report = Callable[..., None]


@dataclass(frozen=True)
class Failure:
    """A clip that could not be made."""

    item: RenderItem
    error: PvError


class Results:
    """Tells what became of each clip, from any thread, and remembers what failed."""

    def __init__(self, job: RenderJob, report: Report, total: int) -> None:
        self._job, self._report, self._total = job, report, total
        self._turn = threading.Lock()
        self._told: dict[str, str] = {}
        self.failures: list[Failure] = []
        self.fatal: PvError | None = None

    def done(self, item: RenderItem, status: str, seconds: float = 0.0) -> None:
        """It is there: made now, by somebody else meanwhile, or before."""
        self._tell(item, status=status, seconds=round(seconds, 3))

    def failed(
        self, item: RenderItem, error: BaseException, seconds: float = 0.0, *, last: bool = True
    ) -> None:
        """It could not be made; told only if it is not tried again. What ends the whole batch is kept for its end."""
        known = from_foreign(error)
        if known.kind in {
            DiskFull.__name__,
            Interrupted.__name__,
        }:  # told again by another process, too
            self.fatal = self.fatal or known
            return
        traceback.print_exception(error, file=sys.stderr)
        with self._turn:
            self.failures.append(Failure(item, known))
        if last:
            self._tell(item, status="failed", reason=known.message, seconds=round(seconds, 3))

    def pass_on(self, event: dict[str, Any]) -> None:
        """What another process said."""
        if event["type"] == "clip":
            with self._turn:
                self._told[event["path"]] = event["status"]
        self._guarded(**event)

    def take_over(self, items: Iterable[RenderItem], error: PvError) -> None:
        """What ended another process that was to make `items`: those that it did not make have failed by it."""
        for item in items:
            if self._told.get(item.clip, "failed") == "failed":
                self.failed(item, error)

    def progress(self) -> None:
        """Tell how far it is, and hear whether to stop: raises Interrupted then."""
        self._report("stage", stage="rendering", done=len(self._told), total=self._total)

    def raise_fatal(self) -> None:
        if self.fatal:
            raise self.fatal

    def finish(self) -> None:
        """Raise what the batch ends with, if it is not all well."""
        self.raise_fatal()
        self.progress()
        if self.failures:
            only = len(self.failures) == self._total
            raise self.failures[0].error if only else SomeFailed(len(self.failures), self._total)

    def _tell(self, item: RenderItem, **more: Any) -> None:
        with self._turn:
            if item.clip in self._told:
                return
            self._told[item.clip] = more["status"]
        name = item.identity if item.adapter else BASE
        files = list(file_names(item.clip, self._job.encoding))
        about = {
            "identity": name,
            "prompt": item.prompt,
            "seed": item.seed,
            "run": item.run,
            "step": item.step,
        }
        self._guarded("clip", path=item.clip, files=files, **about, **more)

    def _guarded(self, type: str, **values: Any) -> None:
        try:
            self._report(type, **values)
        except Interrupted as error:
            self.fatal = error
