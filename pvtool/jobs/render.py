"""Has engines make a batch of clips, and says in the end what became of each."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pvtool.jobs.devices import check_devices
from pvtool_core.batches.clips import BASE, file_names
from pvtool_core.batches.folder import BatchFolder, list_batches, new_batch, write_items
from pvtool_core.errors import ExitStatus, Interrupted, PvError, RunFailed, SomeFailed
from pvtool_core.media.ffmpeg import require_formats
from pvtool_core.paths import batches_dir
from pvtool_core.settings.jobs import EncodingConfig, RenderItem, RenderJob, Setup, write_job
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
    """A new batch's folder, with an engine's folder for each device; old batches are dropped.

    Raises FfmpegMissing or CodecMissing if the clips could not be written.
    """
    require_formats(job.encoding)
    if not job.on:  # Ray's workers may be on machines with other devices
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
    """Keep the records of the newest batches; clips lie elsewhere."""
    for batch in list_batches(batches_dir())[: -KEPT_BATCHES + 1]:
        if not _is_begun_or_live(batch):
            shutil.rmtree(
                batch.path, ignore_errors=True
            )  # of an array's tasks, all drop the same ones


def _is_begun_or_live(batch: BatchFolder) -> bool:
    """A batch whose engines do not yet live, one of many made at once, is not an old one."""
    with suppress(OSError):  # another process has just dropped it, or it is not ours to look at
        if abs(time.time() - batch.items.lstat().st_mtime) < _BEGUN_SECONDS:
            return True
        return any(worker.state() in LIVE for worker in batch.workers())
    return False


class ClipResults:
    """What engines have said of the clips: each clip once, whoever made it."""

    def __init__(self, on_clip: OnClip) -> None:
        self._on_clip = on_clip
        self._elsewhere: dict[str, dict[str, Any]] = {}
        self._seen: set[str] = set()
        self._failed: dict[str, dict[str, Any]] = {}
        self._reasons: set[str] = set()

    @property
    def failed(self) -> list[dict[str, Any]]:
        """What no engine has made."""
        return list(self._failed.values())

    def hear(self, event: Event) -> None:
        """Take in a clip event. A clip made by somebody else may yet be told of by another engine of this batch.

        What one engine could not make, another may: then it is told of again.
        """
        facts = {key: value for key, value in event.items() if key not in {"time", "type"}}
        if facts["status"] == "elsewhere":
            self._elsewhere[facts["path"]] = facts
        elif facts["path"] not in self._seen or (
            facts["path"] in self._failed and facts["status"] != "failed"
        ):
            self._tell(facts)

    def close(self) -> None:
        """All engines have ended."""
        for path, facts in self._elsewhere.items():
            if path not in self._seen or path in self._failed:
                self._tell({**facts, "status": "skipped"})

    def _tell(self, facts: dict[str, Any]) -> None:
        self._seen.add(facts["path"])
        self._failed.pop(facts["path"], None)
        if facts["status"] == "failed":
            self._failed[facts["path"]] = facts
            self._reasons.add(facts.get("reason", ""))
        self._on_clip(facts)

    def __contains__(self, item: RenderItem) -> bool:
        return item.clip in self._seen

    def knows(self, error: PvError) -> bool:
        """Whether the error is no more than what was said of clips."""
        return error.kind == SomeFailed.__name__ or error.message in self._reasons


@dataclass(frozen=True)
class Outcome:
    """What could not be made, each with its reason, and what the batch ends with if that is not all well."""

    failed: list[dict[str, Any]]
    error: PvError | None


def run_batch(
    batch: BatchFolder,
    items: Sequence[RenderItem],
    on_event: OnEvent,
    on_clip: OnClip,
    planned: int = 0,
) -> Outcome:
    """Make the clips of a batch, which are those missing of `planned` ones; 0 is all of them.

    All is well if every clip is there, though engines were killed, and none complains of anything else.
    """
    told = ClipResults(on_clip)

    def hear(event: Event) -> None:
        if event["type"] == "clip":
            told.hear(event)
        else:
            on_event(event)

    engines = batch.workers()
    outcomes = list(zip(engines, run_together(engines, hear), strict=True))
    told.close()
    left = [item for item in items if item not in told]
    errors = [error for _, error in outcomes if error]
    if errors and left:
        return _broken_off(outcomes, told.failed, left)
    if left:  # asked by somebody else, the dashboard for example, engines end well
        stopped = f"The batch was stopped; {len(left)} of its clips are not made."
        return Outcome(
            told.failed, Interrupted(stopped, "The same command goes on with what is missing.")
        )
    failed, total = len(told.failed), planned or len(items)
    if errors and failed == total:
        return Outcome(told.failed, min(errors, key=_gravity))
    if failed:
        return Outcome(told.failed, SomeFailed(failed, total))
    other = [
        error
        for engine, error in outcomes
        if error and _is_reported(engine, error) and not told.knows(error)
    ]
    return Outcome([], min(other, key=_gravity, default=None))


def _broken_off(
    outcomes: Sequence[tuple[RunFolder, PvError | None]],
    failed: list[dict[str, Any]],
    left: Sequence[RenderItem],
) -> Outcome:
    """Engines ended before they had looked at all clips; by a killed engine, those that are left have failed."""
    engine, worst = min(
        ((engine, error) for engine, error in outcomes if error), key=lambda one: _gravity(one[1])
    )
    if isinstance(worst, RunFailed) and engine.read_exit() is None:
        failed = [*failed, *({"path": item.clip, "reason": worst.message} for item in left)]
        worst = RunFailed(
            worst.message, f"The same command goes on with what is missing. {worst.hint}"
        )
    return Outcome(failed, worst)


def _is_reported(engine: RunFolder, error: PvError) -> bool:
    """Whether the engine itself left word of it; an interruption that came when all was made is none."""
    return engine.read_exit() is not None and not isinstance(error, Interrupted)


def _gravity(error: PvError) -> int:
    """An interruption says more than a lack of room, and that more than anything else."""
    return 0 if isinstance(error, Interrupted) else 1 if error.status == ExitStatus.RESOURCES else 2


def clip_facts(
    item: RenderItem, status: str, encoding: EncodingConfig, seconds: float = 0.0
) -> dict[str, Any]:
    """What engines say about a clip."""
    about = {"path": item.clip, "files": list(file_names(item.clip, encoding))}
    about |= {"identity": item.identity if item.adapter else BASE, "prompt": item.prompt}
    about |= {"run": item.run, "step": item.step}
    return {**about, "seed": item.seed, "seconds": seconds, "status": status}


def files_of(facts: dict[str, Any]) -> list[str]:
    """Where the files of a clip lie, or would."""
    folder = facts["path"].rpartition("/")[0]
    return [f"{folder}/{name}" for name in facts["files"]]


def for_programs(facts: dict[str, Any]) -> dict[str, Any]:
    """What engines say of a clip, with the places of its files: `path` is the first one's."""
    files = files_of(facts)
    return {**facts, "path": files[0], "files": files}
