"""A server process that imports the libraries of engines once, and forks an engine for each job.

The front end sends it the path of each job's folder with two descriptors: the engine's log, and a
pipe. The engine writes its process id to the pipe and holds it until its end; then the front end
asks for its exit status. The server ends with the front end; its engines do not.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from select import select
from signal import SIGTERM
from typing import Protocol

SERVE = "--serve"
"""Argument with which an engine process serves instead of running the job of a folder."""
UNKNOWN_STATUS = 256
"""Stands for the exit status of an engine that has ended after its server; no process has it."""
_REQUEST_BYTES = 1 << 16


class EngineProcess(Protocol):
    """The process of an engine, with the methods of `subprocess.Popen` that pv uses."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def terminate(self) -> None: ...


class EngineServer:
    """A running server. Its engines have its environment."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: int) -> None:
        """Start a server by the command of engines; errors of its start are written to `log`."""
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._turn = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [*command, SERVE],
                stdin=theirs.fileno(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
            )

    def is_running(self) -> bool:
        return self._process.poll() is None

    def start(self, folder: Path, log: int) -> "ForkedEngine":
        """Start an engine; it is forked once the libraries of its kind of job are imported."""
        pipe, theirs = os.pipe()
        try:
            with self._turn, suppress(OSError):  # the server was killed: the engine ends at once
                socket.send_fds(self._connection, [os.fsencode(folder)], [log, theirs])
        finally:
            os.close(theirs)
        return ForkedEngine(self, pipe)

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_status(self, pid: int) -> int:
        """Return the exit status of an engine that has ended; `pid` is 0 if it was not forked.

        It is UNKNOWN_STATUS if the server has ended, or the server's status if `pid` is 0.
        """
        with self._turn, suppress(OSError):
            self._connection.send(str(pid).encode())
            if answer := self._connection.recv(_REQUEST_BYTES):
                return int(answer)
        status = self._process.wait()
        return UNKNOWN_STATUS if pid else status

    def close(self) -> None:
        """End the server; engines that are running continue."""
        self._connection.close()
        self._process.wait()


class ForkedEngine:
    """An engine that a server forks. `returncode` is that of `subprocess.Popen`.

    It is UNKNOWN_STATUS after the end of a server that has forked the engine. Any thread and
    handler of signals may call the methods.
    """

    def __init__(self, server: EngineServer, pipe: int) -> None:
        self._server = server
        os.set_blocking(pipe, False)
        self._pipe = os.fdopen(pipe, "rb", buffering=0)
        self._turn = threading.Lock()
        self._early: int | None = None
        self._pid: int | None = None
        self.returncode: int | None = None

    @property
    def pid(self) -> int:
        """Process id, once the engine is forked; the server's if that ended before."""
        while self._pid is None and self.returncode is None:
            self._await_message()
        return self._pid or self._server.pid

    def poll(self) -> int | None:
        while self.returncode is None and select([self._pipe], [], [], 0)[0]:
            self._read()
        return self.returncode

    def wait(self) -> int:
        while self.returncode is None:
            self._await_message()
        return self.returncode

    def _await_message(self) -> None:
        select([self._pipe], [], [])
        self._read()

    def _read(self) -> None:
        """Read the process id, or the end of the engine, unless another thread has."""
        with self._turn:
            if self.returncode is None and self._read_pid() == b"":
                self.returncode = self._server.exit_status(self._pid or 0)

    def _read_pid(self) -> bytes | None:
        """Read the process id if the engine has written it; return b"" after the engine's end."""
        message = self._pipe.read(_REQUEST_BYTES)
        if message:
            self._pid = int(message)
            if self._early is not None:
                self._kill(self._early)
        return message

    def send_signal(self, number: int, /) -> None:
        """Send a signal to the engine; to the server if it has not forked the engine yet.

        It takes no lock: it is called by handlers of signals, which interrupt the other methods.
        """
        if self.returncode is not None:
            return
        if self._pid is None and not self._read_pid():
            self._early = number  # also for an engine that is forked at this moment
        self._kill(number)

    def _kill(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid or self._server.pid, number)

    def terminate(self) -> None:
        self.send_signal(SIGTERM)


def serve(import_libraries: Callable[[str], None], run: Callable[[str], int]) -> int:
    """Fork an engine for each folder that the front end sends, and return 0 after its end.

    In an engine, return the exit status of its job.
    """
    requests = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    while True:
        request, descriptors, *_ = socket.recv_fds(requests, _REQUEST_BYTES, 2)
        if not request:
            return 0
        if not descriptors:
            requests.send(str(_wait_for(int(request))).encode())
            continue
        folder, (log, pipe) = os.fsdecode(request), descriptors
        _redirect_output(log)
        os.close(log)
        import_libraries(folder)
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            requests.close()
            os.setsid()
            os.write(pipe, str(os.getpid()).encode())
            return run(folder)
        os.close(pipe)
        _redirect_output(nothing)  # the folder may be deleted, also on a network drive


def _wait_for(pid: int) -> int:
    """Return the exit status of a child of this process; UNKNOWN_STATUS if it has no such child."""
    try:
        status = os.waitpid(pid, 0)[1] if pid > 0 else None  # 0 stands for any child
    except ChildProcessError:
        status = None
    return UNKNOWN_STATUS if status is None else os.waitstatus_to_exitcode(status)


def _redirect_output(descriptor: int) -> None:
    for output in (1, 2):
        os.dup2(descriptor, output)
