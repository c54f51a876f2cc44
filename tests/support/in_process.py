"""Run engines in the process of the test, which saves the seconds of importing torch for each.

For tests of what an engine does, not of its process: signals do not reach it, and `start` returns
after its end.
"""

import subprocess
from contextlib import redirect_stderr
from typing import Any

from pvtool_core import __main__ as engine
from pvtool_core.store.runs import RunFolder


class EndedEngine:
    """An engine that has ended, with the methods of its process that pv uses."""

    def __init__(self, pid: int, returncode: int) -> None:
        self.pid = pid
        self.returncode = returncode

    def poll(self) -> int:
        return self.returncode

    def wait(self) -> int:
        return self.returncode


def start_engine(
    folder: RunFolder, engines: list[subprocess.Popen[bytes]] | None = None
) -> subprocess.Popen[bytes]:
    """Do what `supervisor.start` does, and return once the engine has ended."""
    folder.check()
    with open(folder.open_log(), "a") as log, redirect_stderr(log):  # noqa: PTH123 - a descriptor
        status = engine.main([str(folder.path)])
    ended: Any = EndedEngine(0, status)
    if engines is not None:
        engines.append(ended)
    return ended
