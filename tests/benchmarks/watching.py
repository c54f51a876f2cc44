"""Measure `pv dashboard` on a simulated terminal, and the application with a long run.

    python -m tests.benchmarks.watching


Measured are the time to the first paint, the time to open a run of 100,000 steps, how long key
presses there block the event loop, and CPU load and memory of a dashboard that shows a live run.
Each row shows its limit; the first line shows the load of the machine.
"""

import asyncio
import json
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import psutil

from pvtool.dashboard.app import Dashboard
from pvtool.dashboard.screens.run import RunScreen
from pvtool.terminal import Pictures, Terminal
from pvtool_core.paths import runs_dir
from pvtool_core.settings.jobs import IdentityRef, TrainJob, write_job
from pvtool_core.settings.presets import Presets
from pvtool_core.store.liveness import State, boot_id
from pvtool_core.store.runs import RunFolder
from tests.benchmarks.dashboard import Row, loop_row, show
from tests.support.terminal import SimulatedTerminal

STEPS = 100_000
SIZE = (120, 40)
TURNS = 5
IDLE_SECONDS = 30.0
LAST = "<V> woman at the very end"
PV = "import sys; sys.argv = ['pv', *sys.argv[1:]]; from pvtool.cli.main import main; main()"


def step_line(step: int, prompt: str) -> str:
    """Return the event of a training step, with its real length."""
    wave = (step * 7919 % 1000) / 1000
    rewards = {
        "icr": 0.9 - 0.5 * step / STEPS + 0.1 * wave,
        "scr": 0.02 + 0.01 * wave,
        "score_gap": wave / 100,
    }
    facts = {
        "loss": sum(rewards.values()),
        **rewards,
        "face_found": True,
        "grad_norm": 1 + wave,
        "lr": 1e-4,
    }
    drawn = {
        "prompt": prompt,
        "seed": 1_000_000 + step % 50,
        "seconds": 0.4,
        "eta": 0.4 * (STEPS - step),
    }
    return json.dumps(
        {"time": time.time() - (STEPS - step) * 0.4, "type": "step", "step": step, **facts, **drawn}
    )


def gauge_line(step: int) -> str:
    device = {
        "index": 0,
        "name": "NVIDIA H100",
        "memory_used": 4e10,
        "memory_total": 8e10,
        "utilisation": 97.0,
    }
    devices = [device | {"temperature": 61.0, "power": 412.0}]
    when = time.time() - (STEPS - step) * 0.4
    return json.dumps(
        {"time": when, "type": "gpu", "devices": devices, "process_memory": 3e9, "cpu": 100.0}
    )


def make_run(name: str, steps: int) -> RunFolder:
    """Create a live run of this process with this many finished steps."""
    folder = RunFolder(runs_dir() / name).create()
    prompts = tuple(
        f"<V> woman does the thing with number {number} in the rain" for number in range(50)
    )
    settings = Presets().get("tiny").settings({"training": {"iterations": STEPS}})
    identity = IdentityRef(name="ada", noun="woman", folder="/nowhere")
    write_job(
        folder.config, TrainJob(**settings.sections(), run=name, identity=identity, prompts=prompts)
    )
    with folder.events.open("w") as file:
        for step in range(1, steps + 1):
            file.write(step_line(step, LAST if step == steps else prompts[step % 50]) + "\n")
            if step % 12 == 0:
                file.write(gauge_line(step) + "\n")
    write_status(folder, steps)
    return folder


def write_status(folder: RunFolder, step: int) -> None:
    me = psutil.Process()
    process = {
        "pid": me.pid,
        "started": me.create_time(),
        "boot": boot_id(),
        "host": socket.gethostname(),
    }
    status = {"state": State.RUNNING, "step": step, "total": STEPS, "time": time.time(), **process}
    folder.status.write_text(json.dumps(status))


def on_terminal(*words: str) -> SimulatedTerminal:
    return SimulatedTerminal(
        PV, "dashboard", *words, size=SIZE, environ={"PV_HOME": os.environ["PV_HOME"]}
    )


def seconds_until(pattern: str, *words: str) -> float:
    """Return the seconds from starting `pv dashboard` until `pattern` is on its terminal.

    The value is a median of several repeats.
    """
    taken: list[float] = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        with on_terminal(*words) as terminal:
            terminal.wait_for(pattern, seconds=60)
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


@contextmanager
def training(folder: RunFolder, begin: int) -> Generator[None]:
    """Write a step and a heartbeat each second, and gauges every five, like a large model's run."""
    done = threading.Event()

    def write() -> None:
        step = begin
        while not done.wait(1.0):
            step += 1
            lines = [step_line(step, LAST), *([gauge_line(step)] if step % 5 == 0 else [])]
            with folder.events.open("a") as file:
                file.write("".join(f"{line}\n" for line in lines))
            write_status(folder, step)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


def idle_rows(what: str, folder: RunFolder, steps: int) -> list[Row]:
    """Measure a dashboard without input while it shows a live run."""
    with on_terminal(folder.name) as terminal, training(folder, steps):
        terminal.wait_for("very end", seconds=60)
        time.sleep(5.0)
        process = psutil.Process(terminal.pid)
        before, written = process.cpu_times(), len(terminal.written)
        time.sleep(IDLE_SECONDS)
        after = process.cpu_times()
        used = (after.user + after.system - before.user - before.system) / IDLE_SECONDS
        sent = (len(terminal.written) - written) / IDLE_SECONDS
        memory = process.memory_info().rss / 1e6
    return [
        Row(f"{what}: CPU load of one core", 100 * used, "%", 3),
        Row(f"{what}: memory", memory, "MB", 150),
        Row(f"{what}: sent to the terminal", sent / 1000, "kB/s", 15),
    ]


async def long_run_rows(folder: RunFolder) -> list[Row]:
    """Measure how long key presses block the event loop with a long run."""
    app = Dashboard(Terminal(Pictures.OFF, tmux=False, colours="truecolor"), runs_dir(), folder)
    async with app.run_test(size=SIZE) as pilot:
        while not (isinstance(app.screen, RunScreen) and app.screen.run_view.history.step == STEPS):
            await pilot.pause(0.05)
        rows: list[Row] = []
        for what, keys in {
            "show curves": "right_square_bracket",
            "zoom": "plus",
            "pan": "h",
            "change smoothing": "m",
            "time axis": "t",
            "reset zoom": "0",
            "read a value": "comma",
            "show samples": "right_square_bracket",
            "show prompts": "right_square_bracket",
            "show gauges": "right_square_bracket",
            "show log": "right_square_bracket",
            "show all lines of the log": "v",
            "start of the log": "g",
            "end of the log": "G",
        }.items():
            rows.append(
                await loop_row(
                    f"100,000 steps: {what}",
                    pilot,
                    lambda keys=keys: pilot.press(*keys.split()),
                    100,
                )
            )
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ["PV_HOME"] = home
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        print(f"{os.cpu_count()} cores, load {psutil.getloadavg()[0]:.1f}; medians of {TURNS}\n")
        short = make_run("ada-1", 200)
        show([Row("start to first paint, list of runs", seconds_until("1 Runs"), "s", 0.7)])
        show([Row("start to first paint, a run", seconds_until("Overview", "ada-1"), "s", 0.7)])
        show(idle_rows("idle with a live run", short, 200))
        long = make_run("ada-2", STEPS)
        print(f"{long.events.stat().st_size / 1e6:.0f} MB of events")
        show(
            [
                Row(
                    "start until 100,000 steps are shown",
                    seconds_until("very end", "ada-2"),
                    "s",
                    1.5,
                )
            ]
        )
        show(asyncio.run(long_run_rows(long)))
        show(idle_rows("idle with 100,000 steps", long, STEPS))


if __name__ == "__main__":
    main()
