"""Simulated terminal for tests: it answers with a delay, can stall, and records its output."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from codecs import getincrementaldecoder
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Self

import pyte

KITTY = {
    "\x1b_Gi=31": "\x1b_Gi=31;OK\x1b\\",
    "\x1b[>0q": "\x1bP>|kitty(0.42.1)\x1b\\",
    "\x1b[16t": "\x1b[6;18;9t",
    "\x1bP$qm": "\x1bP1$r0;48:2:1:2:3m\x1b\\",
    "\x1b[c": "\x1b[?62;c",
}
XTERM = {
    "\x1b[>0q": "\x1bP>|XTerm(390)\x1b\\",
    "\x1bP$qm": "\x1bP0$r\x1b\\",
    "\x1b[c": "\x1b[?64;1;2;4;22c",
}
_CONTROLLING = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"


def _environ(size: tuple[int, int]) -> dict[str, str]:
    """Return a minimal environment.

    The size is passed in variables because Textual asks stdout for it, which is not a terminal
    here.
    """
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "TERM": "xterm-256color", "COLUMNS": str(size[0]), "LINES": str(size[1])}


class SimulatedTerminal:
    """Python script running on a simulated terminal.

    `delay` is the time until the terminal answers queries, or None to never answer; `pixels` is the
    size that the kernel reports.
    """

    def __init__(
        self,
        script: str,
        *arguments: str,
        answers: Mapping[str, str] = KITTY,
        delay: float | None = 0.0,
        size: tuple[int, int] = (80, 24),
        environ: Mapping[str, str] | None = None,
        pixels: tuple[int, int] = (0, 0),
    ) -> None:
        self._screen = pyte.Screen(*size)
        self._answers, self._delay = dict(answers), delay
        self.reading = Event()
        self.reading.set()
        self.written = ""
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", size[1], size[0], *pixels))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CONTROLLING + script, *arguments],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=slave,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
            env={**_environ(size), **(environ or {})},
        )
        os.close(slave)
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reading.set()
        self._process.kill()
        self._process.wait()
        self._reader.join()
        os.close(self._master)

    @property
    def pid(self) -> int:
        return self._process.pid

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, pattern: str, seconds: float = 15.0) -> None:
        """Wait until the output matches a pattern."""
        deadline = monotonic() + seconds
        while not re.search(pattern, self.written):
            assert monotonic() < deadline, (
                f"{pattern!r} was not written; last output: {self.written[-500:]!r}"
            )
            sleep(0.02)

    def result(self, seconds: float = 20.0) -> str:
        """Return the stdout of the script after its end."""
        output, _ = self._process.communicate(timeout=seconds)
        assert self._process.returncode == 0, self.written[-2000:]
        return output.decode()

    def lines(self) -> list[str]:
        """Return the lines on the screen."""
        return list(self.screen().display)

    def screen(self) -> pyte.Screen:
        """Return the screen with styles.

        Control strings that pyte does not support, and would print, are removed.
        """
        self._screen.reset()
        text = re.sub(
            r"\x1b[_P][^\x1b]*\x1b\\|\x1b\[[<>=?]?[\d;]*(?:u|\$p|t|q)|\x1b\[>\d+q", "", self.written
        )
        pyte.Stream(self._screen).feed(text)
        return self._screen

    def _read(self) -> None:
        while self._process.poll() is None or select.select([self._master], [], [], 0.05)[0]:
            self.reading.wait()
            if not select.select([self._master], [], [], 0.05)[0]:
                continue
            try:
                self.written += self._decoder.decode(os.read(self._master, 65536))
            except OSError:
                return
            self._answer()

    def _answer(self) -> None:
        if self._delay is not None and "\x1b[c" in self.written and self._answers:
            answers = "".join(
                answer for question, answer in self._answers.items() if question in self.written
            )
            self._answers = {}
            Thread(target=self._answer_later, args=(self._delay, answers), daemon=True).start()

    def _answer_later(self, delay: float, answers: str) -> None:
        sleep(delay)
        self.type(answers)
