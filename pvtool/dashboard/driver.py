"""A Textual driver for slow links: it never waits for the terminal, and never takes its late answers for keys.

Textual's own writer makes the event loop wait once thirty writes are under way. Here whole frames are dropped instead
while the link stalls, and everything is painted anew once it is free.
"""

import os
import re
import selectors
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from time import monotonic
from typing import Any

from textual._xterm_parser import XTermParser
from textual.app import App
from textual.drivers.linux_driver import LinuxDriver

from pvtool.terminal import ANSWER, ATTRIBUTES, Terminal

_BEGIN_FRAME, _END_FRAME = "\x1b[?2026h", "\x1b[?2026l"  # Textual's marks of a synchronised update
_FRAME = re.compile(r"\x1b\[\d+;\d+H")  # all that Textual paints begins by placing the cursor

_PIECE = 4096
_STUCK_SECONDS = 0.3
_MOST_WAITING = 128 * 1024


class Writer(Thread):
    """Writes to the terminal in order; who hands something over never waits. Only frames may be lost."""

    def __init__(self, fileno: int, repaint: Callable[[], object]) -> None:
        super().__init__(daemon=True, name="pv-terminal")
        self._fileno = fileno
        self._repaint = repaint
        self._queue: deque[tuple[bytes, bool]] = deque()
        self._changed = Condition()
        self._waiting = 0
        self._moved_at: float | None = (
            None  # while something is being written: when the terminal last took some of it
        )
        self._dropped = False
        self._closing = False

    @property
    def stalled(self) -> bool:
        """Whether a frame handed over now would be lost."""
        stuck = self._moved_at is not None and monotonic() - self._moved_at > _STUCK_SECONDS
        return self._dropped or stuck or self._waiting > _MOST_WAITING

    def frame(self, text: str) -> None:
        """Paint this, or drop it and what else waits to be painted."""
        with self._changed:
            if self.stalled:
                self._drop_frames()
            else:
                self._put(text, is_frame=True)

    def control(self, text: str) -> None:
        """Write this in any case."""
        with self._changed:
            self._put(text, is_frame=False)

    def stop(self, patience: float) -> None:
        """Write what must be written, for as long as `patience` seconds, and end."""
        with self._changed:
            self._drop_frames()
            self._closing = True
            self._changed.notify()
        self.join(patience)

    def run(self) -> None:
        try:
            while (data := self._take()) is not None:
                self._send(data)
                self._repaint_if_due()
        except OSError:  # the terminal is gone: nothing can be shown any more
            with self._changed:
                self._closing = True

    def _put(self, text: str, is_frame: bool) -> None:
        data = text.encode("utf-8", "replace")
        self._queue.append((data, is_frame))
        self._waiting += len(data)
        self._changed.notify()

    def _drop_frames(self) -> None:
        kept = [(data, is_frame) for data, is_frame in self._queue if not is_frame]
        self._waiting -= sum(len(data) for data, _ in self._queue) - sum(
            len(data) for data, _ in kept
        )
        self._queue = deque(kept)
        self._dropped = True

    def _take(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            self._moved_at = monotonic()
            return self._queue.popleft()[0] if self._queue else None

    def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            written = os.write(self._fileno, left[:_PIECE])
            left = left[written:]
            with self._changed:
                self._waiting -= written
                self._moved_at = monotonic()

    def _repaint_if_due(self) -> None:
        with self._changed:
            self._moved_at = monotonic() if self._queue else None
            due = self._dropped and not self._queue and not self._closing
            self._dropped = self._dropped and not due
        if due:
            self._repaint()


class LateAnswers:
    """Takes a terminal's answers out of what comes from it, until the last one has come.

    What may be the beginning of an answer is held back: one that no key could have sent for as long as it takes, one
    that a key could have sent until `release`.
    """

    _BEGUN = re.compile(r"(\x1b_G[^\x1b]*|\x1bP[>01][^\x1b]*|\x1b\[\?[\d;]*|\x1b\[6;[\d;]*)\x1b?\Z")
    _DOUBTFUL = re.compile(r"\x1b([_P]|\[6?)?\Z")

    def __init__(self) -> None:
        self.awaited = True
        self._held = ""

    def filter(self, text: str) -> str:
        """What of it was typed."""
        text, self._held = self._held + text, ""
        if not self.awaited:
            return text
        self.awaited = not ATTRIBUTES.search(text)
        typed = ANSWER.sub("", text)
        if self.awaited and (begun := self._BEGUN.search(typed) or self._DOUBTFUL.search(typed)):
            typed, self._held = typed[: begun.start()], begun[0]
        return typed

    def release(self) -> str:
        """What was held back and is no answer, as nothing followed it."""
        if not self._DOUBTFUL.fullmatch(self._held):
            return ""
        typed, self._held = self._held, ""
        return typed


class PatientDriver(LinuxDriver):
    """Textual's driver with a writer that never makes the event loop wait."""

    answers_may_come = False
    patience_at_exit = (
        30.0  # as long as the link stalls nobody sees that it lasts; then the terminal is put right
    )

    def __init__(self, app: App[Any], **options: Any) -> None:
        super().__init__(app, **options)
        self._writer: Writer | None = None
        self._synchronised = False
        self._lent: dict[int, str] = {}

    @property
    def stalled(self) -> bool:
        """Whether what is painted now would be lost."""
        return self._writer is not None and self._writer.stalled

    def start_application_mode(self) -> None:
        assert self._file is not None, "there is no stderr to draw on"
        self._writer = Writer(self._file.fileno(), self._repaint)
        self._writer.start()
        super().start_application_mode()

    def write(self, data: str) -> None:
        assert self._writer is not None, "the application has not begun"
        if data in (_BEGIN_FRAME, _END_FRAME):
            self._synchronised = data == _BEGIN_FRAME
        elif _FRAME.match(data):
            self._writer.frame(f"{_BEGIN_FRAME}{data}{_END_FRAME}" if self._synchronised else data)
        else:
            self._writer.control(data)

    def lend(self, key: int, text: str, back: str) -> None:
        """Give the terminal something that it keeps, until `back` is written: at the latest before it is left."""
        self._lent[key] = back
        self.write(text)

    def take_back(self, key: int) -> None:
        if back := self._lent.pop(key, None):
            self.write(back)

    def stop_application_mode(self) -> None:
        for key in list(self._lent):
            self.take_back(key)
        super().stop_application_mode()

    def close(self) -> None:
        super().close()
        if self._writer is not None:
            self._writer.stop(self.patience_at_exit)

    def _repaint(self) -> None:
        self._app.call_later(self._app.refresh)

    def run_input_thread(self) -> None:
        if self.answers_may_come:
            self._read_keys_amid_answers()
        super().run_input_thread()

    def _read_keys_amid_answers(self) -> None:
        """Textual's loop over what comes from the terminal, without its answers, until the last one has come."""
        parser, answers = XTermParser(self._debug), LateAnswers()
        decode = getincrementaldecoder("utf-8")("replace").decode
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while answers.awaited and not self.exit_event.is_set():
                came = os.read(self.fileno, _PIECE) if selector.select(0.1) else None
                if came == b"":
                    return
                typed = answers.release() if came is None else answers.filter(decode(came))
                for event in (*(parser.feed(typed) if typed else ()), *parser.tick()):
                    self.process_message(event)


def patient_driver(terminal: Terminal) -> type[PatientDriver]:
    """The driver for `App(driver_class=…)`."""
    return type("PatientDriver", (PatientDriver,), {"answers_may_come": not terminal.answered})


def driver_of(app: App[Any]) -> PatientDriver | None:
    """The driver of a running application; None where it has another one, as under test."""
    driver = app._driver  # pyright: ignore[reportPrivateUsage] — Textual has no public name for it
    return driver if isinstance(driver, PatientDriver) else None
