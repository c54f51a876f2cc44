"""A local hub: repositories and plain addresses, with Range requests and faults."""

import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "c0ffee" * 6


@dataclass
class Hub:
    """State of the hub.

    `repositories` maps org/repo to files, `files` plain paths to bytes. Other fields are faults,
    and recorded requests.
    """

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    licence: str = "mit"
    cut_after: list[int] = field(
        default_factory=list[int]
    )  # bytes of the next answers, after which the connection ends
    wrong: set[str] = field(default_factory=set[str])  # names of files with a changed last byte
    refusals: dict[str, int] = field(default_factory=dict[str, int])  # path and status
    redirects: dict[str, str] = field(default_factory=dict[str, str])  # path and address
    knows_ranges: bool = True
    slow: float = 0.0  # seconds between chunks of 64 KiB
    asked: list[tuple[str, str]] = field(
        default_factory=list[tuple[str, str]]
    )  # path and Range of each request for a file
    tokens: set[str] = field(default_factory=set[str])

    def fetched(self) -> list[str]:
        """Return the last part of the path of each requested file."""
        return [path.rsplit("/", 1)[-1] for path, _ in self.asked]

    def content(self, path: str) -> bytes | None:
        for name, files in self.repositories.items():
            prefix = f"/{name}/resolve/{COMMIT}/"
            if path.startswith(prefix):
                return files.get(path.removeprefix(prefix))
        return self.files.get(path)

    def listing(self, path: str) -> dict[str, Any] | None:
        name = path.removeprefix("/api/models/").partition("/revision/")[0]
        if name not in self.repositories:
            return None
        siblings = [_sibling(file, content) for file, content in self.repositories[name].items()]
        return {"sha": COMMIT, "siblings": siblings, "tags": [f"license:{self.licence}"]}


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    """Return the hub's entry of a file: large files have a sha256, small ones a git hash."""
    about = {"rfilename": name, "size": len(content)}
    if name.endswith(".json"):
        return {**about, "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
    return {
        **about,
        "blobId": "0" * 40,
        "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)},
    }


@contextmanager
def serve() -> Generator[Hub]:
    """Run a hub while the block runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            hub.tokens.add(self.headers.get("Authorization", ""))
            if path in hub.redirects:
                self.send_response(302)
                self.send_header("Location", hub.redirects[path])
                self.send_header("Content-Length", "0")
                return self.end_headers()
            if path in hub.refusals:
                return self.answer(hub.refusals[path], b"")
            if path.startswith("/api/models/"):
                listing = hub.listing(path)
                return self.answer(200 if listing else 404, json.dumps(listing).encode())
            return self.file(path)

        def file(self, path: str) -> None:
            content = hub.content(path)
            wanted = self.headers.get("Range", "")
            hub.asked.append((path, wanted))
            if content is None:
                return self.answer(404, b"")
            if path.rsplit("/", 1)[-1] in hub.wrong:
                content = content[:-1] + bytes([content[-1] ^ 1])
            if wanted and hub.knows_ranges:
                return self.answer(
                    206, content[int(wanted.removeprefix("bytes=").removesuffix("-")) :]
                )
            return self.answer(200, content)

        def answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            is_file = status in {200, 206} and not self.path.startswith("/api/")
            cut = hub.cut_after.pop(0) if is_file and hub.cut_after else len(content)
            for start in range(0, cut, 2**16):
                self.wfile.write(content[start : min(cut, start + 2**16)])
                if hub.slow:
                    threading.Event().wait(hub.slow)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
