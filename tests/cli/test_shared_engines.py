"""Engines of one command are forked from one server, and behave like any other engine."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from pvtool_core import supervisor
from pvtool_core.engine_server import UNKNOWN_STATUS, EngineServer, ForkedEngine
from pvtool_core.errors import Busy, ExitStatus, Interrupted, PvError, RunFailed
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import Request, RunFolder
from pvtool_core.supervisor import Engines, run_to_end, shared_engines
from tests.support.engines import wait_until

SCRIPT = Path(__file__).parents[1] / "support/scripted_engine.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere engines share nothing")


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ENGINE", (sys.executable, str(SCRIPT)))


@pytest.fixture
def server() -> Generator[EngineServer]:
    server = EngineServer(supervisor.ENGINE, os.environ, subprocess.DEVNULL)
    yield server
    server.close()


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[str], RunFolder]:
    """Return a function that creates a folder for an engine that follows a script."""

    def prepare(script: str) -> RunFolder:
        folder = RunFolder(tmp_path / f"mara-{len(list(tmp_path.iterdir()))}").create()
        folder.config.write_text(script)
        return folder

    return prepare


Prepare = Callable[[str], RunFolder]


def running(folder: RunFolder) -> Engines:
    """Start an engine, and wait until it has begun its work."""
    engines = Engines([folder]).start()
    wait_until(lambda: folder.state() == State.RUNNING)
    return engines


def server_of(engines: Engines) -> psutil.Process:
    server = psutil.Process(engines.processes[0].pid).parent()
    assert server
    return server


def test_engines_of_a_block_have_one_server_which_ends_with_it(prepared: Prepare) -> None:
    with shared_engines():
        first, second = (running(prepared("works")) for _ in range(2))
        server = server_of(first)
        assert server_of(second) == server
        assert server.ppid() == os.getpid()
        pids = {engines.processes[0].pid for engines in (first, second)}
        assert len(pids) == 2
        assert {os.getsid(pid) for pid in pids} == pids
        for engines in (first, second):
            engines.stop()
            assert engines.errors() == [None]
    assert not server.is_running()


@pytest.mark.parametrize(
    ("script", "status", "message"),
    [
        ("refuses", ExitStatus.REFUSED, "No face found in photo.png."),
        ("broken", ExitStatus.FAILED, "The engine ended unexpectedly with status 1."),
        ("killed", ExitStatus.FAILED, "The engine ended unexpectedly with signal 9."),
    ],
)
def test_failure_of_a_forked_engine_is_reported_and_the_next_one_runs(
    prepared: Prepare, script: str, status: ExitStatus, message: str
) -> None:
    with shared_engines():
        folder = prepared(script)
        with pytest.raises(PvError) as caught:
            run_to_end(folder, print)
        assert (caught.value.status, caught.value.message) == (status, message)
        assert ("cannot even start" in folder.read_log()) == (script == "broken")
        run_to_end(prepared("ends"), print)


def test_signal_to_a_forked_engine_saves_its_state(prepared: Prepare) -> None:
    with shared_engines():
        engines = running(prepared("works"))
        engine = engines.processes[0]
        os.kill(engine.pid, signal.SIGTERM)
        assert engine.wait() == ExitStatus.TERMINATED
        ended = engines.folders[0].read_exit()
        assert ended and ended.state == State.STOPPED


def fork(server: EngineServer, folder: RunFolder) -> ForkedEngine:
    with os.fdopen(folder.open_log(), "ab") as log:
        engine = server.start(folder.path, log.fileno())
    wait_until(lambda: folder.state() == State.RUNNING)
    return engine


def test_signal_reaches_an_engine_whose_process_id_is_unread(
    prepared: Prepare, server: EngineServer
) -> None:
    engine = fork(server, prepared("works"))
    engine.terminate()
    assert engine.wait() == ExitStatus.TERMINATED
    assert server.is_running()


def test_signal_to_the_server_also_reaches_an_engine_that_it_has_just_forked(
    server: EngineServer,
) -> None:
    pipe, theirs = os.pipe()
    engine = ForkedEngine(server, pipe)
    engine.terminate()
    with subprocess.Popen(["sleep", "60"]) as forked:
        os.write(theirs, str(forked.pid).encode())
        os.close(theirs)
        assert engine.wait() == UNKNOWN_STATUS
        assert forked.wait() == -signal.SIGTERM


def test_two_threads_wait_for_one_engine(prepared: Prepare, server: EngineServer) -> None:
    folder, other = prepared("works"), prepared("works")
    engine, following = fork(server, folder), fork(server, other)
    with ThreadPoolExecutor() as threads:
        waiting = [threads.submit(engine.wait) for _ in range(2)]
        folder.request(Request.STOP)
        assert [each.result() for each in waiting] == [0, 0]
    other.request(Request.STOP)
    assert following.wait() == 0
    assert server.is_running()


def test_server_has_no_status_of_an_unknown_process(server: EngineServer) -> None:
    assert [server.exit_status(pid) for pid in (0, os.getpid())] == [UNKNOWN_STATUS] * 2
    assert server.is_running()


def test_a_running_forked_engine_holds_its_folder(prepared: Prepare) -> None:
    with shared_engines():
        engines = running(prepared("works"))
        with pytest.raises(Busy):
            run_to_end(engines.folders[0], print)
        engines.stop()
        assert engines.errors() == [None]


def test_signal_during_imports_ends_the_server_and_the_next_engine_starts_another(
    prepared: Prepare,
) -> None:
    folder = prepared("waits")

    def interrupt() -> None:
        wait_until(folder.log.exists)
        os.kill(os.getpid(), signal.SIGINT)

    with shared_engines():
        threading.Thread(target=interrupt).start()
        with pytest.raises(Interrupted):
            run_to_end(folder, print)
        run_to_end(prepared("ends"), print)


def test_engine_outlives_its_killed_server_and_the_next_one_has_another(prepared: Prepare) -> None:
    with shared_engines():
        engines = running(prepared("works"))
        server = server_of(engines)
        server.kill()
        server.wait()
        following = running(prepared("works"))
        assert server_of(following) != server
        assert engines.processes[0].poll() is None
        for each in (engines, following):
            each.stop()
            assert each.errors() == [None]


def test_engine_that_dies_after_its_server_is_a_failure(prepared: Prepare) -> None:
    with shared_engines():
        engines = running(prepared("works"))
        server_of(engines).kill()
        engines.processes[0].send_signal(signal.SIGKILL)
        (error,) = engines.errors()
        assert isinstance(error, RunFailed)
        assert error.message == "The engine ended unexpectedly."


def test_killed_front_end_leaves_its_engine_and_no_server(prepared: Prepare) -> None:
    folder = prepared("works")
    code = (
        "import sys, pathlib; from pvtool_core import supervisor; "
        "from pvtool_core.store.runs import RunFolder; "
        f"supervisor.ENGINE = (sys.executable, {str(SCRIPT)!r})\n"
        "with supervisor.shared_engines():"
        "    supervisor.run_to_end(RunFolder(pathlib.Path(sys.argv[1])), print)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], stdout=subprocess.DEVNULL
    ) as front_end:
        wait_until(lambda: folder.state() == State.RUNNING)
        (server,) = psutil.Process(front_end.pid).children()
        front_end.kill()
    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    assert folder.state() == State.RUNNING
    folder.request(Request.STOP)
    assert supervisor.wait_for(folder, frozenset({State.STOPPED})) == State.STOPPED


def test_engine_with_another_environment_has_a_process_of_its_own(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shared_engines():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        engines = running(prepared("works"))
        assert server_of(engines).pid == os.getpid()
        engines.stop()
        assert engines.errors() == [None]
