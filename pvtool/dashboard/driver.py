"""Textual driver for slow links: writes never block, late terminal replies are not read as keys.

Textual's own writer blocks the event loop once thirty writes are queued. This driver drops whole
frames while the link stalls and repaints the screen once it recovers. It also draws the pictures of
terminals without placeholders.
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

from pvtool.dashboard.images.cell_pictures import CellPicture, replace_placeholders
from pvtool.terminal import DEVICE_ATTRIBUTES, REPLY, Pictures, Terminal

# Textual's markers of a synchronised update, and the start of a frame: a cursor movement.
_BEGIN_FRAME, _END_FRAME = "\x1b[?2026h", "\x1b[?2026l"
_FRAME = re.compile(r"\x1b\[\d+;\d+H")

_CHUNK = 4096
_STALL_SECONDS = 0.3
_MAX_PENDING_BYTES = 128 * 1024
# Pictures are part of frames: one that is still on its way must not make the next frame drop.
_MAX_PENDING_BYTES_WITH_PICTURES = 2 * 1024 * 1024


class Writer(Thread):
    """Thread that writes to the terminal in order without blocking callers.

    Only frames may be dropped.
    """

    def __init__(
        self,
        fileno: int,
        repaint: Callable[[], object],
        max_pending_bytes: int = _MAX_PENDING_BYTES,
    ) -> None:
        super().__init__(daemon=True, name="pv-terminal")
        self._max_pending_bytes = max_pending_bytes
        self._fileno = fileno
        self._repaint = repaint
        self._queue: deque[tuple[bytes, bool]] = deque()
        self._changed = Condition()
        self._pending_bytes = 0
        # Time of the last successful write while data is pending, otherwise None.
        self._progress_at: float | None = None
        self._dropped = False
        self._closing = False

    @property
    def stalled(self) -> bool:
        """Return whether a frame written now would be dropped."""
        blocked = self._progress_at is not None and monotonic() - self._progress_at > _STALL_SECONDS
        return self._dropped or blocked or self._pending_bytes > self._max_pending_bytes

    def write_frame(self, text: str) -> None:
        """Queue a frame; if the link stalls, drop it and all queued frames."""
        with self._changed:
            if self.stalled:
                self._drop_frames()
            else:
                self._enqueue(text, is_frame=True)

    def write_control(self, text: str) -> None:
        """Queue a control sequence, which is never dropped."""
        with self._changed:
            self._enqueue(text, is_frame=False)

    def stop(self, timeout: float) -> None:
        """Write the queued control sequences, for at most `timeout` seconds, and end the thread."""
        with self._changed:
            self._drop_frames()
            self._closing = True
            self._changed.notify()
        self.join(timeout)

    def run(self) -> None:
        try:
            while (data := self._dequeue()) is not None:
                self._write(data)
                self._repaint_if_due()
        except OSError:  # the terminal was closed
            with self._changed:
                self._closing = True

    def _enqueue(self, text: str, is_frame: bool) -> None:
        data = text.encode("utf-8", "replace")
        self._queue.append((data, is_frame))
        self._pending_bytes += len(data)
        self._changed.notify()

    def _drop_frames(self) -> None:
        self._pending_bytes -= sum(len(data) for data, is_frame in self._queue if is_frame)
        self._queue = deque(entry for entry in self._queue if not entry[1])
        self._dropped = True

    def _dequeue(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            self._progress_at = monotonic()
            return self._queue.popleft()[0] if self._queue else None

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            written = os.write(self._fileno, left[:_CHUNK])
            left = left[written:]
            with self._changed:
                self._pending_bytes -= written
                self._progress_at = monotonic()

    def _repaint_if_due(self) -> None:
        with self._changed:
            self._progress_at = monotonic() if self._queue else None
            due = self._dropped and not self._queue and not self._closing
            self._dropped = self._dropped and not due
        if due:
            self._repaint()


class ReplyFilter:
    """Filter that removes the terminal's replies to `probe` from the input, until the last one.

    A partial reply is held back: until it is complete if no key produces these characters,
    otherwise until `release` is called.
    """

    _PARTIAL_REPLY = re.compile(
        r"(\x1b_G[^\x1b]*|\x1bP[>01][^\x1b]*|\x1b\[\?[\d;]*|\x1b\[6;[\d;]*)\x1b?\Z"
    )
    _PARTIAL_REPLY_OR_KEY = re.compile(r"\x1b([_P]|\[6?)?\Z")

    def __init__(self) -> None:
        self.pending = True
        self._held = ""

    def filter(self, text: str) -> str:
        """Return the part of the input that was typed."""
        text, self._held = self._held + text, ""
        if not self.pending:
            return text
        self.pending = not DEVICE_ATTRIBUTES.search(text)
        typed = REPLY.sub("", text)
        if self.pending and (
            partial := self._PARTIAL_REPLY.search(typed) or self._PARTIAL_REPLY_OR_KEY.search(typed)
        ):
            typed, self._held = typed[: partial.start()], partial[0]
        return typed

    def release(self) -> str:
        """Return input that was held back but turned out to be a key, as nothing followed it."""
        if not self._PARTIAL_REPLY_OR_KEY.fullmatch(self._held):
            return ""
        typed, self._held = self._held, ""
        return typed


class NonBlockingDriver(LinuxDriver):
    """Textual driver that writes in a separate thread."""

    replies_pending = False
    draws_pictures = False
    # Seconds to wait for a stalled link at exit, so that the terminal's modes are restored.
    exit_timeout = 30.0

    def __init__(self, app: App[Any], **options: Any) -> None:
        super().__init__(app, **options)
        self._writer: Writer | None = None
        self._in_synchronised_update = False
        self._cleanups: dict[int, str] = {}
        self._pictures: dict[int, CellPicture] = {}

    @property
    def stalled(self) -> bool:
        """Return whether a frame painted now would be dropped."""
        return self._writer is not None and self._writer.stalled

    def start_application_mode(self) -> None:
        assert self._file is not None, "stderr is not available"
        limit = _MAX_PENDING_BYTES_WITH_PICTURES if self.draws_pictures else _MAX_PENDING_BYTES
        self._writer = Writer(self._file.fileno(), self._repaint, limit)
        self._writer.start()
        super().start_application_mode()

    def write(self, data: str) -> None:
        assert self._writer is not None, "the application is not running"
        if data in (_BEGIN_FRAME, _END_FRAME):
            self._in_synchronised_update = data == _BEGIN_FRAME
        elif _FRAME.match(data):
            if self.draws_pictures:
                data = replace_placeholders(data, self._pictures, self._app.size.height)
            self._writer.write_frame(
                f"{_BEGIN_FRAME}{data}{_END_FRAME}" if self._in_synchronised_update else data
            )
        else:
            self._writer.write_control(data)

    def write_resource(self, key: int, text: str, cleanup: str) -> None:
        """Write text that allocates a resource in the terminal.

        `cleanup` is written by `free_resource`, at the latest when the dashboard exits.
        """
        self._cleanups[key] = cleanup
        self.write(text)

    def add_picture(self, picture: CellPicture) -> None:
        """Draw the placeholders of this picture, until `free_resource` is called with its id."""
        self._pictures[picture.image_id] = picture

    def free_resource(self, key: int) -> None:
        """Forget a picture, or write the cleanup text of a resource, if it was allocated."""
        self._pictures.pop(key, None)
        if cleanup := self._cleanups.pop(key, None):
            self.write(cleanup)

    def stop_application_mode(self) -> None:
        for key in list(self._cleanups):
            self.free_resource(key)
        super().stop_application_mode()

    def close(self) -> None:
        super().close()
        if self._writer is not None:
            self._writer.stop(self.exit_timeout)

    def _repaint(self) -> None:
        self._app.call_later(self._app.refresh)

    def run_input_thread(self) -> None:
        if self.replies_pending:
            self._read_keys_among_replies()
        super().run_input_thread()

    def _read_keys_among_replies(self) -> None:
        """Run Textual's input loop without the terminal's replies, until the last reply."""
        parser, replies = XTermParser(self._debug), ReplyFilter()
        decode = getincrementaldecoder("utf-8")("replace").decode
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while replies.pending and not self.exit_event.is_set():
                data = os.read(self.fileno, _CHUNK) if selector.select(0.1) else None
                if data == b"":
                    return
                typed = replies.release() if data is None else replies.filter(decode(data))
                for event in (*(parser.feed(typed) if typed else ()), *parser.tick()):
                    self.process_message(event)


def make_driver_class(terminal: Terminal) -> type[NonBlockingDriver]:
    """Return a driver class for `App(driver_class=…)`."""
    attributes = {
        "replies_pending": not terminal.replied,
        "draws_pictures": terminal.pictures in (Pictures.ITERM2, Pictures.SIXEL),
    }
    return type("NonBlockingDriver", (NonBlockingDriver,), attributes)


def driver_of(app: App[Any]) -> NonBlockingDriver | None:
    """Return the driver of a running application; None if it has another driver, as in tests."""
    driver = app._driver  # pyright: ignore[reportPrivateUsage] — Textual has no public name for it
    return driver if isinstance(driver, NonBlockingDriver) else None
