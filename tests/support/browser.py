"""A headless Chromium, driven by its driver over the WebDriver protocol."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
MISSING = not (CHROMIUM and DRIVER)
ENTER, BACKSPACE = "\ue007", "\ue003"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Browser:
    """One window of the browser."""

    def __init__(self, address: str, downloads: Path) -> None:
        options = {
            "binary": CHROMIUM,
            # The sandbox and shared memory are often not available in containers.
            "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"],
            "prefs": {"download.default_directory": str(downloads)},
        }
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self._address = f"{address}/session"
        session = self._ask("", wanted)["sessionId"]
        self._address += f"/{session}"

    def _ask(self, path: str, body: dict[str, Any] | None = None, method: str = "") -> Any:
        request = urllib.request.Request(
            self._address + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method or None,
        )
        try:
            with _DIRECT.open(request, timeout=60) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def open(self, page: Path) -> None:
        self._ask("/url", {"url": page.as_uri()})

    def reload(self) -> None:
        self._ask("/refresh", {})

    def press(self, *keys: str) -> None:
        """Press and release keys, one after another."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def run(self, script: str) -> Any:
        """Run the body of a JavaScript function and return its result."""
        return self._ask("/execute/sync", {"script": script, "args": []})

    def until(self, condition: str, seconds: float = 60) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"timed out waiting for {condition}"
            time.sleep(0.02)

    def show_as(self, scheme: str, width: int, height: int) -> None:
        """Set the colour scheme, light or dark, and the size of the window."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        for command, parameters in (
            ("Emulation.setEmulatedMedia", {"features": [feature]}),
            ("Emulation.setDeviceMetricsOverride", size),
        ):
            self._ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def save_screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("/screenshot")))

    def close(self) -> None:
        self._ask("", method="DELETE")


@contextmanager
def browser(downloads: Path) -> Generator[Browser]:
    """Start a browser that saves files to `downloads`."""
    assert DRIVER
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}", "--silent"], stdout=subprocess.DEVNULL)
    try:
        _wait_for(port)
        window = Browser(f"http://127.0.0.1:{port}", downloads)
        yield window
        window.close()
    finally:
        driver.terminate()
        driver.wait()


def _wait_for(port: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < end, "the driver of the browser did not start"
            time.sleep(0.05)
