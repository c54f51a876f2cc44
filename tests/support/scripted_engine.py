"""Simulate an engine without a model: it writes a run folder and ends in every possible way.

The first word of the folder's config.toml selects the behaviour. It serves as engines do; the
"import" of a job `waits` takes until the server is killed.
"""

import os
import signal
import sys
import time
from pathlib import Path

from pvtool_core.engine_server import SERVE, serve
from pvtool_core.errors import Busy, FaceRefused, RunFailed
from pvtool_core.store.event_log import EventWriter
from pvtool_core.store.events import StageEvent, StepEvent
from pvtool_core.store.liveness import Heartbeat, State
from pvtool_core.store.runs import ExitRecord, Request, RunFolder


def work(folder: RunFolder, events: EventWriter, heartbeat: Heartbeat) -> ExitRecord:
    """Run steps of 10 ms, answering requests and signals, until 500 are done."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    heartbeat.update(State.RUNNING)
    for step in range(1, 501):
        asked = folder.take_requests()
        if Request.PAUSE in asked:
            heartbeat.update(State.PAUSED, step=step)
            while Request.RESUME not in folder.take_requests():
                time.sleep(0.01)
            heartbeat.update(State.RUNNING)
        if told or Request.STOP in asked:
            return ExitRecord(
                status=143 if told else 0, state=State.STOPPED, reason="asked to stop"
            )
        events.write(StepEvent(step=step, scalars={"loss": 0.5}))
        time.sleep(0.01)
    return ExitRecord(status=0, state=State.FINISHED)


def import_libraries(path: str) -> None:
    if script_of(RunFolder(Path(path))) == "waits":
        signal.pause()


def script_of(folder: RunFolder) -> str:
    return folder.config.read_text().split()[0]


def main(path: str) -> int:
    folder = RunFolder(Path(path))
    script = script_of(folder)
    if script == "broken":
        print("Traceback: it cannot even start", file=sys.stderr)
        return 1
    with folder.lock(), EventWriter(folder.events) as events, Heartbeat(folder.status) as heartbeat:
        if script == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if script == "refuses":
            record = ExitRecord.of_error(FaceRefused("photo.png", "none"))
        elif script == "diverges":
            error = RunFailed(
                "The loss is no longer a number at iteration 3.", "Lower training.learning_rate."
            )
            record = ExitRecord.of_error(error)
        elif script == "works":
            record = work(folder, events, heartbeat)
        else:
            events.write(StageEvent(stage="loading"))
            events.write(StepEvent(step=1, scalars={"loss": 0.5}))
            record = ExitRecord(status=0, state=State.FINISHED)
        folder.write_exit(record)
    return record.status


if __name__ == "__main__":
    try:
        if sys.argv[1] == SERVE:
            sys.exit(serve(import_libraries, main))
        sys.exit(main(sys.argv[1]))
    except Busy as error:
        sys.exit(error.status)
