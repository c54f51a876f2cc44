"""A link that stalls: the keys stay alive, frames are dropped, and the screen is right again once the link is."""

import json
import os
import pty
import select
import termios
from threading import Event
from time import monotonic, sleep
from typing import Any

import pytest

from pvtool.dashboard.driver import LateAnswers, Writer
from tests.support.terminal import PlayedTerminal

BUSY = """
import asyncio, json, sys, time
from pvtool.terminal import Pictures, Terminal, prepare
terminal = Terminal(Pictures.BLOCKS, False, "truecolor")
prepare(terminal)
from textual.app import App
from textual.widgets import Static
from pvtool.dashboard.driver import patient_driver

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
Driver = patient_driver(terminal)
Driver.patience_at_exit = float(sys.argv[1]) if sys.argv[1:] else Driver.patience_at_exit
print(json.dumps(Busy(driver_class=Driver).run()))
"""


def stall(terminal: PlayedTerminal, keys: str, seconds: float) -> None:
    terminal.reading.clear()
    for key in keys:
        sleep(seconds / len(keys))
        terminal.type(key)


def test_keys_are_heard_while_the_link_stalls_and_the_screen_is_right_afterwards() -> None:
    with PlayedTerminal(BUSY) as terminal:
        terminal.wait_for("tick 9")
        stall(terminal, "kkkkk", 3.0)
        terminal.reading.set()
        terminal.wait_for("presses 5")
        sleep(1.0)
        terminal.type("q")
        said = json.loads(terminal.said())
        painted, left, after = terminal.written.partition("\x1b[?1049l")
        terminal.written = painted
        screen = terminal.lines()
        assert said["presses"] == 5 and said["ticks"] > 60
        assert said["lag"] < 0.25
        assert screen[0].startswith("presses 5 tick")
        letters = {line.rstrip() for line in screen[1:21]}
        assert len(letters) == 1 and len(letters.pop()) == 78
        assert left and "\x1b[?25h" in after and len(painted) < 2000 * said["ticks"] * 0.7


def test_leaving_while_the_link_stalls_waits_for_it_and_puts_the_terminal_right() -> None:
    with PlayedTerminal(BUSY) as terminal:
        terminal.wait_for("tick 9")
        stall(terminal, "kq", 1.0)
        sleep(1.0)
        terminal.reading.set()
        assert json.loads(terminal.said())["presses"] == 1
        for restoring in ("\x1b[?1049l", "\x1b[?25h", "\x1b[?1003l", "\x1b[?2004l", "\x1b[?7h"):
            assert restoring in terminal.written


def test_a_link_that_never_comes_back_does_not_keep_the_application_for_ever() -> None:
    with PlayedTerminal(BUSY, "1.0") as terminal:
        terminal.wait_for("tick 9")
        stall(terminal, "kq", 1.0)
        started = monotonic()
        assert json.loads(terminal.said())["presses"] == 1
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


def test_what_is_no_frame_arrives_whole_and_in_order_after_any_stall(
    terminal_pair: tuple[int, int],
) -> None:
    master, slave = terminal_pair
    repainted = Event()
    writer = Writer(slave, repainted.set)
    writer.start()
    for number in range(300):
        writer.control(f"<{number}>")
        writer.frame("frame " * 1000)
    assert writer.stalled
    received = b""
    while not repainted.is_set() or b"<299>" not in received or writer.stalled:
        if select.select([master], [], [], 0.05)[0]:
            received += os.read(master, 65536)
    writer.stop(1.0)
    kept = [f"<{number}>" for number in range(300)]
    positions = [received.decode().index(mark) for mark in kept]
    assert positions == sorted(positions)
    assert received.count(b"frame ") % 1000 == 0 and received.count(b"frame ") < 100_000


def test_answers_are_taken_out_however_they_are_cut() -> None:
    said = "x\x1b_Gi=31;OK\x1b\\y\x1bP>|XTerm(390)\x1b\\\x1b[6;18;9tz\x1bP1$r0;48:2:1:2:3m\x1b\\\x1b[?62;4cw"
    for cut in range(len(said)):
        answers = LateAnswers()
        assert answers.filter(said[:cut]) + answers.filter(said[cut:]) == "xyzw"
        assert not answers.awaited


def test_keys_that_begin_like_an_answer_are_only_held_until_nothing_follows() -> None:
    answers = LateAnswers()
    assert answers.filter("\x1b") == "" and answers.release() == "\x1b"
    assert answers.filter("\x1b[A") == "\x1b[A"
    assert answers.filter("\x1b[<35;10;5M") == "\x1b[<35;10;5M"
    assert answers.filter("\x1b[?2026;2$y") == "\x1b[?2026;2$y"
    assert answers.filter("\x1bP>|XTe") == "" and answers.release() == ""
    assert answers.filter("rm(1)\x1b\\\x1b[?62c\x1b") == "\x1b"
