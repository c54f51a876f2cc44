"""Real engines in processes of their own, on the small models, in a home of their own."""

import dataclasses
import os
import resource
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from pvtool_core.settings.jobs import Job, TrainJob, write_job
from pvtool_core.store.runs import RunFolder


class Engines:
    """Starts engines, each forked from a process that has imported all they need."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "PV_HOME": str(home), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, str(Path(__file__).with_name("nursery.py"))]
        self._nursery = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment
        )

    def folder(self, name: str, job: Job) -> RunFolder:
        """A new run folder with the job in it."""
        folder = RunFolder(self.home / "data/runs" / name).create()
        write_job(folder.config, job)
        return folder

    def start(self, folder: RunFolder) -> int:
        """Start an engine; its pid."""
        self._newest = self._ask("start", folder.path)
        return self._newest

    def wait(self, pid: int = 0) -> int:
        """Wait for an engine's end, or the newest one's; its status, or minus the number of the signal that killed it.

        Nobody else can be started meanwhile.
        """
        return self._ask("wait", pid or self._newest)

    def run(self, folder: RunFolder) -> int:
        self.start(folder)
        return self.wait()

    def second(self, folder: RunFolder) -> subprocess.CompletedProcess[str]:
        """Run an engine as the face starts it, while another may be at work."""
        words = [sys.executable, "-P", "-m", "pvtool_core", str(folder.path)]
        return subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def limit_file_size(self, size: int) -> None:
        """Let no engine write a file larger than `size` bytes, from now on; -1 lifts that."""
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(self._nursery.pid, resource.RLIMIT_FSIZE, (size, hard))

    def _ask(self, what: str, of: object) -> int:
        assert self._nursery.stdin
        assert self._nursery.stdout
        self._nursery.stdin.write(f"{what} {of}\n")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())

    def close(self) -> None:
        assert self._nursery.stdin
        self._nursery.stdin.close()
        self._nursery.kill()
        self._nursery.wait()


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Generator[Engines]:
    made = Engines(tmp_path_factory.mktemp("engines") / "home")
    yield made
    made.close()


@pytest.fixture(scope="session")
def training(job: TrainJob) -> TrainJob:
    """A run of 15 short iterations with a checkpoint after each third and a sample after each fifth."""
    changes = {
        "iterations": 15,
        "checkpoint_every": 3,
        "keep_checkpoints": 2,
        "sample_every": 5,
        "sample_prompts": 1,
    }
    return dataclasses.replace(
        job, training=dataclasses.replace(job.training, **changes, seeds_per_prompt=1)
    )


@pytest.fixture(scope="session")
def uninterrupted(engines: Engines, training: TrainJob) -> RunFolder:
    """That run, left alone from its start to its end."""
    folder = engines.folder("uninterrupted", training)
    assert engines.run(folder) == 0, folder.log.read_text()
    return folder
