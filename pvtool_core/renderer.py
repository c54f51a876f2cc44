"""Renders a batch of clips: what is there is left alone, what fails does not stop the others.

Clips are made in groups that share prompt, seed and setup, so that they share their adapter-free steps, and a group is
claimed before it is made (claims.py): any number of engines may work at the same batch, or at the same folder. Whoever
finds everything made or claimed waits for the others to end, and takes over what dies with them.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvtool_core.batches import Group, read_items
from pvtool_core.claims import Claims
from pvtool_core.clips import BASE, Names, file_names, is_whole, read_sidecar
from pvtool_core.config import RenderItem, RenderJob
from pvtool_core.errors import DiskFull, Interrupted, OutOfMemory, PvError, SomeFailed, from_foreign
from pvtool_core.finishing import Finisher, free_memory, kept_latents
from pvtool_core.making import Made, Maker, Width, by_adapter
from pvtool_core.trajectories import Switch

Report = Callable[..., None]
PROMPTS_AT_ONCE = 500  # as many as a model is loaded for: their embeddings take memory
_LOOK_AGAIN_SECONDS = 0.5


def render(job: RenderJob, report: Report) -> None:
    """Make every clip of the job, telling of each.

    Raises SomeFailed if some could not be made, the error itself if none could, and at once what would end the others
    too: a full disk, or a request to stop.
    """
    report("stage", stage="loading")
    with Claims(Path(job.out) / ".claims") as claims:
        Batch(job, claims, report).render(read_items(Path(job.items)))


@dataclass(frozen=True)
class Failure:
    """A clip that could not be made."""

    item: RenderItem
    error: PvError


class Tally:
    """Tells what became of each clip, from any thread, and remembers what failed."""

    def __init__(self, job: RenderJob, report: Report, total: int) -> None:
        self._job, self._report, self._total = job, report, total
        self._turn = threading.Lock()
        self._told: set[str] = set()
        self.failures: list[Failure] = []
        self.fatal: BaseException | None = None

    def done(self, item: RenderItem, status: str, seconds: float = 0.0) -> None:
        """It is there: made now, by somebody else meanwhile, or before."""
        self._tell(item, status=status, seconds=round(seconds, 3))

    def failed(self, item: RenderItem, error: BaseException, seconds: float = 0.0, *, last: bool = True) -> None:
        """It could not be made; told only if it is not tried again. What ends the whole batch is kept for its end."""
        known = from_foreign(error)
        if isinstance(known, DiskFull | Interrupted):
            self.fatal = self.fatal or known
            return
        traceback.print_exception(error, file=sys.stderr)
        with self._turn:
            self.failures.append(Failure(item, known))
        if last:
            self._tell(item, status="failed", reason=known.message, seconds=round(seconds, 3))

    def raise_fatal(self) -> None:
        if self.fatal:
            raise self.fatal

    def progress(self) -> None:
        self._report("stage", stage="rendering", done=len(self._told), total=self._total)

    def _tell(self, item: RenderItem, **more: Any) -> None:
        name = item.identity if item.adapter else BASE
        files = list(file_names(item.clip, self._job.encoding))
        with self._turn:
            if item.clip in self._told:
                return
            self._told.add(item.clip)
        try:
            self._report("clip", path=item.clip, files=files, identity=name, prompt=item.prompt, seed=item.seed, **more)
        except Interrupted as error:
            self.fatal = error


class Batch:
    """All that this engine does for a job."""

    def __init__(self, job: RenderJob, claims: Claims, report: Report) -> None:
        self.job, self._claims, self._report = job, claims, report
        self._names = [Names(setup, job.encoding.upscale) for setup in job.setups]
        self._since = Path(job.items).stat().st_mtime if job.overwrite else 0.0
        self._width = Width(job.width)
        self._finisher = Finisher(job)
        self._maker: tuple[int, Maker] | None = None
        self._broken: dict[int, PvError] = {}
        self._lost: list[RenderItem] = []
        self._prompts: dict[int, list[str]] = {}
        self._attempts_left = job.retries

    def render(self, items: Sequence[RenderItem]) -> None:
        """Make every clip that is not there. Raises as `render` does."""
        self._tally = Tally(self.job, self._report, len(items))
        for item in items:
            self._prompts.setdefault(item.setup, []).append(item.prompt)
        self._prompts = {setup: list(dict.fromkeys(prompts)) for setup, prompts in self._prompts.items()}
        try:
            self._go_through(self._grouped(items))
            while self._tally.failures and self._attempts_left:
                self._attempts_left -= 1
                again = [failure.item for failure in self._tally.failures]
                self._tally.failures.clear()
                self._broken.clear()
                self._go_through(self._grouped(again))
        finally:
            self._finisher.close()
        self._tally.raise_fatal()
        self._tally.progress()
        if failures := self._tally.failures:
            raise failures[0].error if len(failures) == len(items) else SomeFailed(len(failures), len(items))

    def _grouped(self, items: Iterable[RenderItem]) -> list[Group]:
        """In their order, but all of one setup together."""
        groups: dict[tuple[int, str], list[RenderItem]] = {}
        for item in items:
            key = self._names[item.setup].trajectory(item.prompt, item.seed)
            groups.setdefault((item.setup, key), []).append(item)
        return [Group(key, members) for (_, key), members in sorted(groups.items(), key=lambda pair: pair[0][0])]

    def _go_through(self, groups: list[Group]) -> None:
        began_with_others = False
        while groups:
            others: list[Group] = []
            status = "elsewhere" if began_with_others else "skipped"
            for chunk in self._chunks(groups, others, status):
                self._tally.raise_fatal()
                self._tally.progress()
                self._make(chunk)
            self._finisher.wait()
            self._tally.raise_fatal()
            others += self._grouped(self._lost)
            self._lost.clear()
            if len(others) == len(groups):
                self._tally.progress()
                time.sleep(_LOOK_AGAIN_SECONDS)
            groups, began_with_others = others, True

    def _chunks(self, groups: Iterable[Group], others: list[Group], status: str) -> Iterator[list[Group]]:
        """Groups of one setup to make together, claimed, with what is missing of them; `others` are claimed by others.

        A clip that is there already has `status`.
        """
        chunk: list[Group] = []
        for group in groups:
            missing = self._missing(group, status)
            if not missing.items:
                continue
            if not self._claims.take(group.key):
                others.append(group)
                continue
            missing = self._missing(missing, "elsewhere")  # somebody may have made it just before it became ours
            if not missing.items:
                self._claims.give_back(group.key)
                continue
            if chunk and (_apart(chunk[0], missing) or len(chunk) >= self._width_for(missing)):
                yield chunk
                chunk = []
            chunk.append(missing)
            if len(chunk) >= self._width_for(missing):
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _width_for(self, group: Group) -> int:
        trimmed = self.job.setups[group.items[0].setup].model.trim_prompt  # prompts of different lengths do not stack
        return 1 if trimmed or group.items[0].tail_width else self._width.now

    def _missing(self, group: Group, status: str) -> Group:
        """The group without the clips that are there, which are told of."""
        missing: list[RenderItem] = []
        for item in group.items:
            if self._is_there(item):
                self._tally.done(item, status)
            else:
                missing.append(item)
        return Group(group.key, missing)

    def _is_there(self, item: RenderItem) -> bool:
        if not is_whole(item.clip, self._names[item.setup].fingerprint(item), self.job.encoding):
            return False
        record = read_sidecar(item.clip)
        return record is not None and record["created"] >= self._since

    def _make(self, chunk: list[Group]) -> None:
        """Make the clips of a chunk: first those whose latents an earlier attempt has left."""
        holding = _Holding(chunk, self._claims)
        rest: list[RenderItem] = []
        for item in (item for group in chunk for item in group.items):
            kept = kept_latents(item, self._names[item.setup].fingerprint(item))
            if kept:
                self._finish(kept, holding)
            else:
                rest.append(item)
        self._denoise(rest, holding)

    def _denoise(self, items: list[RenderItem], holding: "_Holding") -> None:
        """Make clips of different prompts and seeds together; by halves where the memory is too small for them."""
        if not items:
            return
        maker = self._maker_for(items[0])
        if isinstance(maker, PvError):
            self._fail(items, maker, holding)
            return
        try:
            with self._finisher.device_in_use:
                switches = maker.switches(items)
        except Exception as error:
            self._recover(items, error, holding)
            return
        for members in by_adapter(items):
            self._tally.raise_fatal()
            self._tally.progress()
            self._denoise_tails(maker, members, switches, holding)
        self._width.measure(maker.backbone.device)

    def _denoise_tails(
        self,
        maker: Maker,
        items: list[RenderItem],
        switches: dict[tuple[str, int], Switch],
        holding: "_Holding",
    ) -> None:
        try:
            with self._finisher.device_in_use:
                finals = maker.tails(items, switches)
        except Exception as error:
            self._recover(items, error, holding)
            return
        for made in finals:
            self._finish(made, holding)

    def _recover(self, items: list[RenderItem], error: Exception, holding: "_Holding") -> None:
        pairs = list(dict.fromkeys((item.prompt, item.seed) for item in items))
        if not isinstance(from_foreign(error), OutOfMemory) or len(pairs) == 1:
            self._fail(items, error, holding)
            return
        error.__traceback__ = None  # which holds what the device is full of
        free_memory()
        self._width.halve()
        first = set(pairs[: len(pairs) // 2])
        self._denoise([item for item in items if (item.prompt, item.seed) in first], holding)
        self._denoise([item for item in items if (item.prompt, item.seed) not in first], holding)

    def _fail(self, items: Iterable[RenderItem], error: BaseException, holding: "_Holding") -> None:
        for item in items:
            self._tally.failed(item, error, last=not self._attempts_left)
            holding.over(item)

    def _finish(self, made: Made, holding: "_Holding") -> None:
        item, began = made.item, time.monotonic()
        if not holding.is_ours(item):  # we were held up for so long that somebody else has taken it over
            self._lost.append(item)
            holding.over(item)
            return

        def finished(error: BaseException | None) -> None:
            seconds = time.monotonic() - began
            if error:
                self._tally.failed(item, error, seconds, last=not self._attempts_left)
            else:
                self._tally.done(item, "done", made.seconds + seconds)
            holding.over(item)

        maker = self._maker_for(item)
        if isinstance(maker, PvError):
            finished(maker)
        else:
            self._finisher.submit(maker, made, self._names[item.setup].fingerprint(item), finished)

    def _maker_for(self, item: RenderItem) -> Maker | PvError:
        """The model that makes this clip, loaded for its prompt and the next ones; or why it cannot be loaded."""
        if item.setup in self._broken:
            return self._broken[item.setup]
        if self._maker and self._maker[0] == item.setup and item.prompt in self._maker[1].prompts:
            return self._maker[1]
        self._finisher.wait()  # what is being decoded needs the model that goes
        self._maker = None
        free_memory()
        prompts = self._prompts[item.setup]
        first = prompts.index(item.prompt)
        self._report("stage", stage="loading")
        try:
            setup, gigabytes = self.job.setups[item.setup], self.job.cache_gigabytes
            self._maker = item.setup, Maker(setup, prompts[first : first + PROMPTS_AT_ONCE], self._report, gigabytes)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            self._broken[item.setup] = from_foreign(error)
            return self._broken[item.setup]
        return self._maker[1]


class _Holding:
    """The claims of a chunk, each given back with the last of its clips."""

    def __init__(self, chunk: Iterable[Group], claims: Claims) -> None:
        self._claims, self._turn = claims, threading.Lock()
        self._key = {item.clip: group.key for group in chunk for item in group.items}
        self._left = {group.key: len(group.items) for group in chunk}

    def is_ours(self, item: RenderItem) -> bool:
        return self._claims.is_ours(self._key[item.clip])

    def over(self, item: RenderItem) -> None:
        """This clip is made, or has failed."""
        key = self._key[item.clip]
        with self._turn:
            self._left[key] -= 1
            last = not self._left[key]
        if last:
            self._claims.give_back(key)


def _apart(one: Group, other: Group) -> bool:
    """Whether they cannot go through a model together."""
    return one.items[0].setup != other.items[0].setup
