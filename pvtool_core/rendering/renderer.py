"""Render a batch: existing clips are skipped, and a failed clip does not stop the others.

Clips are rendered in groups of one prompt, seed and setup, which share the steps before the adapter
starts. A group is leased before it is rendered (leases.py), so any number of engines may render the
same batch or in the same folder. An engine that finds every group rendered or leased waits for the
other engines, and takes over the groups of those that die.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pvtool_core.batches.clip_methods import methods_of
from pvtool_core.batches.clips import BASE, file_names, read_sidecar
from pvtool_core.batches.folder import group_items, read_items
from pvtool_core.errors import DiskFull, OutOfMemory, from_foreign
from pvtool_core.media.c2pa import read_credentials
from pvtool_core.media.contact_sheet import write_sheets
from pvtool_core.media.ffmpeg import require_formats
from pvtool_core.rendering.leases import FOLDER, Leases
from pvtool_core.rendering.loaded_models import Models
from pvtool_core.rendering.pipeline import render_groups
from pvtool_core.rendering.results import Results
from pvtool_core.settings.jobs import (
    ADAPTER_METHOD,
    BASE_METHOD,
    EncodingConfig,
    RenderItem,
    RenderJob,
)
from pvtool_core.store.events import Report, StageEvent


def render(job: RenderJob, report: Report) -> None:
    """Render every clip of the job and report each.

    Raises SomeFailed if some clips failed, their error if all did, and immediately an error that
    would affect all: a full disk, or a request to stop.
    """
    try:
        _render(job, report)
    except Exception as error:
        known = from_foreign(error)
        if known.kind == DiskFull.__name__:
            known.hint = "Free some disk space; the same command then renders the missing clips."
        elif known.kind == OutOfMemory.__name__:
            known.hint = "Use fewer frames or a smaller size."
        if known is error:
            raise
        raise known from error


def _render(job: RenderJob, report: Report) -> None:
    check_encoding(job.encoding)
    items = read_items(Path(job.items))
    report(StageEvent(stage="loading"))
    if job.on == "ray":
        from pvtool_core.rendering.ray_cluster import render_on_ray

        results = Results(job, report, len(items))
        render_on_ray(job, group_items(job, items), results)
    else:
        results = Results(job, report, len(items), job.retries)
        render_here(job, items, results)
    outcome = results.finish()
    if job.sheet:
        report(StageEvent(stage="contact sheet"))
        write_sheet(job, items)
    outcome.raise_for_status()


def render_here(job: RenderJob, items: Iterable[RenderItem], results: Results) -> None:
    """Render clips in this process. Raises the error that ends the batch early."""
    with (
        Leases(Path(job.out) / FOLDER) as leases,
        Models(results.report, job.cache_gigabytes) as models,
    ):
        try:
            render_groups(job, group_items(job, items), leases, models, results)
        finally:
            leases.clear_expired()


def check_encoding(encoding: EncodingConfig) -> None:
    """Raise UsageError or NotReady if this machine cannot write such files."""
    require_formats(encoding)
    if encoding.certificate:
        read_credentials(Path(encoding.certificate), Path(encoding.key))


def write_sheet(job: RenderJob, items: Iterable[RenderItem]) -> list[Path]:
    """Write contact sheets of the existing clips into the output folder, and return their paths."""
    found: dict[Path, RenderItem] = {}
    records: dict[Path, dict[str, Any]] = {}
    for item in items:
        file = Path(item.clip).with_name(next(iter(file_names(item.clip, job.encoding))))
        record = read_sidecar(item.clip)
        if record and file.exists():
            found[file], records[file] = item, record
    methods = methods_of(records)
    rows: list[tuple[str, Path]] = []
    for file, item in found.items():
        who = item.identity if item.shows_identity else BASE
        method = "" if methods[file] in {ADAPTER_METHOD, BASE_METHOD} else f" · {methods[file]}"
        rows.append((f"{who}{method} · {item.prompt} · seed {item.seed}", file))
    return write_sheets(Path(job.out) / job.sheet, rows) if rows else []
