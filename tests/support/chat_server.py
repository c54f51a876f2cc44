"""A local server that speaks the chat completions of OpenAI's API, with scripted answers."""

import json
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Scripted:
    """An answer. With `promised` bytes in its header, the connection ends too early."""

    content: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    promised: int = 0


@dataclass
class ChatServer:
    """Answers in their order, the last one for all further requests; and recorded requests."""

    endpoint: str = ""
    answers: list[Scripted] = field(default_factory=list[Scripted])
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    keys: list[str] = field(default_factory=list[str])
    released: threading.Event = field(default_factory=threading.Event)  # until then, `hangs`
    hangs: bool = False


def completion(text: str, finish: str = "stop") -> Scripted:
    """Return an answer with the reply of a model."""
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return Scripted(json.dumps({"object": "chat.completion", "choices": choices}).encode())


def refusal(status: int, message: str = "", **headers: str) -> Scripted:
    """Return an answer with an error."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Scripted(json.dumps({"error": {"message": message}}).encode(), status, named)


def described(prompt: str, motion: str, appearance: str, background: str) -> dict[str, str]:
    return {
        "prompt": prompt,
        "motion": motion,
        "appearance": appearance,
        "background": background,
    }


def prompts_reply(prompts: Sequence[dict[str, str]], around: str = "{}") -> Scripted:
    """Return a completion with prompts as JSON, within the text `around`."""
    return completion(around.replace("{}", json.dumps({"prompts": prompts})))


@contextmanager
def serve_chat() -> Generator[ChatServer]:
    """Run a server while the block runs."""
    chat = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            chat.requests.append({"path": self.path, **json.loads(body)})
            chat.keys.append(self.headers.get("Authorization", ""))
            if chat.hangs:
                chat.released.wait(30)
            if not self.path.startswith("/v1/chat/completions"):
                return self.answer(Scripted(b"not found", 404))
            answers = chat.answers
            return self.answer(answers.pop(0) if len(answers) > 1 else answers[0])

        def answer(self, scripted: Scripted) -> None:
            self.send_response(scripted.status)
            for name, value in scripted.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(scripted.promised or len(scripted.content)))
            self.end_headers()
            self.wfile.write(scripted.content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    chat.endpoint = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield chat
    finally:
        chat.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
