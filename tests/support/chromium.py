"""A headless Chromium, controlled by the DevTools protocol over pipes.

https://chromedevtools.github.io/devtools-protocol describes the commands.
"""

import base64
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
EXECUTABLE = next(filter(None, map(shutil.which, _NAMES)), None)
needs_browser = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium: install `chromium`")
_SECONDS = 60.0
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-quic", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
_FREE = 10  # first descriptor that is surely neither 3 nor 4
_NAMED: Mapping[str, Mapping[str, Any]] = {
    "Backspace": {"windowsVirtualKeyCode": 8},
    "Tab": {"windowsVirtualKeyCode": 9},
    "Enter": {"windowsVirtualKeyCode": 13, "text": "\r"},
    "Escape": {"windowsVirtualKeyCode": 27},
    "ArrowDown": {"windowsVirtualKeyCode": 40},
}
_CODES = {" ": "Space", ",": "Comma", ".": "Period", "?": "Slash"}


class Tab:
    """A page in Chromium.

    Attributes:
        complaints: Messages of the browser: exceptions, violations of a policy, failed requests.
    """

    def __init__(self, requests: int, answers: int) -> None:
        self.complaints: list[str] = []
        self._requests, self._answers, self._unread = requests, answers, b""
        self._number, self._session, self._loads = 0, "", 0

    def open(self, page: Path, width: int = 1200, height: int = 900, **media: str) -> None:
        """Open a file in a window of a size, with media features such as `prefers_color_scheme`."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", size)
        features = [
            {"name": name.replace("_", "-"), "value": value} for name, value in media.items()
        ]
        self.call("Emulation.setEmulatedMedia", {"features": features})
        self.call("Page.navigate", {"url": page.as_uri()})
        self.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")

    def reload(self) -> None:
        """Reload the page and wait until it is loaded."""
        loads = self._loads
        self.call("Page.reload")
        while self._loads == loads:
            self._record(self._receive())

    def download_to(self, folder: Path) -> None:
        """Save downloaded files to a folder, without asking."""
        behavior = {"behavior": "allow", "downloadPath": str(folder)}
        self.call("Browser.setDownloadBehavior", behavior)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; of a promise, once it is resolved."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", asked)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + _SECONDS
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"never true: {expression}"

    def press(self, *keys: str) -> None:
        """Press keys, one after another, which the focused element receives."""
        for key in keys:
            pressed: dict[str, Any] = {"key": key, "code": _CODES.get(key, key)}
            pressed |= _NAMED.get(key, {"text": key})
            self.call("Input.dispatchKeyEvent", {"type": "keyDown", **pressed})
            self.call("Input.dispatchKeyEvent", {"type": "keyUp", "key": key})

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write the window, or the whole page, as a PNG."""
        answer = self.call("Page.captureScreenshot", {"captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(answer["data"]))

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a command and return its result; events are recorded meanwhile."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params or {}}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._requests, json.dumps(command).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                return message["result"]
            self._record(message)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            more = os.read(self._answers, 1 << 20)
            assert more, "Chromium ended"
            self._unread += more
        raw, _, self._unread = self._unread.partition(b"\0")
        return json.loads(raw)

    def _record(self, event: Mapping[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("data:", "blob:", "file:")):
                self.complaints.append(f"request of {url}")


@contextmanager
def chromium(folder: Path) -> Generator[Tab]:
    """Start Chromium with a profile in `folder`, and end it."""
    assert EXECUTABLE
    theirs_in, requests = os.pipe()
    answers, theirs_out = os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FREE) for end in (theirs_in, theirs_out)]
    command = [EXECUTABLE, *_FLAGS, f"--user-data-dir={folder}"]
    with (folder.parent / "chromium.log").open("wb") as log:
        actions = [
            (os.POSIX_SPAWN_DUP2, end, number) for number, end in zip((3, 4), ends, strict=True)
        ]
        actions += [(os.POSIX_SPAWN_DUP2, log.fileno(), number) for number in (1, 2)]
        environment = {**os.environ, "HOME": str(folder)}
        process = os.posix_spawn(EXECUTABLE, command, environment, file_actions=actions)
    for end in (theirs_in, theirs_out, *ends):
        os.close(end)
    tab = Tab(requests, answers)
    try:
        yield tab
    finally:
        with suppress(AssertionError, OSError):
            tab.call("Browser.close")
        os.close(requests)
        os.close(answers)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
        os.waitpid(process, 0)
