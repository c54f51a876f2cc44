"""The rendering pipeline: acquire groups of clips, denoise, write.

Each stage is a generator that takes items from the previous one. All report to `Results`.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pvtool_core.batches.clips import file_names, read_sidecar, record_likeness, whole_record
from pvtool_core.batches.folder import Group, group_items
from pvtool_core.batches.seed_tries import applies_to
from pvtool_core.media.decode import frames_of
from pvtool_core.rendering.leases import Leases
from pvtool_core.rendering.likeness_scorer import LikenessScorer
from pvtool_core.rendering.loaded_models import Models, denoise
from pvtool_core.rendering.results import Results
from pvtool_core.rendering.tries import TriedClip
from pvtool_core.rendering.write import Writer
from pvtool_core.settings.jobs import RenderItem, RenderJob
from pvtool_core.store.clip_likeness import ClipLikeness, likeness_in
from pvtool_core.store.clip_watermark import watermark_in

_LOOK_AGAIN_SECONDS = 0.5


def render_groups(
    job: RenderJob, groups: Sequence[Group], leases: Leases, models: Models, results: Results
) -> None:
    """Render every missing clip of the groups. Raises the error that ends the batch early."""
    with Writer(job, results, models.scorer) as writer:
        while groups:
            ours = claimed(groups, job, leases, models.scorer, results)
            for clip in denoise(ours, models, results, writer.wait):
                if leases.holds(clip.key):
                    writer.put(clip)
                else:  # this process was suspended, and another one took the lease
                    writer.wait()  # to release the lease before it is acquired again
                    results.lost(clip.item)
            writer.wait()
            results.progress()
            again = results.retry()
            groups = [left for group in groups if (left := group.only(again)).items]
            groups += group_items(job, results.tries.take_next())
            for tried in results.tries.take_settled():
                record_tries(tried, job, leases, results)


def record_tries(tried: TriedClip, job: RenderJob, leases: Leases, results: Results) -> None:
    """Write the tries of a clip, and which is the best, to its sidecar; report the clip."""
    clip, likeness = tried.planned.clip, tried.likeness
    if likeness and likeness_in(read_sidecar(clip)) != likeness:
        (group,) = group_items(job, [tried.planned])
        while not leases.acquire(group.key):
            results.progress()
            time.sleep(_LOOK_AGAIN_SECONDS)
        record_likeness(clip, likeness)
        leases.release(group.key)
    results.settled(tried.event)


def claimed(
    groups: Sequence[Group],
    job: RenderJob,
    leases: Leases,
    scorer: LikenessScorer,
    results: Results,
) -> Iterator[Group]:
    """Yield each group with its missing clips, once this process holds its lease.

    Existing clips are reported. Groups of other processes are checked repeatedly, until their clips
    exist or the process has died. The lease is released with the last clip of the group.
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
            missing = _missing(missing, job, since, "elsewhere", results, scorer)
            if not missing.items:
                leases.release(group.key)
                continue
            results.begin(missing.items, partial(leases.release, group.key))
            yield missing
        if lost := results.take_lost():
            waiting += [left for group in groups if (left := group.only(lost)).items]
        if len(waiting) == len(groups):
            results.progress()
            time.sleep(_LOOK_AGAIN_SECONDS)
        groups, status = waiting, "elsewhere"


def _missing(
    group: Group,
    job: RenderJob,
    since: float,
    status: str,
    results: Results,
    scorer: LikenessScorer | None = None,
) -> Group:
    """Return the group without the clips that exist, which are reported with `status`.

    A clip whose likeness is required and unknown is measured by `scorer`; without one, it is
    missing.
    """
    missing: list[RenderItem] = []
    for item in group.items:
        record = whole_record(item.clip, group.fingerprints[item.clip], job.encoding, since)
        likeness = likeness_in(record)
        required = record is not None and likeness is None and applies_to(item, job.tries)
        if required and scorer:
            likeness = _score_file(item, job, scorer, results)
        if record is None or (required and not scorer):
            missing.append(item)
        else:
            results.done(item, status, likeness=likeness, watermark=watermark_in(record))
    return replace(group, items=missing)


def _score_file(
    item: RenderItem, job: RenderJob, scorer: LikenessScorer, results: Results
) -> ClipLikeness | None:
    """Measure the likeness of an existing clip, and write it to the sidecar."""
    file = Path(item.clip).with_name(next(iter(file_names(item.clip, job.encoding))))
    setup = job.setups[item.setup]
    likeness = scorer.measure(item, setup, frames_of(file), results.warn)
    if likeness:
        record_likeness(item.clip, likeness)
    return likeness
