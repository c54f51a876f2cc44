"""Start an engine for each kind of job on the tiny preset, and measure its start-up."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvtool_core.models.locate import resolve_settings
from pvtool_core.paths import presets_dir
from pvtool_core.settings.jobs import EnrollJob, EvaluateJob, IdentityRef, Job, TrainJob, write_job
from pvtool_core.settings.presets import Presets
from pvtool_core.store.runs import RunFolder
from tests.support.render_jobs import clip_file, item, render_job

PROBE = Path(__file__).with_name("startup_probe.py")
PHOTO = presets_dir() / "tiny/samples/ada-woman.png"


@dataclass(frozen=True)
class Start:
    """CPU seconds until an engine was ready, and the modules imported until its end."""

    seconds: float
    modules: frozenset[str]


def starts(root: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Start]:
    """Enrol, train one step, render and evaluate a clip, each by an engine of its own in `root`."""
    settings = {"training": {"iterations": 1}, **(changes or {})}
    sections = resolve_settings(Presets().get("tiny").settings(settings)).sections()
    ann = IdentityRef(name="ann", noun="woman", folder=str(root / "ann"))
    Path(ann.folder).mkdir()
    train = TrainJob(run="train", identity=ann, prompts=("a <V> woman waving",), **sections)
    clip = item(root / "clips/before", prompt=train.prompts[0])
    jobs: dict[str, Job] = {
        "enrol": EnrollJob(identity=ann, pictures=(str(PHOTO),), **sections),
        "train": train,
        "render": render_job(train, clip),
        "evaluate": EvaluateJob(
            identities=(ann,), clips=(clip_file(clip),), out=str(root / "report"), **sections
        ),
    }
    return {kind: start(RunFolder(root / kind), job) for kind, job in jobs.items()}


def start(folder: RunFolder, job: Job) -> Start:
    """Run a job to its end, in a process of its own and with a cache of its own."""
    write_job(folder.create().config, job)
    home = str(folder.path.with_name("home"))
    ended = subprocess.run(
        [sys.executable, "-P", str(PROBE), str(folder.path)],
        env={**os.environ, "PV_HOME": home, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    return Start(found["seconds"], frozenset(found["modules"]))
