"""Batch folders as workers write them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from pvtool_core.batches.folder import BatchFolder, write_items
from pvtool_core.paths import batches_dir
from pvtool_core.settings.jobs import RenderItem, RenderJob, Setup, write_job
from pvtool_core.settings.presets import Presets
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ExitRecord, RunFolder
from tests.support.run_files import write_events, write_status

PROMPT = "<V> woman reads in a café"


def clip_event(
    time: float, number: int, status: str = "done", identity: str = "ada", **more: Any
) -> dict[str, Any]:
    """Return the event of a clip."""
    path = str(batches_dir().parent / f"clips/{identity}/reads-1234abcd/seed-{number:06}")
    details = {
        "identity": identity,
        "prompt": PROMPT,
        "seed": number,
        "status": status,
        "seconds": 4.2,
    }
    reason = {"reason": "The adapter of ada-1 is gone."} if status == "failed" else {}
    return {
        "time": time,
        "type": "clip",
        "path": path,
        "files": [f"seed-{number:06}.gif"],
        **details,
        **reason,
        **more,
    }


def likeness_record(mean: float, worst: int = 4) -> dict[str, Any]:
    """Return a likeness as in events and sidecars; the worst of 8 frames is that number."""
    lowest = {"frame": worst, "time": worst / 8, "value": round(mean - 0.1, 4)}
    about = {"recognizer": "rec_metric.onnx", "frames": 8}
    return {"mean": mean, "found": mean, "faces_found": 1.0, "worst": lowest, **about}


def rendering_event(time: float) -> dict[str, Any]:
    """Return the event at the start of rendering."""
    return {"time": time, "type": "stage", "stage": "rendering", "done": 0, "total": 9}


def draw_clip(event: dict[str, Any], frames: int = 4) -> None:
    """Write the animated clip of an event."""
    path = Path(event["path"]).with_name(event["files"][0])
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.linear_gradient("L").convert("RGB").rotate(90 * turn) for turn in range(frames)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, loop=0)


def make_batch(name: str, clips: int = 9, workers: int = 1) -> BatchFolder:
    """Create a batch whose workers have not started."""
    batch = BatchFolder(batches_dir() / name)
    batch.path.mkdir(parents=True)
    items = [
        RenderItem(identity="ada", prompt=PROMPT, seed=seed, clip=clip_event(0, seed)["path"])
        for seed in range(clips)
    ]
    write_items(batch.items, items)
    settings = Presets().get("tiny").settings({"model": {"device": "cpu"}})
    setup = Setup.of(settings)
    for number in range(workers):
        job = RenderJob(
            items=str(batch.items), setups=(setup,), out=str(batches_dir().parent / "clips")
        )
        write_job(batch.worker(number).create().config, job)
    return batch


def write_worker(
    worker: RunFolder, state: State, events: Iterable[dict[str, Any]], message: str = ""
) -> None:
    """Write the events and the state of a worker."""
    write_events(worker, events)
    write_status(worker, state, 0)
    if state in {State.FINISHED, State.STOPPED, State.FAILED}:
        worker.write_exit(ExitRecord(status=int(bool(message)), state=state, message=message))
