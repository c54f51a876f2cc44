"""Start an engine for each kind of job on the tiny preset, and measure its start-up."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pvtool_core.engine_server import EngineServer
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
    return {kind: start(folder) for kind, folder in prepared(root, changes or {}).items()}


def shared_starts(root: Path) -> dict[str, Start]:
    """Do the same with engines that a server forks; each start includes what the server imports."""
    with (root / "server.log").open("ab") as log:
        words = [sys.executable, "-P", str(PROBE)]
        server = EngineServer(words, environment(root), log.fileno())
    try:
        return {kind: forked(server, folder) for kind, folder in prepared(root, {}).items()}
    finally:
        server.close()


def prepared(root: Path, changes: Mapping[str, Any]) -> dict[str, RunFolder]:
    """Return a folder for each kind of job."""
    settings = {"training": {"iterations": 1}, **changes}
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
    folders = {kind: RunFolder(root / kind).create() for kind in jobs}
    for kind, job in jobs.items():
        write_job(folders[kind].config, job)
    return folders


def environment(root: Path) -> dict[str, str]:
    """Return the environment of engines with a cache of their own."""
    return {**os.environ, "PV_HOME": str(root / "home"), "OMP_NUM_THREADS": "1"}


def start(folder: RunFolder) -> Start:
    """Run a job to its end, in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-P", str(PROBE), str(folder.path)],
        env=environment(folder.path.parent),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return read(ended.stdout)


def forked(server: EngineServer, folder: RunFolder) -> Start:
    """Run a job to its end, in a process that the server forks."""
    before = cpu_seconds(server)
    with os.fdopen(folder.open_log(), "ab") as log:
        engine = server.start(folder.path, log.fileno())
    imported = engine.pid and cpu_seconds(server) - before  # the process exists: all is imported
    assert engine.wait() == 0, folder.read_log()
    found = read(folder.read_log().splitlines()[-1])
    return Start(imported + found.seconds, found.modules)


def cpu_seconds(server: EngineServer) -> float:
    used = psutil.Process(server.pid).cpu_times()
    return used.user + used.system


def read(report: str) -> Start:
    found = json.loads(report)
    return Start(found["seconds"], frozenset(found["modules"]))
