"""Renders a batch of clips: what is there is left alone, what fails does not stop the others.

Clips are made in groups that share prompt, seed and setup, so that they share their adapter-free steps, and a group is
claimed before it is made (claims.py): any number of engines may work at the same batch, or at the same folder. Whoever
finds everything made or claimed waits for the others to end, and takes over what dies with them.
"""

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from pvtool_core.batches.clips import BASE, file_names, read_sidecar
from pvtool_core.batches.folder import read_items
from pvtool_core.errors import (
    DiskFull,
    OutOfMemory,
    SomeFailed,
    from_foreign,
)
from pvtool_core.media.c2pa import read_credentials
from pvtool_core.media.contact_sheet import write_sheets
from pvtool_core.media.ffmpeg import require_formats
from pvtool_core.rendering.denoise import (
    LoadedModel,
)
from pvtool_core.rendering.leases import Leases
from pvtool_core.rendering.pipeline import Batch
from pvtool_core.rendering.results import Report
from pvtool_core.settings.jobs import EncodingConfig, RenderItem, RenderJob


def render(job: RenderJob, report: Report) -> None:
    """Make every clip of the job, telling of each.

    Raises SomeFailed if some could not be made, the error itself if none could, and at once what would end the others
    too: a full disk, or a request to stop.
    """
    try:
        _render(job, report)
    except Exception as error:
        known = from_foreign(error)
        if known.kind == DiskFull.__name__:
            known.hint = "Make room; then the same command goes on with what is missing."
        elif known.kind == OutOfMemory.__name__:
            known.hint = "Use fewer frames, a smaller size, or --batch 1."
        if known is error:
            raise
        raise known from error


def _render(job: RenderJob, report: Report) -> None:
    check_encoding(job.encoding)
    items = read_items(Path(job.items))
    some_failed: SomeFailed | None = None
    try:
        _make_all(job, items, report)
    except SomeFailed as error:
        some_failed = error
    if job.sheet:
        report("stage", stage="contact sheet")
        write_sheet(job, items)
    if some_failed:
        raise some_failed


def _make_all(job: RenderJob, items: Sequence[RenderItem], report: Report) -> None:
    if job.on == "ray":
        from pvtool_core.rendering.ray_cluster import render_on_ray

        render_on_ray(job, items, report)
        return
    report("stage", stage="loading")
    with Leases(Path(job.out) / ".claims") as claims, closing(LoadedModel()) as shelf:
        try:
            Batch(job, claims, report, shelf).render(items)
            report("metric", name="denoising_seconds", value=round(shelf.denoising_seconds, 3))
        finally:
            claims.clear_up()


def check_encoding(encoding: EncodingConfig) -> None:
    """Raises UsageError or NotReady if this machine cannot write such files, before anything is made."""
    require_formats(encoding)
    if encoding.certificate:
        read_credentials(Path(encoding.certificate), Path(encoding.key))


def write_sheet(job: RenderJob, items: Iterable[RenderItem]) -> list[Path]:
    """Contact sheets of the clips that are there, in the folder of all clips."""
    rows: list[tuple[str, Path]] = []
    for item in items:
        file = Path(item.clip).with_name(next(iter(file_names(item.clip, job.encoding))))
        if read_sidecar(item.clip) and file.exists():
            who = item.identity if item.adapter else BASE
            rows.append((f"{who} · {item.prompt} · seed {item.seed}", file))
    return write_sheets(Path(job.out) / job.sheet, rows) if rows else []
