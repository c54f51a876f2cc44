"""Run jobs like an engine: from a run folder to files and an exit record."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from pvtool_core import __main__ as engine
from pvtool_core.batches.clips import Names, is_whole
from pvtool_core.batches.folder import read_items, write_items
from pvtool_core.hashes import sha256_of
from pvtool_core.settings.jobs import (
    ADAPTER_METHOD,
    BASE_METHOD,
    ClipFile,
    EncodingConfig,
    Job,
    LikenessConfig,
    RenderItem,
    RenderJob,
    Setup,
    TrainJob,
    write_job,
)
from pvtool_core.store.event_log import read_records
from pvtool_core.store.runs import ExitRecord, RunFolder

PROMPT = "a <V> woman waving"
MP4 = EncodingConfig()


@dataclasses.dataclass
class Engine:
    """Runs jobs in new folders; `events` are those of the last one."""

    root: Path
    events: list[dict[str, Any]] = dataclasses.field(default_factory=list[dict[str, Any]])

    def __call__(self, job: Job) -> ExitRecord:
        folder = RunFolder(self.root / f"{job.kind}-{len(list(self.root.glob('*')))}")
        folder.path.mkdir(parents=True)
        write_job(folder.config, job)
        status = engine.main([str(folder.path)])
        self.events, _ = read_records(folder.events)
        ended = folder.read_exit()
        assert ended is not None
        assert ended.status == status
        return ended

    def clips(self) -> list[str]:
        return [event["status"] for event in self.events if event["type"] == "clip"]


def render_job(
    job: TrainJob, *items: RenderItem, encoding: EncodingConfig = MP4, **changes: Any
) -> RenderJob:
    """Return a job with all clips in one folder, and its list of clips elsewhere."""
    folder = Path(tempfile.mkdtemp())
    write_items(folder / "items.jsonl", items)
    likeness = LikenessConfig.of(job)
    setups = (Setup.of(job, likeness),)
    return RenderJob(
        items=str(folder / "items.jsonl"),
        setups=setups,
        out=str(Path(items[0].clip).parent),
        encoding=encoding,
        versions={"pvtool": "0"},
        **changes,
    )


def whole(wanted: RenderJob, clip: Path) -> bool:
    """Return whether one of the job's clips is complete."""
    (found,) = [item for item in read_items(Path(wanted.items)) if item.clip == str(clip)]
    encoding = wanted.encoding
    names = Names(wanted.setups[found.setup], encoding.upscale, encoding.watermark)
    return is_whole(clip, names.fingerprint(found), encoding)


def item(
    clip: Path, seed: int = 3, adapter: Path | str = "", prompt: str = PROMPT, folder: str = ""
) -> RenderItem:
    """Return a clip of Ann; with the `folder` of her photos its likeness is measured."""
    run, step = ("ann-1", 4) if adapter else ("", 0)
    digest = sha256_of(Path(adapter)) if adapter and Path(adapter).is_file() else ""
    return RenderItem(
        identity="ann",
        prompt=prompt,
        seed=seed,
        clip=str(clip),
        folder=folder,
        adapter=str(adapter),
        adapter_sha256=digest,
        run=run,
        step=step,
    )


def clip_file(item: RenderItem, fps: float = 8.0) -> ClipFile:
    """Return a rendered clip, to score it."""
    return ClipFile(
        file=f"{item.clip}.mp4",
        identity=item.identity,
        prompt=item.prompt,
        seed=item.seed,
        method=ADAPTER_METHOD if item.adapter else BASE_METHOD,
        fps=fps,
    )
