"""The rendering pipeline: acquire groups of clips, denoise, write.

Each stage is a generator that takes items from the previous one. All report to `Results`.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pvtool_core.batches.clips import whole_record
from pvtool_core.batches.folder import Group
from pvtool_core.rendering.denoise import Models, denoise
from pvtool_core.rendering.leases import Leases
from pvtool_core.rendering.results import Results
from pvtool_core.rendering.write import Writer
from pvtool_core.settings.jobs import RenderItem, RenderJob
from pvtool_core.store.clip_likeness import likeness_in

_LOOK_AGAIN_SECONDS = 0.5


def render_groups(
    job: RenderJob, groups: Sequence[Group], leases: Leases, models: Models, results: Results
) -> None:
    """Render every missing clip of the groups. Raises the error that ends the batch early."""
    with Writer(job, results, models.scorer) as writer:
        while groups:
            ours = claimed(groups, job, leases, results)
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


def claimed(
    groups: Sequence[Group], job: RenderJob, leases: Leases, results: Results
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
            missing = _missing(missing, job, since, "elsewhere", results)
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


def _missing(group: Group, job: RenderJob, since: float, status: str, results: Results) -> Group:
    """Return the group without the clips that exist, which are reported with `status`."""
    missing: list[RenderItem] = []
    for item in group.items:
        record = whole_record(item.clip, group.fingerprints[item.clip], job.encoding, since)
        if record is None:
            missing.append(item)
        else:
            results.done(item, status, likeness=likeness_in(record))
    return replace(group, items=missing)
