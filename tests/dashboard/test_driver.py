"""Driver on a stalled link: keys are handled, frames are dropped, and the screen recovers."""

import json
import os
import pty
import select
import termios
from threading import Event
from time import monotonic, sleep
from typing import Any

import pytest

from pvtool.dashboard.driver import ReplyFilter, Writer
from tests.support.terminal import SimulatedTerminal

BUSY = """
import asyncio, json, sys, time
from pvtool.terminal import Pictures, Terminal, prepare
terminal = Terminal(Pictures.BLOCKS, False, "truecolor")
prepare(terminal)
from textual.app import App
from textual.widgets import Static
from pvtool.dashboard.driver import make_driver_class

class Busy(App):
    BINDINGS = [("k", "press", "Press"), ("q", "quit", "End")]
    presses, ticks, lag = 0, 0, 0.0
    def compose(self):
        yield Static(id="head")
        yield Static(id="body")
    def on_mount(self):
        self.set_interval(1 / 30, self.tick)
        self.run_worker(self.watch_lag())
    async def watch_lag(self):
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            self.lag = max(self.lag, time.monotonic() - before - 0.01)
    def tick(self):
        self.ticks += 1
        line = chr(ord("a") + self.ticks % 26) * 78
        self.query_one("#head", Static).update(f"presses {self.presses} tick {self.ticks}")
        self.query_one("#body", Static).update("\\n".join(line for _ in range(20)))
    def action_press(self):
        self.presses += 1
        if self.presses == 1:
            self.lag = 0.0
    def action_quit(self):
        self.exit({"presses": self.presses, "ticks": self.ticks, "lag": self.lag})
Driver = make_driver_class(terminal)
Driver.exit_timeout = float(sys.argv[1]) if sys.argv[1:] else Driver.exit_timeout
print(json.dumps(Busy(driver_class=Driver).run()))
"""


def stall(terminal: SimulatedTerminal, keys: str, seconds: float) -> None:
    terminal.reading.clear()
    for key in keys:
        sleep(seconds / len(keys))
        terminal.type(key)


def test_keys_work_on_a_stalled_link_and_the_screen_recovers() -> None:
    with SimulatedTerminal(BUSY) as terminal:
        terminal.wait_for("tick 9")
        stall(terminal, "kkkkk", 3.0)
        terminal.reading.set()
        terminal.wait_for("presses 5")
        sleep(1.0)
        terminal.type("q")
        result = json.loads(terminal.result())
        painted, left, after = terminal.written.partition("\x1b[?1049l")
        terminal.written = painted
        screen = terminal.lines()
        assert result["presses"] == 5 and result["ticks"] > 60
        assert result["lag"] < 0.25
        assert screen[0].startswith("presses 5 tick")
        letters = {line.rstrip() for line in screen[1:21]}
        assert len(letters) == 1 and len(letters.pop()) == 78
        assert left and "\x1b[?25h" in after and len(painted) < 2000 * result["ticks"] * 0.7


def test_exit_on_a_stalled_link_waits_and_restores_the_terminal() -> None:
    with SimulatedTerminal(BUSY) as terminal:
        terminal.wait_for("tick 9")
        stall(terminal, "kq", 1.0)
        sleep(1.0)
        terminal.reading.set()
        assert json.loads(terminal.result())["presses"] == 1
        for restoring in ("\x1b[?1049l", "\x1b[?25h", "\x1b[?1003l", "\x1b[?2004l", "\x1b[?7h"):
            assert restoring in terminal.written


def test_exit_on_a_dead_link_times_out() -> None:
    with SimulatedTerminal(BUSY, "1.0") as terminal:
        terminal.wait_for("tick 9")
        stall(terminal, "kq", 1.0)
        started = monotonic()
        assert json.loads(terminal.result())["presses"] == 1
        assert monotonic() - started < 5


@pytest.fixture
def terminal_pair() -> Any:
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    yield master, slave
    os.close(master)
    os.close(slave)


def test_control_sequences_arrive_complete_and_in_order_after_a_stall(
    terminal_pair: tuple[int, int],
) -> None:
    master, slave = terminal_pair
    repainted = Event()
    writer = Writer(slave, repainted.set)
    writer.start()
    for number in range(300):
        writer.write_control(f"<{number}>")
        writer.write_frame("frame " * 1000)
    assert writer.stalled
    received = b""
    while not repainted.is_set() or b"<299>" not in received or writer.stalled:
        if select.select([master], [], [], 0.05)[0]:
            received += os.read(master, 65536)
    writer.stop(1.0)
    controls = [f"<{number}>" for number in range(300)]
    positions = [received.decode().index(mark) for mark in controls]
    assert positions == sorted(positions)
    assert received.count(b"frame ") % 1000 == 0 and received.count(b"frame ") < 100_000


def test_frame_after_a_large_picture_is_not_dropped(terminal_pair: tuple[int, int]) -> None:
    master, slave = terminal_pair
    writer = Writer(slave, lambda: None, max_pending_bytes=1 << 20)
    writer.write_frame("picture " * 50_000)
    writer.write_frame("next")
    writer.start()
    received = b""
    while not received.endswith(b"next"):
        assert select.select([master], [], [], 20)[0]
        received += os.read(master, 65536)
    writer.stop(5.0)
    assert len(received) == 8 * 50_000 + 4


def test_replies_are_removed_wherever_they_are_split() -> None:
    received = (
        "x\x1b_Gi=31;OK\x1b\\y\x1bP>|XTerm(390)\x1b\\"
        "\x1b[6;18;9tz\x1bP1$r0;48:2:1:2:3m\x1b\\\x1b[?1;0;256S\x1b[?62;4cw"
    )
    for cut in range(len(received)):
        replies = ReplyFilter()
        assert replies.filter(received[:cut]) + replies.filter(received[cut:]) == "xyzw"
        assert not replies.pending


def test_keys_that_start_like_a_reply_are_held_until_released() -> None:
    replies = ReplyFilter()
    assert replies.filter("\x1b") == "" and replies.release() == "\x1b"
    assert replies.filter("\x1b[A") == "\x1b[A"
    assert replies.filter("\x1b[<35;10;5M") == "\x1b[<35;10;5M"
    assert replies.filter("\x1b[?2026;2$y") == "\x1b[?2026;2$y"
    assert replies.filter("\x1bP>|XTe") == "" and replies.release() == ""
    assert replies.filter("rm(1)\x1b\\\x1b[?62c\x1b") == "\x1b"
