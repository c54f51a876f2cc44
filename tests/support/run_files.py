"""Run folders and events as an engine writes them."""

import dataclasses
import json
import math
import socket
from collections.abc import Callable, Iterable
from typing import Any

import psutil

from pvtool.jobs.prepare import choose, prepare
from pvtool_core.settings.jobs import REPORT, TrainJob, read_job, write_job
from pvtool_core.store.evaluation_report import EVALUATION
from pvtool_core.store.liveness import State, boot_id
from pvtool_core.store.runs import ADAPTER_FILE, ExitRecord, RunFolder

BEGAN = 1_790_000_000.0
PROMPTS = (
    "<V> woman is dancing in the rain, wearing a blue coat",
    "<V> woman reads in a café",
    "<V> woman runs",
)


def step_event(step: int, **changes: Any) -> dict[str, Any]:
    """Return the event of a training step, with decreasing rewards and some noise."""
    noise = math.sin(step * 12.9898) * 0.5
    icr, scr = 0.9 * math.exp(-step / 120) + 0.05 + 0.03 * noise, 0.02 + 0.01 * abs(noise)
    values = {
        "loss": icr + scr,
        "icr": icr,
        "scr": scr,
        "score_gap": 0.01 * noise,
        "face_found": True,
    }
    details = {
        "grad_norm": 1 + 0.3 * noise,
        "lr": 1e-4,
        "prompt": PROMPTS[step % 3],
        "seed": 1_000_000 + step % 6,
    }
    return {
        "time": BEGAN + step,
        "type": "step",
        "step": step,
        **values,
        **details,
        "seconds": 0.4,
        "eta": 1.0,
    } | changes


def scores_event(step: int, likeness: float = 0.1, **changes: Any) -> dict[str, Any]:
    """Return scores of samples, by default those of the base model; None removes one.

    `samples` are the scores of single clips.
    """
    samples = changes.pop("samples", [])
    base = {"likeness": 0.1, "faces_found": 1.0, "motion": 0.8, "clip_t": 25.0, "gap": 0.05}
    scores = base | {"likeness": likeness} | changes
    scores = {name: value for name, value in scores.items() if value is not None}
    details = {"step": step, "clips": 2, "scores": scores, "base": base}
    return {"time": BEGAN + step, "type": "scores", **details, "samples": samples}


def write_report(folder: RunFolder, likeness: float = 0.42) -> None:
    """Write the report of an evaluation as `pv eval` does, with a gain in likeness of 0.32."""

    def around(mean: float, **more: Any) -> dict[str, Any]:
        return {"mean": mean, "low": mean - 0.07, "high": mean + 0.07, **more}

    labels = {"likeness": "Likeness", "clip_t": "CLIP-T", "likeness_reward": "Likeness"}
    base = {"likeness": around(likeness - 0.32), "clip_t": around(25.0)}
    own = {"likeness": around(likeness), "clip_t": around(24.98), "likeness_reward": around(0.8)}
    differences = {
        "likeness": around(0.32, base=likeness - 0.32, pairs=20, significant=True),
        "clip_t": around(-0.02, base=25.0, pairs=20, significant=False),
    }
    report = {
        "version": 2,
        "reference": "base",
        "methods": {
            "base": {"clips": 20, "means": base, "sets": {}},
            "adapter": {"clips": 20, "means": own, "differences": differences, "sets": {}},
        },
        "metrics": {
            name: {"label": label, "reward": name == "likeness_reward"}
            for name, label in labels.items()
        },
        "skipped": {"fvd": {"reason": "500 clips are needed.", "command": ""}},
        "alarms": ["adapter: the clips move less (dense_motion 1.200 → 0.600)."],
        "failed": [],
    }
    path = folder.path / EVALUATION / REPORT
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report))


def gpu_event(time: float, devices: int = 0) -> dict[str, Any]:
    """Return an event with gauges."""
    gauges = {"memory_used": 41.5 * 2**30, "memory_total": 80 * 2**30, "utilisation": 97.0}
    entries = [
        {"index": i, "name": "NVIDIA H100", **gauges, "temperature": 61.0, "power": 412.0}
        for i in range(devices)
    ]
    return {
        "time": time,
        "type": "gpu",
        "devices": entries,
        "process_memory": 3 * 2**30,
        "cpu": 101.0,
    }


def write_events(folder: RunFolder, events: Iterable[dict[str, Any]]) -> None:
    """Append events, one line each."""
    with folder.events.open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def write_status(folder: RunFolder, state: State, step: int, **changes: Any) -> None:
    """Write a heartbeat of the current process, so that the run counts as alive."""
    process = psutil.Process()
    process_details = {
        "pid": process.pid,
        "started": process.create_time(),
        "boot": boot_id(),
        "host": socket.gethostname(),
    }
    status = {
        "state": state,
        "step": step,
        "total": 400,
        "time": BEGAN + step,
        **process_details,
    } | changes
    folder.status.write_text(json.dumps(status))


MakeRun = Callable[..., RunFolder]


def finished_run(
    name: str, steps: int = 400, state: State = State.FINISHED, **changes: Any
) -> RunFolder:
    """Return a finished run with one checkpoint, as created by `pv train`."""
    folder = prepare(choose(name, "tiny"))
    if changes:
        job = read_job(folder.config)
        assert isinstance(job, TrainJob)
        write_job(folder.config, dataclasses.replace(job, **changes))
    folder.write_checkpoint(steps, {ADAPTER_FILE: folder.name.encode()})
    folder.write_exit(ExitRecord(status=0, state=state))
    return folder
