"""Render the missing clips of a batch, with progress and a line for each clip."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pvtool.cli.end_notice import announce_batch
from pvtool.cli.progress import ClipProgress
from pvtool.cli.render_report import missed, print_clip, warn_of_missed
from pvtool.output import Output
from pvtool_core.api.batch import make_batch, missing_clips, run_batch, with_setups
from pvtool_core.batches.clips import read_sidecar
from pvtool_core.batches.folder import write_refused
from pvtool_core.batches.plan import BatchPlan
from pvtool_core.rendering.results import Outcome, clip_event
from pvtool_core.settings.jobs import RenderJob
from pvtool_core.store.clip_likeness import likeness_in
from pvtool_core.store.events import ClipEvent


def render_clips(
    planned: BatchPlan,
    job: RenderJob,
    devices: Sequence[str] = (),
    output: Output | None = None,
    refused: Mapping[str, str] | None = None,
) -> Outcome:
    """Render the missing clips of a plan; print a line for each clip unless `output` is None.

    `refused` are rows that were left out, with their reasons, for the dashboard.
    """
    missing = missing_clips(planned, job)
    cuts = {item.clip: end for item in planned.items if (end := planned.lost(item))}
    too_low: list[tuple[str, str]] = []

    def note(event: ClipEvent) -> None:
        if message := missed(event, job.tries):
            too_low.append((event.path, message))

    if output:
        waiting = {item.clip for item in missing}
        for item in planned.items:
            if item.clip not in waiting:
                is_needed = output.as_json or job.tries.min_likeness
                likeness = likeness_in(read_sidecar(item.clip)) if is_needed else None
                event = clip_event(
                    item, planned.setups, job.encoding, status="skipped", likeness=likeness
                )
                print_clip(output, event, cuts.get(item.clip, ""))
                note(event)
    if not missing:
        if output:
            warn_of_missed(output, too_low)
        return Outcome(total=len(planned.items))
    batch = make_batch(missing, with_setups(job, planned), devices)
    if refused:
        write_refused(batch.refused, refused)
    with ClipProgress(len(missing)) as progress:

        def on_clip(event: ClipEvent) -> None:
            progress.on_clip(event)
            note(event)
            if output:
                print_clip(output, event, cuts.get(event.path, ""))

        outcome = run_batch(batch, missing, progress.on_event, on_clip, len(planned.items))
    if output:
        warn_of_missed(output, too_low)
        announce_batch(Path(job.out).name, batch.worker(0), outcome, output)
    return outcome
