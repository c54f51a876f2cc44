"""Run engines that render a batch of clips, and collect the result of each clip."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pvtool.jobs.devices import check_devices
from pvtool_core.batches.folder import BatchFolder, list_batches, new_batch, write_items
from pvtool_core.errors import Interrupted, PvError, RunFailed, SomeFailed
from pvtool_core.media.ffmpeg import require_formats
from pvtool_core.paths import batches_dir
from pvtool_core.rendering.results import Outcome, worst
from pvtool_core.settings.jobs import RenderItem, RenderJob, Setup, write_job
from pvtool_core.store.events import Event
from pvtool_core.store.liveness import LIVE
from pvtool_core.store.runs import RunFolder
from pvtool_core.supervisor import OnEvent, run_together

KEPT_BATCHES = 50
_BEGUN_SECONDS = 3600.0
OnClip = Callable[[dict[str, Any]], None]


def make_batch(
    items: Sequence[RenderItem], job: RenderJob, devices: Sequence[str] = ()
) -> BatchFolder:
    """Create the folder of a batch, with a run folder for each device; delete old batches.

    Raises FfmpegMissing or CodecMissing if this machine cannot write such clips.
    """
    require_formats(job.encoding)
    if not job.on:  # Ray workers may have other devices
        check_devices(devices or [setup.model.device for setup in job.setups])
    drop_old_batches()
    batch = new_batch(batches_dir())
    write_items(batch.items, items)
    for number, device in enumerate(devices or [""]):
        folder = batch.worker(number)
        folder.path.mkdir(mode=0o700)
        own: dict[str, Any] = {
            "setups": _on(device, job.setups),
            "sheet": "" if number else job.sheet,
        }
        write_job(folder.config, dataclasses.replace(job, items=str(batch.items), **own))
    return batch


def _on(device: str, setups: Sequence[Setup]) -> tuple[Setup, ...]:
    if not device:
        return tuple(setups)
    return tuple(
        dataclasses.replace(setup, model=dataclasses.replace(setup.model, device=device))
        for setup in setups
    )


def drop_old_batches() -> None:
    """Delete the records of all but the newest batches; clips are elsewhere."""
    for batch in list_batches(batches_dir())[: -KEPT_BATCHES + 1]:
        if not _is_begun_or_live(batch):
            # Tasks of a job array all delete the same batches.
            shutil.rmtree(batch.path, ignore_errors=True)


def _is_begun_or_live(batch: BatchFolder) -> bool:
    """Return whether a batch is in use: its engines run, or have not started yet."""
    with suppress(OSError):  # deleted by another process, or permission denied
        if abs(time.time() - batch.items.lstat().st_mtime) < _BEGUN_SECONDS:
            return True
        return any(worker.state() in LIVE for worker in batch.workers())
    return False


class ClipResults:
    """Results that engines report: each clip once, by any engine."""

    def __init__(self, on_clip: OnClip) -> None:
        self._on_clip = on_clip
        self._elsewhere: dict[str, dict[str, Any]] = {}
        self._reported: set[str] = set()
        self._failed: dict[str, dict[str, Any]] = {}
        self._reasons: set[str] = set()

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The clips that no engine could render."""
        return list(self._failed.values())

    def add(self, event: Event) -> None:
        """Add a clip event.

        A clip rendered elsewhere may still be reported by another engine of this batch. A clip that
        one engine could not render is reported again if another one can.
        """
        facts = {key: value for key, value in event.items() if key not in {"time", "type"}}
        if facts["status"] == "elsewhere":
            self._elsewhere[facts["path"]] = facts
        elif facts["path"] not in self._reported or (
            facts["path"] in self._failed and facts["status"] != "failed"
        ):
            self._report(facts)

    def close(self) -> None:
        """Report the clips rendered elsewhere, once all engines have ended."""
        for path, facts in self._elsewhere.items():
            if path not in self._reported or path in self._failed:
                self._report({**facts, "status": "skipped"})

    def _report(self, facts: dict[str, Any]) -> None:
        self._reported.add(facts["path"])
        self._failed.pop(facts["path"], None)
        if facts["status"] == "failed":
            self._failed[facts["path"]] = facts
            self._reasons.add(facts.get("reason", ""))
        self._on_clip(facts)

    def __contains__(self, item: RenderItem) -> bool:
        return item.clip in self._reported

    def explains(self, error: PvError) -> bool:
        """Return whether the error only repeats reported failures of clips."""
        return error.kind == SomeFailed.__name__ or error.message in self._reasons


def run_batch(
    batch: BatchFolder,
    items: Sequence[RenderItem],
    on_event: OnEvent,
    on_clip: OnClip,
    planned: int = 0,
) -> Outcome:
    """Render the clips of a batch, the missing ones of `planned` clips (0: of these).

    The batch succeeds if every clip exists, even if engines were killed, and no engine reports
    another error.
    """
    results = ClipResults(on_clip)

    def on_any(event: Event) -> None:
        if event["type"] == "clip":
            results.add(event)
        else:
            on_event(event)

    engines = batch.workers()
    ended = list(zip(engines, run_together(engines, on_any), strict=True))
    results.close()
    left = [item for item in items if item not in results]
    killed = _killed_with(ended, left)
    other = [
        error
        for engine, error in ended
        if error and _is_reported(engine, error) and not results.explains(error)
    ]
    error = worst(error for _, error in ended if error)
    return Outcome(
        total=planned or len(items),
        failed=[*results.failed, *killed],
        stopped=_stopped(error, left, bool(killed)) if left else None,
        cause=error,
        other=worst(other),
    )


def _killed_with(
    ended: Sequence[tuple[RunFolder, PvError | None]], left: Sequence[RenderItem]
) -> list[dict[str, Any]]:
    """Return the clips left by an engine that was killed, unless a worse error ended the batch."""
    error = worst(error for _, error in ended if error)
    killed = any(one is error and engine.read_exit() is None for engine, one in ended)
    if not isinstance(error, RunFailed) or not killed:
        return []
    return [{"path": item.clip, "reason": error.message} for item in left]


def _stopped(error: PvError | None, left: Sequence[RenderItem], killed: bool) -> PvError:
    """Return the error of a batch whose engines ended before every clip was tried."""
    again = "Run the same command again to render the missing clips."
    if error is None:  # stopped by another process, for example the dashboard
        return Interrupted(f"The batch was stopped; {len(left)} of its clips are missing.", again)
    return RunFailed(error.message, f"{again} {error.hint}") if killed else error


def _is_reported(engine: RunFolder, error: PvError) -> bool:
    """Return whether the engine reported the error itself.

    One that came after the last clip does not count.
    """
    return engine.read_exit() is not None and not isinstance(error, Interrupted)


def files_of(facts: dict[str, Any]) -> list[str]:
    """Return the paths of a clip's files, existing or not."""
    folder = facts["path"].rpartition("/")[0]
    return [f"{folder}/{name}" for name in facts["files"]]


def for_programs(facts: dict[str, Any]) -> dict[str, Any]:
    """Return a clip event with the paths of its files; `path` is the first one's."""
    files = files_of(facts)
    return {**facts, "path": files[0], "files": files}
