"""The rendering pipeline: claim groups of clips, load their model, denoise, write.

Each stage is a generator that takes from the one before and hands on to the next. All report to `Results`.
"""

import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pvtool_core.batches.clips import Names, is_whole, read_sidecar
from pvtool_core.errors import Interrupted, PvError, from_foreign
from pvtool_core.rendering.denoise import ClipDenoiser, DenoisedClip, Models
from pvtool_core.rendering.leases import Leases
from pvtool_core.rendering.results import Results
from pvtool_core.rendering.write import Writer, kept_latents
from pvtool_core.settings.jobs import RenderItem, RenderJob, Setup

_PROMPTS_PER_MODEL = 500  # a model is loaded for that many prompts: their embeddings take memory
_LOOK_AGAIN_SECONDS = 0.5


@dataclass(frozen=True)
class Group:
    """Clips of one setup, prompt and seed, which share the steps before the adapter starts.

    `key` names their lease. `prompts` are those that the model is loaded for together with theirs.
    """

    key: str
    setup: Setup
    names: Names
    prompts: tuple[str, ...]
    items: Sequence[RenderItem]

    def only(self, items: Iterable[RenderItem]) -> "Group":
        """Return the group with those of its clips that are among `items`."""
        wanted = {item.clip for item in items}
        return replace(self, items=[item for item in self.items if item.clip in wanted])


def group_items(job: RenderJob, items: Iterable[RenderItem]) -> list[Group]:
    """Group clips in their order, but with all groups of one setup in a row."""
    names = [Names(setup, job.encoding.upscale) for setup in job.setups]
    members: dict[tuple[int, str], list[RenderItem]] = {}
    for item in items:
        key = names[item.setup].trajectory(item.prompt, item.seed)
        members.setdefault((item.setup, key), []).append(item)
    ordered = sorted(members.items(), key=lambda pair: pair[0][0])
    prompts = _prompts_per_model((setup, found[0].prompt) for (setup, _), found in ordered)
    return [
        Group(key, job.setups[setup], names[setup], prompts[setup, found[0].prompt], found)
        for (setup, key), found in ordered
    ]


def _prompts_per_model(
    wanted: Iterable[tuple[int, str]],
) -> dict[tuple[int, str], tuple[str, ...]]:
    """Return for each setup and prompt the prompts that the model is loaded for."""
    by_setup: dict[int, dict[str, None]] = {}
    for setup, prompt in wanted:
        by_setup.setdefault(setup, {})[prompt] = None
    found: dict[tuple[int, str], tuple[str, ...]] = {}
    for setup, prompts in by_setup.items():
        texts = list(prompts)
        for start in range(0, len(texts), _PROMPTS_PER_MODEL):
            block = tuple(texts[start : start + _PROMPTS_PER_MODEL])
            found |= {(setup, prompt): block for prompt in block}
    return found


def render_groups(
    job: RenderJob, groups: Sequence[Group], leases: Leases, models: Models, results: Results
) -> None:
    """Render every missing clip of the groups. Raises the error that ends the batch early."""
    with Writer(job, results) as writer:
        while groups:
            for denoiser, group in loaded(
                claimed(groups, job, leases, results), models, writer, results
            ):
                for clip in denoise(denoiser, group, results):
                    if leases.holds(group.key):
                        writer.put(clip)
                    else:  # this process was suspended, and another one has taken over
                        writer.wait()  # this group's lease is given back before it is asked for again
                        results.lost(clip.item)
            writer.wait()
            results.progress()
            again = results.retry()
            groups = [left for group in groups if (left := group.only(again)).items]


def claimed(
    groups: Sequence[Group], job: RenderJob, leases: Leases, results: Results
) -> Iterator[Group]:
    """Yield each group with its missing clips, once this process holds its lease.

    Clips that exist are reported. Groups that another process holds are looked at again, until their clips exist or
    that process has died. The lease is given back with the last clip of the group.
    """
    since = Path(job.items).stat().st_mtime if job.overwrite else 0.0
    status = "skipped"
    while groups:
        waiting: list[Group] = []
        for group in groups:
            missing = _missing(group, job, since, status, results)
            if not missing.items:
                continue
            if not leases.acquire(group.key):
                waiting.append(missing)
                continue
            # Another process may have rendered it just before.
            missing = _missing(missing, job, since, "elsewhere", results)
            if not missing.items:
                leases.release(group.key)
                continue
            results.progress()
            results.hold(missing.items, partial(leases.release, group.key))
            yield missing
            if lost := results.take_lost():
                waiting.append(missing.only(lost))
        if len(waiting) == len(groups):
            results.progress()
            time.sleep(_LOOK_AGAIN_SECONDS)
        groups, status = waiting, "elsewhere"


def _missing(group: Group, job: RenderJob, since: float, status: str, results: Results) -> Group:
    """Return the group without the clips that exist, which are reported with `status`."""
    missing: list[RenderItem] = []
    for item in group.items:
        if _exists(item, group.names, job, since):
            results.done(item, status)
        else:
            missing.append(item)
    return replace(group, items=missing)


def _exists(item: RenderItem, names: Names, job: RenderJob, since: float) -> bool:
    """Return whether the clip is complete, and was made after `since`."""
    if not is_whole(item.clip, names.fingerprint(item), job.encoding):
        return False
    record = read_sidecar(item.clip)
    return record is not None and record["created"] >= since


def loaded(
    groups: Iterable[Group], models: Models, writer: Writer, results: Results
) -> Iterator[tuple[ClipDenoiser, Group]]:
    """Yield each group with its model. If that cannot be loaded, all clips of the setup fail."""
    errors: dict[Setup, PvError] = {}
    for group in groups:
        denoiser = models.get(group.setup, group.prompts)
        if denoiser is None and group.setup not in errors:
            writer.wait()  # clips that are being decoded need the model that goes
            try:
                denoiser = models.load(group.setup, group.prompts)
            except Interrupted:
                raise
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                errors[group.setup] = from_foreign(error).with_traceback(None)  # holds tensors
            results.progress()
        if denoiser:
            yield denoiser, group
        else:
            for item in group.items:
                results.failed(item, errors[group.setup])


def denoise(denoiser: ClipDenoiser, group: Group, results: Results) -> Iterator[DenoisedClip]:
    """Yield the final latents of each clip, first those that an earlier attempt kept. Report failures."""
    missing: list[tuple[RenderItem, str]] = []
    for item in group.items:
        fingerprint = group.names.fingerprint(item)
        latents = kept_latents(item, fingerprint)
        if latents is None:
            missing.append((item, fingerprint))
        else:
            yield DenoisedClip(item, fingerprint, latents, denoiser)
    if not missing:
        return
    try:
        prefix = denoiser.prefix(missing[0][0].prompt, missing[0][0].seed)
    except Exception as error:
        for item, _ in missing:
            results.failed(item, error)
        return
    for item, fingerprint in sorted(missing, key=lambda pair: pair[0].adapter):
        results.progress()
        try:
            clip = denoiser.finish(item, fingerprint, prefix)
        except Exception as error:
            results.failed(item, error)
        else:
            yield clip
