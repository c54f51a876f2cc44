"""Requests to web servers: http and https only, limited in time and size, without redirects."""

import http.client
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)
_LARGEST_ANSWER = 4 * 2**20  # bytes
_CHUNK = 2**16
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Answer:
    """The answer of a server, of any status."""

    status: int
    headers: Message
    content: bytes


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Redirect handler that returns redirects as answers: a key must not reach another host."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str):  # type: ignore[no-untyped-def]
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def is_web_address(address: str) -> bool:
    """Return whether `address` is a valid http or https address with a host."""
    try:
        parts = urllib.parse.urlsplit(address)
        port = parts.port
    except ValueError:
        return False
    is_plain = address.isascii() and address.isprintable() and " " not in address
    return is_plain and parts.scheme in {"http", "https"} and bool(parts.hostname) and port != 0


def is_unencrypted(address: str) -> bool:
    """Return whether requests to `address` leave this machine unencrypted."""
    parts = urllib.parse.urlsplit(address)
    return parts.scheme == "http" and parts.hostname not in _LOCAL_HOSTS


def post_json(
    address: str, value: Any, seconds: float, headers: Mapping[str, str] | None = None
) -> Answer:
    """Send a JSON object and return the answer; `seconds` limits the whole request.

    Raises TimeoutError, another of NETWORK_ERRORS, or ValueError for a longer answer than 4 MiB.
    """
    latest = time.monotonic() + seconds
    request = urllib.request.Request(  # noqa: S310 - callers check the address
        address,
        data=json.dumps(value).encode(),
        headers={"User-Agent": "pv", "Content-Type": "application/json", **(headers or {})},
        method="POST",
    )
    try:
        with _OPENER.open(request, timeout=seconds) as answer:
            return Answer(answer.status, answer.headers, _read(answer, latest))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, _read(error, latest))
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise error.reason from error
        raise


def _read(answer: Any, latest: float) -> bytes:
    """Return the content of an answer. Raises TimeoutError and ValueError."""
    content = bytearray()
    while chunk := answer.read1(_CHUNK):
        content += chunk
        if time.monotonic() > latest:
            raise TimeoutError("timed out")
        if len(content) > _LARGEST_ANSWER:
            raise ValueError(f"the answer is longer than {_LARGEST_ANSWER >> 20} MiB")
    length = answer.headers.get("Content-Length") or ""
    if length.isdecimal() and len(content) < int(length):
        raise http.client.IncompleteRead(bytes(content), int(length) - len(content))
    return bytes(content)


def host_of(address: str) -> str:
    """Return scheme, host and port of an address, without user name, password and path."""
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"


def describe_network_error(error: Exception) -> str:
    """Return the cause of one of NETWORK_ERRORS, without a full stop."""
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__).rstrip(".")
