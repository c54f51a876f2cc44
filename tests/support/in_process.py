"""Run engines in the process of the test, which saves the seconds of importing torch for each.

For tests of what an engine does, not of its process: signals do not reach it, and `start` returns
after its end.
"""

from contextlib import redirect_stderr

from pvtool_core import __main__ as engine
from pvtool_core.engine_server import EngineProcess
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

    def send_signal(self, number: int, /) -> None:
        """Do nothing, as for any process that has ended."""

    def terminate(self) -> None:
        """Do nothing."""


def start_engine(
    folder: RunFolder, engines: list[EngineProcess] | None = None, _stop: object = None
) -> EngineProcess:
    """Do what `supervisor.start` does, and return once the engine has ended."""
    folder.check()
    with open(folder.open_log(), "a") as log, redirect_stderr(log):  # noqa: PTH123 - a descriptor
        status = engine.main([str(folder.path)])
    ended = EndedEngine(0, status)
    if engines is not None:
        engines.append(ended)
    return ended
