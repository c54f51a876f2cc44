"""Start, stop and kill engine processes."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pvtool_core.engine_server import EngineServer, ForkedEngine
from pvtool_core.settings.jobs import Job, write_job
from pvtool_core.store.runs import RunFolder
from pvtool_core.supervisor import ENGINE


class Engines:
    """Starts engines, each forked from a server that has imported the libraries."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "PV_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self._server = EngineServer(ENGINE, self.environment, subprocess.DEVNULL)
        self._engines: dict[int, ForkedEngine] = {}

    def folder(self, name: str, job: Job) -> RunFolder:
        """Create a run folder with the job."""
        folder = RunFolder(self.home / "data/runs" / name).create()
        write_job(folder.config, job)
        return folder

    def start(self, folder: RunFolder) -> int:
        """Start an engine and return its pid."""
        with os.fdopen(folder.open_log(), "ab") as log:
            engine = self._server.start(folder.path, log.fileno())
        self._engines[engine.pid] = engine
        self._newest = engine.pid
        return engine.pid

    def wait(self, pid: int = 0) -> int:
        """Wait until an engine (default: the newest one) ends and return its exit status.

        The status is minus the signal number if it was killed.
        """
        return self._engines[pid or self._newest].wait()

    def run(self, folder: RunFolder) -> int:
        self.start(folder)
        return self.wait()

    def second(self, folder: RunFolder) -> subprocess.CompletedProcess[str]:
        """Run an engine like the front end does, while another one may be running."""
        words = [sys.executable, "-P", "-m", "pvtool_core", str(folder.path)]
        return subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def limit_file_size(self, size: int) -> None:
        """Limit the size of files that engines write, in bytes; -1 removes the limit."""
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(self._server.pid, resource.RLIMIT_FSIZE, (size, hard))

    def close(self) -> None:
        self._server.close()


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
