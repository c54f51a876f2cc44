"""Render the clips of an earlier batch that failed or are missing."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath

import orjson

from pvtool_core.api.batch import make_batch, missing_clips
from pvtool_core.batches.folder import BatchFolder, Relocation
from pvtool_core.batches.plan import BatchPlan
from pvtool_core.errors import PvError, UsageError
from pvtool_core.paths import batches_dir
from pvtool_core.settings.jobs import RenderItem, RenderJob, read_job, require
from pvtool_core.settings.toml import from_table
from pvtool_core.store.event_log import read_events
from pvtool_core.store.events import ClipEvent
from pvtool_core.store.liveness import LIVE
from pvtool_core.supervisor import Engines
from pvtool_core.untrusted import JOB_BYTES, read_regular

_OLD_KEYS = ("switch_width", "tail_width")  # written before version 0.2


def repeat_batch(batch: BatchFolder) -> BatchFolder:
    """Start engines for the clips of a batch that failed or are missing; return the new batch.

    Raises UsageError if the batch is running, is elsewhere, or all its clips exist; also for clips
    outside its output folder, as its files may come from another machine.
    """
    if batch.path.resolve().parent != batches_dir().resolve():
        raise UsageError(
            f"{batch.name} is not in {batches_dir()}.", "Use `pv render` for its rows."
        )
    if any(worker.state() in LIVE for worker in batch.workers()):
        raise UsageError(f"{batch.name} is running.", "Wait for its end, or stop it.")
    recorded = batch.job()
    moved = batch.relocation(recorded)
    job = replace(recorded, out=moved.find(recorded.out))
    if job.on:
        raise UsageError(
            f"{batch.name} was rendered on a cluster.", "Repeat its `pv render` command."
        )
    here = Relocation(Path(recorded.out), Path(job.out))
    items = [
        replace(
            item,
            clip=here.moved(item.clip),
            adapter=moved.find(item.adapter),
            folder=moved.find(item.folder),
        )
        for item in _items(batch, recorded)
    ]
    if job.overwrite:
        rendered = set(map(here.moved, _rendered(batch)))
        items = [item for item in items if item.clip not in rendered]
    missing = missing_clips(BatchPlan(setups=list(job.setups), items=items), job)
    if not missing:
        raise UsageError(f"All clips of {batch.name} exist.", "Nothing to render.")
    repeated = make_batch(missing, job, _devices(batch))
    Engines(repeated.workers()).start()
    return repeated


def _items(batch: BatchFolder, job: RenderJob) -> Iterator[RenderItem]:
    out = Path(job.out)
    if not out.is_absolute() or PurePath(job.sheet).name != job.sheet:
        raise UsageError(f"The job of {batch.name} is invalid.", "Repeat its `pv render` command.")
    try:
        for line in read_regular(batch.items, JOB_BYTES).splitlines():
            values = orjson.loads(line)
            for key in _OLD_KEYS:
                values.pop(key, None)
            item = from_table(RenderItem, values, str(batch.items))
            if not 0 <= item.setup < len(job.setups):
                raise ValueError(f"unknown setup {item.setup}")
            clip = PurePath(item.clip)
            if not clip.is_relative_to(out) or ".." in clip.parts:
                raise ValueError(f"{item.clip!r} is outside {job.out}")
            yield item
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{batch.items} is corrupt: {error}.", "Repeat its `pv render` command."
        ) from error


def _rendered(batch: BatchFolder) -> set[str]:
    """Return the clips that a batch has rendered again."""
    found = (event for worker in batch.workers() for event in read_events(worker.events)[0])
    return {event.path for event in found if isinstance(event, ClipEvent) and not event.reason}


def _devices(batch: BatchFolder) -> list[str]:
    """Return the devices of several workers; none for a single one, whose job has its device."""
    devices: list[str] = []
    for worker in batch.workers():
        try:
            job = require(read_job(worker.config), RenderJob)
        except PvError:
            continue
        devices += [setup.model.device for setup in job.setups[:1]]
    return [*dict.fromkeys(devices)] if len(devices) > 1 else []
