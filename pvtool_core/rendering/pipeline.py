"""Render groups of clips: take a lease, denoise, hand over to the writer; retry what failed."""

import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pvtool_core.batches.clips import Names, is_whole, read_sidecar
from pvtool_core.batches.folder import Group, grouped
from pvtool_core.errors import (
    Interrupted,
    NotFinite,
    OutOfMemory,
    PvError,
    from_foreign,
)
from pvtool_core.rendering.denoise import (
    ClipDenoiser,
    DenoisedClip,
    LoadedModel,
    Width,
    by_adapter,
    free_memory,
)
from pvtool_core.rendering.leases import Leases
from pvtool_core.rendering.results import Report, Results
from pvtool_core.rendering.write import Writer, kept_latents
from pvtool_core.settings.jobs import RenderItem, RenderJob
from pvtool_core.trajectories import Switch

PROMPTS_AT_ONCE = 500  # as many as a model is loaded for: their embeddings take memory
_LOOK_AGAIN_SECONDS = 0.5


class Batch:
    """All that this engine does for a job."""

    def __init__(self, job: RenderJob, claims: Leases, report: Report, shelf: LoadedModel) -> None:
        self.job, self._claims, self._report = job, claims, report
        self._names = [Names(setup, job.encoding.upscale) for setup in job.setups]
        self._since = Path(job.items).stat().st_mtime if job.overwrite else 0.0
        self._width = Width(job.width)
        self._finisher = Writer(job)
        self._shelf = shelf
        self._broken: dict[int, PvError] = {}
        self._lost: list[RenderItem] = []
        self._attempts_left = job.retries

    def render(self, items: Sequence[RenderItem], prompts: Sequence[str] = ()) -> None:
        """Make every clip that is not there. Raises as `render` does.

        With `prompts`, the items are of one setup, and the model is loaded for all of these.
        """
        self._tally = Results(self.job, self._report, len(items))
        self._prompts = {items[0].setup: list(prompts)} if prompts else prompts_of(items)
        self._place = {
            (setup, prompt): place
            for setup, prompts in self._prompts.items()
            for place, prompt in enumerate(prompts)
        }
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
        self._tally.finish()

    def _grouped(self, items: Iterable[RenderItem]) -> list[Group]:
        return grouped(items, self._names)

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

    def _chunks(
        self, groups: Iterable[Group], others: list[Group], status: str
    ) -> Iterator[list[Group]]:
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
            missing = self._missing(
                missing, "elsewhere"
            )  # somebody may have made it just before it became ours
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
        trimmed = self.job.setups[
            group.items[0].setup
        ].model.trim_prompt  # prompts of different lengths do not stack
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
        maker: ClipDenoiser,
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
        if (
            isinstance(error, NotFinite) and len(pairs) > 1
        ):  # one clip's, which must not fail the others
            self._denoise_in_halves(items, pairs, holding)
            return
        if not isinstance(from_foreign(error), OutOfMemory) or (
            len(pairs) == 1 and not self._finisher.busy()
        ):
            self._fail(items, error, holding)
            return
        error.__traceback__ = None  # which holds what the device is full of
        self._finisher.wait()  # and so may a clip that is being decoded
        free_memory()
        if len(pairs) == 1:
            self._denoise(items, holding)
            return
        self._width.halve()
        self._denoise_in_halves(items, pairs, holding)

    def _denoise_in_halves(
        self, items: list[RenderItem], pairs: list[tuple[str, int]], holding: "_Holding"
    ) -> None:
        first = set(pairs[: len(pairs) // 2])
        self._denoise([item for item in items if (item.prompt, item.seed) in first], holding)
        self._denoise([item for item in items if (item.prompt, item.seed) not in first], holding)

    def _fail(self, items: Iterable[RenderItem], error: BaseException, holding: "_Holding") -> None:
        for item in items:
            self._tally.failed(item, error, last=not self._attempts_left)
            holding.over(item)

    def _finish(self, made: DenoisedClip, holding: "_Holding") -> None:
        item, began = made.item, time.monotonic()
        if not holding.is_ours(
            item
        ):  # we were held up for so long that somebody else has taken it over
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

    def _maker_for(self, item: RenderItem) -> ClipDenoiser | PvError:
        """The model that makes this clip, loaded for its prompt and the next ones; or why it cannot be loaded."""
        if item.setup in self._broken:
            return self._broken[item.setup]
        setup = self.job.setups[item.setup]
        fresh = not self._shelf.has(setup, item.prompt)
        if fresh:
            self._finisher.wait()  # what is being decoded needs the model that goes
        try:
            first = self._place[item.setup, item.prompt] // PROMPTS_AT_ONCE * PROMPTS_AT_ONCE
            prompts = self._prompts[item.setup][first : first + PROMPTS_AT_ONCE]
            maker = self._shelf.take(setup, prompts, self._report, self.job.cache_gigabytes)
            if fresh:
                self._tally.progress()  # that it is rendering: what the clips share takes long
            return maker
        except Interrupted:
            raise
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            self._broken[item.setup] = from_foreign(error)
            return self._broken[item.setup]


def prompts_of(items: Iterable[RenderItem]) -> dict[int, list[str]]:
    """The prompts of each setup, each once, in their order."""
    found: dict[int, dict[str, None]] = {}
    for item in items:
        found.setdefault(item.setup, {})[item.prompt] = None
    return {setup: list(prompts) for setup, prompts in found.items()}


class _Holding:
    """The claims of a chunk, each given back with the last of its clips."""

    def __init__(self, chunk: Iterable[Group], claims: Leases) -> None:
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
