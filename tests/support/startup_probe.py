"""Run an engine as pv does, and print its start-up as JSON: `python -P startup_probe.py DIR`.

The engine is ready at its first event or heartbeat after `loading`, the stage in which models are
imported and loaded.
"""

import atexit
import json
import runpy
import sys
import time
from typing import Any

from pvtool_core.store.event_log import EventWriter
from pvtool_core.store.events import Event, StageEvent
from pvtool_core.store.liveness import Heartbeat

_write, _update = EventWriter.write, Heartbeat.update
_ready: float | None = None
_loading = False


def note(stage: str) -> None:
    """Note the CPU seconds of this process at the first call after `loading`."""
    global _loading, _ready
    if stage == "loading":
        _loading, _ready = True, None
    elif _loading:
        _loading, _ready = False, time.process_time()


def write(self: EventWriter, event: Event) -> None:
    if isinstance(event, StageEvent):
        note(event.stage)
    _write(self, event)


def update(self: Heartbeat, *values: Any, **named: Any) -> None:
    note("")
    _update(self, *values, **named)


def report() -> None:
    """Print CPU seconds until ready, and the names of all modules that were executed."""
    modules = [
        name
        for name, module in list(sys.modules.items())
        if module and type(module).__name__ != "_Postponed"
    ]
    print(json.dumps({"seconds": _ready, "modules": modules}))


EventWriter.write = write
Heartbeat.update = update
atexit.register(report)
runpy.run_module("pvtool_core", run_name="__main__", alter_sys=True)
